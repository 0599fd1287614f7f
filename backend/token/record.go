package token

import (
	"context"
	"crypto/sha256"
	"crypto/subtle"
	"net/netip"
	"sync"
	"time"

	"github.com/hashicorp/vault/sdk/logical"

	"github.com/vault-tokens/vault-plugin-secrets-tokens/backend/badinput"
	"github.com/vault-tokens/vault-plugin-secrets-tokens/backend/role"
	"github.com/vault-tokens/vault-plugin-secrets-tokens/backend/store"
	"github.com/vault-tokens/vault-plugin-secrets-tokens/wire"
)

// Record is all that is kept of an opaque token. The token cannot be made
// from it: of the secret part it holds only the hash.
type Record struct {
	ID          string            `json:"id"`
	Prefix      string            `json:"prefix"`
	SecretHash  []byte            `json:"secret_sha256"`
	Kind        role.Kind         `json:"token_type"`
	Role        string            `json:"role"`
	Scopes      []string          `json:"scopes,omitempty"`
	Audience    []string          `json:"audience,omitempty"`
	Subject     string            `json:"subject"`
	ClientID    string            `json:"client_id"`
	EntityID    string            `json:"entity_id,omitempty"`
	DisplayName string            `json:"display_name,omitempty"`
	Metadata    map[string]string `json:"metadata,omitempty"`
	BoundCIDRs  []netip.Prefix    `json:"bound_cidrs,omitempty"`
	Cnf         *Confirmation     `json:"cnf,omitempty"`
	IssuedAt    time.Time         `json:"issued_at"`
	ExpiresAt   time.Time         `json:"expires_at"`
}

// Live reports whether the token has not expired.
func (r *Record) Live(now time.Time) bool { return now.Before(r.ExpiresAt) }

// matches reports, in constant time, whether the record is of this token. A
// nil record matches nothing and takes as long.
func (r *Record) matches(t wire.Opaque) bool {
	var absent Record
	present := 1
	if r == nil {
		r, present = &absent, 0
	}
	var want [sha256.Size]byte
	copy(want[:], r.SecretHash)
	got := t.SecretHash()
	sameSecret := subtle.ConstantTimeCompare(got[:], want[:])
	samePrefix := subtle.ConstantTimeCompare([]byte(t.Prefix), []byte(r.Prefix))
	return present&sameSecret&samePrefix == 1
}

const (
	recordPrefix = "token/"
	// shards spreads the records over folders by the last digit of their id,
	// which is uniform, so that each folder stays small enough to be listed.
	shards = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
	// cachedRecords bounds the records in memory; one takes about 1 KiB.
	cachedRecords = 1 << 16
)

func shardOf(id string) string { return id[len(id)-1:] }

// records is all opaque tokens of a mount.
type records struct {
	*store.Store[Record]
	clock func() time.Time

	mu     sync.Mutex
	counts map[string]*count // by role: live tokens, of capped roles only
}

// count is the live tokens of one role by id, with their expiry. It is made
// from the storage when a capped role first issues.
type count struct {
	mu      sync.Mutex
	loaded  bool
	expires map[string]time.Time
}

func newRecords(clock func() time.Time) *records {
	path := func(id string) string { return shardOf(id) + "/" + id }
	return &records{
		Store:  store.NewSharded[Record](recordPrefix, cachedRecords, path),
		clock:  clock,
		counts: map[string]*count{},
	}
}

// invalidate drops what is cached of a storage key that changed elsewhere.
func (r *records) invalidate(key string) bool {
	ours := r.Invalidate(key)
	if ours {
		r.mu.Lock()
		defer r.mu.Unlock()
		clear(r.counts)
	}
	return ours
}

// add writes a new record, unless the role's cap (0: none) is reached.
func (r *records) add(ctx context.Context, storage logical.Storage, record *Record, maxTokens int) error {
	if maxTokens > 0 {
		if err := r.take(ctx, storage, record, maxTokens); err != nil {
			return err
		}
	}
	err := r.Put(ctx, storage, record.ID, record)
	if err != nil {
		r.forgetCount(record.Role) // the record may or may not be there
	}
	return err
}

// take counts a token that is about to be written.
func (r *records) take(ctx context.Context, storage logical.Storage, record *Record, maxTokens int) error {
	r.mu.Lock()
	c := r.counts[record.Role]
	if c == nil {
		c = &count{expires: map[string]time.Time{}}
		r.counts[record.Role] = c
	}
	r.mu.Unlock()

	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.loaded {
		err := r.each(ctx, storage, func(found *Record) error {
			if found.Role == record.Role {
				c.expires[found.ID] = found.ExpiresAt
			}
			return nil
		})
		if err != nil {
			return err
		}
		c.loaded = true
	}
	if len(c.expires) >= maxTokens {
		now := r.clock()
		for id, expires := range c.expires {
			if !now.Before(expires) {
				delete(c.expires, id)
			}
		}
	}
	if len(c.expires) >= maxTokens {
		return badinput.Field("role", "%q has reached max_tokens: %d tokens of it are live; revoke some or raise max_tokens", record.Role, maxTokens)
	}
	c.expires[record.ID] = record.ExpiresAt
	return nil
}

// update writes a changed record.
func (r *records) update(ctx context.Context, storage logical.Storage, record *Record) error {
	if err := r.Put(ctx, storage, record.ID, record); err != nil {
		return err
	}
	r.recount(record.Role, func(expires map[string]time.Time) {
		if _, counted := expires[record.ID]; counted {
			expires[record.ID] = record.ExpiresAt
		}
	})
	return nil
}

// remove deletes a record.
func (r *records) remove(ctx context.Context, storage logical.Storage, record *Record) error {
	if err := r.Delete(ctx, storage, record.ID); err != nil {
		return err
	}
	r.recount(record.Role, func(expires map[string]time.Time) { delete(expires, record.ID) })
	return nil
}

func (r *records) recount(roleName string, change func(expires map[string]time.Time)) {
	r.mu.Lock()
	c := r.counts[roleName]
	r.mu.Unlock()
	if c == nil {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	change(c.expires)
}

// forgetCount makes the next capped issue count from the storage.
func (r *records) forgetCount(roleName string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.counts, roleName)
}

// each visits all records, straight from the storage.
func (r *records) each(ctx context.Context, storage logical.Storage, visit func(*Record) error) error {
	for i := range len(shards) {
		if err := r.eachIn(ctx, storage, shards[i:i+1], visit); err != nil {
			return err
		}
	}
	return nil
}

// eachIn visits the records of one shard.
func (r *records) eachIn(ctx context.Context, storage logical.Storage, shard string, visit func(*Record) error) error {
	ids, err := r.List(ctx, storage, shard+"/")
	if err != nil {
		return err
	}
	for _, id := range ids {
		if err := ctx.Err(); err != nil {
			return err
		}
		record, err := r.Read(ctx, storage, id)
		if err != nil {
			return err
		}
		if record == nil {
			continue // revoked since it was listed
		}
		if err := visit(record); err != nil {
			return err
		}
	}
	return nil
}
