package main

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/json"
	"testing"
	"time"

	"github.com/hashicorp/vault/sdk/logical"

	"github.com/vault-tokens/vault-plugin-secrets-tokens/backend"
	"github.com/vault-tokens/vault-plugin-secrets-tokens/backend/template"
	"github.com/vault-tokens/vault-plugin-secrets-tokens/backend/token"
	"github.com/vault-tokens/vault-plugin-secrets-tokens/verify/format"
)

// Another engine finds the tokens in what was written, and counts them.
func TestGenerate(t *testing.T) {
	const tokens, shown = 50, 10
	ctx := context.Background()
	var out bytes.Buffer
	s := settings{tokens: tokens, maxTokens: tokens, shown: shown, role: "load", tokenType: "api_key", issuer: "https://vault.example.com/v1/tokens"}
	if err := generate(ctx, s, json.NewEncoder(&out)); err != nil {
		t.Fatal(err)
	}
	storage := &logical.InmemStorage{}
	var presented []string
	for decoder := json.NewDecoder(&out); decoder.More(); {
		var l line
		if err := decoder.Decode(&l); err != nil {
			t.Fatal(err)
		}
		if l.Token != "" {
			presented = append(presented, l.Token)
		} else if err := storage.Put(ctx, &logical.StorageEntry{Key: l.Key, Value: []byte(l.Value)}); err != nil {
			t.Fatal(err)
		}
	}
	if len(presented) != shown {
		t.Errorf("%d tokens are shown, want %d", len(presented), shown)
	}
	system := logical.StaticSystemView{DefaultLeaseTTLVal: life, MaxLeaseTTLVal: life}
	engine := backend.NewEngine(system, time.Now, rand.Reader)
	for _, presented := range presented {
		answer, err := engine.Tokens.Introspect(ctx, storage, token.Introspection{Token: format.Secret(presented)})
		if err != nil || !answer.Active {
			t.Errorf("a token that was written is not active: %v", err)
		}
	}
	page, err := engine.Tokens.List(ctx, storage, "", 2*tokens, token.Filter{})
	if err != nil || len(page.Tokens) != tokens || page.Next != "" {
		t.Errorf("listed are %+v, want %d tokens: %v", page, tokens, err)
	}
	if _, err := engine.Tokens.Issue(ctx, storage, token.Request{Role: "load", Caller: template.Caller{DisplayName: "one more"}}); err == nil {
		t.Error("max_tokens were written, and one more was issued")
	}
}
