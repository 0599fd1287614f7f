// Command generate writes to stdout what a mount's storage holds after many opaque
// tokens were issued, for measurements that would else take hours to prepare. The
// engine itself issues them, so that what is written is what it would store.
//
// Each line is a JSON object: a storage entry has key and value; a line with a
// token is one of the tokens, to ask for.
package main

import (
	"bufio"
	"context"
	"crypto/rand"
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/hashicorp/vault/sdk/logical"

	"github.com/vault-tokens/vault-plugin-secrets-tokens/backend"
	"github.com/vault-tokens/vault-plugin-secrets-tokens/backend/config"
	"github.com/vault-tokens/vault-plugin-secrets-tokens/backend/role"
	"github.com/vault-tokens/vault-plugin-secrets-tokens/backend/template"
	"github.com/vault-tokens/vault-plugin-secrets-tokens/backend/token"
)

type settings struct {
	tokens, maxTokens, shown int
	role, tokenType, issuer  string
}

func main() {
	var s settings
	flag.IntVar(&s.tokens, "n", 1000, "how many tokens")
	flag.StringVar(&s.role, "role", "load", "name of their role")
	flag.StringVar(&s.tokenType, "type", string(role.Bearer), "token_type of the role: api_key or bearer")
	flag.IntVar(&s.maxTokens, "max-tokens", 0, "max_tokens of the role; 0: no cap")
	flag.StringVar(&s.issuer, "issuer", "https://vault.example.com/v1/tokens", "issuer of the mount")
	flag.IntVar(&s.shown, "shown", 1000, "of how many tokens to write the token itself")
	flag.Parse()
	out := bufio.NewWriterSize(os.Stdout, 1<<20)
	err := generate(context.Background(), s, json.NewEncoder(out))
	if err == nil {
		err = out.Flush()
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "generate:", err)
		os.Exit(1)
	}
}

// life of the tokens: longer than any measurement, within Vault's default maximum.
const life = 30 * 24 * time.Hour

func generate(ctx context.Context, s settings, out *json.Encoder) error {
	storage := &stream{out: out}
	system := logical.StaticSystemView{DefaultLeaseTTLVal: life, MaxLeaseTTLVal: life}
	engine := backend.NewEngine(system, time.Now, bufio.NewReader(rand.Reader))
	if err := prepare(ctx, engine, storage, s); err != nil {
		return err
	}
	every := max(1, s.tokens/max(1, s.shown))
	for i := range s.tokens {
		issued, err := engine.Tokens.Issue(ctx, storage, token.Request{Role: s.role, Caller: template.Caller{DisplayName: "load"}})
		if err != nil {
			return err
		}
		if s.shown > 0 && i%every == 0 {
			if err := out.Encode(line{Token: issued.Token.Reveal()}); err != nil {
				return err
			}
		}
	}
	return storage.rest(ctx)
}

func prepare(ctx context.Context, engine *backend.Engine, storage logical.Storage, s settings) error {
	if _, _, err := engine.Config.Change(ctx, storage, func(c *config.Config) { c.Issuer = s.issuer }); err != nil {
		return err
	}
	_, err := engine.ChangeRole(ctx, storage, s.role,
		func() (*role.Role, error) { return role.New(s.role, role.TokenType(s.tokenType)), nil },
		func(r *role.Role, _ bool) error {
			r.TTL, r.MaxTTL, r.MaxTokens, r.GenerateLease = life, life, s.maxTokens, false
			r.AllowedScopes, r.DefaultScopes = []string{"orders:*"}, []string{"orders:read"}
			return nil
		})
	return err
}

type line struct {
	Key   string `json:"key,omitempty"`
	Value string `json:"value,omitempty"`
	Token string `json:"token,omitempty"`
}

// stream is a storage that writes out at once, and does not keep, what there is one
// of for each token: nothing reads that again. What is changed as tokens are
// issued, as a status list, is kept until rest.
type stream struct {
	logical.InmemStorage
	out *json.Encoder
}

// Put implements logical.Storage.
func (s *stream) Put(ctx context.Context, entry *logical.StorageEntry) error {
	if strings.HasPrefix(entry.Key, "token/") || strings.HasPrefix(entry.Key, "cap/") {
		return s.out.Encode(line{Key: entry.Key, Value: string(entry.Value)})
	}
	return s.InmemStorage.Put(ctx, entry)
}

// rest writes out what was kept.
func (s *stream) rest(ctx context.Context) error {
	keys, err := logical.CollectKeys(ctx, s)
	if err != nil {
		return err
	}
	for _, key := range keys {
		entry, err := s.Get(ctx, key)
		if err != nil {
			return err
		}
		if err := s.out.Encode(line{Key: key, Value: string(entry.Value)}); err != nil {
			return err
		}
	}
	return nil
}
