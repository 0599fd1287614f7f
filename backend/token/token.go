// Package token issues, renews, verifies and revokes tokens of every kind.
package token

import (
	"context"
	"crypto/sha256"
	"io"
	"slices"
	"strings"
	"time"

	lru "github.com/hashicorp/golang-lru/v2"
	"github.com/hashicorp/vault/sdk/logical"

	"github.com/vault-tokens/vault-plugin-secrets-tokens/backend/config"
	"github.com/vault-tokens/vault-plugin-secrets-tokens/backend/keyring"
	"github.com/vault-tokens/vault-plugin-secrets-tokens/backend/role"
	"github.com/vault-tokens/vault-plugin-secrets-tokens/backend/statuslist"
	"github.com/vault-tokens/vault-plugin-secrets-tokens/verify/format"
)

// cachedSignatures bounds the verified JWTs in memory; one takes about 1 KiB, at
// most some 20.
const cachedSignatures = 1 << 14

// Tokens is all tokens of a mount.
type Tokens struct {
	config *config.Store
	roles  *role.Store
	keys   *keyring.Keyring
	lists  *statuslist.Lists
	system logical.SystemView
	clock  func() time.Time
	random io.Reader

	records    *records
	signatures *lru.Cache[[sha256.Size]byte, signature] // good ones, by the JWT's hash
}

// Dependencies are the neighbours that tokens are made with.
type Dependencies struct {
	Config *config.Store
	Roles  *role.Store
	Keys   *keyring.Keyring
	Lists  *statuslist.Lists
	System logical.SystemView
	Clock  func() time.Time // decides what has expired
	Random io.Reader        // source of ids and secrets
}

// New returns the tokens of a mount.
func New(d Dependencies) *Tokens {
	signatures, err := lru.New[[sha256.Size]byte, signature](cachedSignatures)
	if err != nil {
		panic(err) // a size below one is a mistake in the program
	}
	return &Tokens{
		config:     d.Config,
		roles:      d.Roles,
		keys:       d.Keys,
		lists:      d.Lists,
		system:     d.System,
		clock:      d.Clock,
		random:     d.Random,
		records:    newRecords(d.Clock),
		signatures: signatures,
	}
}

// Invalidate drops what is cached of a storage key that changed elsewhere, and
// reports whether the key is one of a token.
func (t *Tokens) Invalidate(key string) bool { return t.records.invalidate(key) }

// Get returns the record of an opaque token by its id, or nil if there is
// none that is live.
func (t *Tokens) Get(ctx context.Context, storage logical.Storage, id string) (*Record, error) {
	if !format.ValidID(id) {
		return nil, nil
	}
	record, err := t.records.Get(ctx, storage, id)
	if err != nil || record == nil || !record.Live(t.clock()) {
		return nil, err
	}
	return record, nil
}

// List returns up to limit ids of opaque tokens, in a stable order, that come
// after the given one ("" for the first page), and whether there are more.
func (t *Tokens) List(ctx context.Context, storage logical.Storage, after string, limit int) (ids []string, more bool, err error) {
	first := 0
	if after != "" {
		first = strings.Index(shards, shardOf(after))
	}
	for i := first; i < len(shards); i++ {
		shard, err := t.records.List(ctx, storage, shards[i:i+1]+"/")
		if err != nil {
			return nil, false, err
		}
		slices.Sort(shard)
		if i == first && after != "" {
			from, found := slices.BinarySearch(shard, after)
			if found {
				from++
			}
			shard = shard[from:]
		}
		if room := limit - len(ids); len(shard) > room {
			return append(ids, shard[:room]...), true, nil
		}
		ids = append(ids, shard...)
	}
	return ids, false, nil
}

// Tidy removes the records of expired tokens in one shard of the storage, the
// next of them with each run, and reports which tokens they were.
func (t *Tokens) Tidy(ctx context.Context, storage logical.Storage, run int) (expired []*Ended, err error) {
	shard := shards[run%len(shards)]
	err = t.records.eachIn(ctx, storage, string(shard), func(found *Record) error {
		if found.Live(t.clock()) {
			return nil
		}
		// Again under the lock: the token may just have been renewed.
		defer t.records.Lock(found.ID)()
		record, err := t.records.Read(ctx, storage, found.ID)
		if err != nil || record == nil || record.Live(t.clock()) {
			return err
		}
		if err := t.records.remove(ctx, storage, record); err != nil {
			return err
		}
		expired = append(expired, record.ended(t.clock()))
		return nil
	})
	return expired, err
}
