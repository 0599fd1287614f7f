package token

import (
	"context"
	"crypto/sha256"
	"crypto/subtle"
	"errors"
	"net/netip"
	"time"

	"github.com/hashicorp/vault/sdk/logical"

	"github.com/vault-tokens/vault-plugin-secrets-tokens/backend/role"
	"github.com/vault-tokens/vault-plugin-secrets-tokens/backend/store"
	"github.com/vault-tokens/vault-plugin-secrets-tokens/verify/format"
)

// Record is all that is stored of an opaque token. The token cannot be rebuilt
// from it: it has only the hash of the secret part.
type Record struct {
	ID          string               `json:"id"`
	Prefix      string               `json:"prefix"`
	SecretHash  []byte               `json:"secret_sha256"`
	TokenType   role.TokenType       `json:"token_type"`
	Role        string               `json:"role"`
	Scopes      []string             `json:"scopes,omitempty"`
	Audience    []string             `json:"audience,omitempty"`
	Subject     string               `json:"subject"`
	ClientID    string               `json:"client_id"`
	EntityID    string               `json:"entity_id,omitempty"`
	DisplayName string               `json:"display_name,omitempty"`
	Metadata    map[string]string    `json:"metadata,omitempty"`
	BoundCIDRs  []netip.Prefix       `json:"bound_cidrs,omitempty"`
	Cnf         *format.Confirmation `json:"cnf,omitempty"`
	IssuedAt    time.Time            `json:"issued_at"`
	ExpiresAt   time.Time            `json:"expires_at"`
	Capped      bool                 `json:"capped,omitempty"` // counts against its role's max_tokens
}

// Live reports whether the token has not expired.
func (r *Record) Live(now time.Time) bool { return now.Before(r.ExpiresAt) }

// matches reports, in constant time, whether the record is of this token. A nil
// record matches nothing, in the same time.
func (r *Record) matches(t format.Opaque) bool {
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
	// shards are the folders of the records, named by the last digit of an id,
	// which is uniform; so each folder stays small enough to be listed.
	shards = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
	// cachedRecords bounds the records in memory. One takes about 1 KiB, and at
	// most some 20 KiB, by the limits on what a record holds.
	cachedRecords = 1 << 16
)

func shardOf(id string) string { return id[len(id)-1:] }

// records is all opaque tokens of a mount.
type records struct {
	*store.Store[Record]
	caps *caps
}

func newRecords(clock func() time.Time) *records {
	entries := store.Entries[Record]{
		Prefix: recordPrefix,
		Path:   func(id string) string { return shardOf(id) + "/" + id },
	}
	return &records{Store: store.New(entries, store.Options{MaxEntries: cachedRecords}), caps: newCaps(clock)}
}

// invalidate drops what is cached of a storage key that changed elsewhere.
func (r *records) invalidate(key string) bool { return r.Invalidate(key) || r.caps.invalidate(key) }

// add writes a new record, unless the role's cap (0: none) is reached.
func (r *records) add(ctx context.Context, storage logical.Storage, record *Record, maxTokens int) error {
	if maxTokens > 0 {
		record.Capped = true
		if err := r.caps.take(ctx, storage, record, maxTokens); err != nil {
			return err
		}
	}
	// As every write: a token can be found, and revoked, as soon as it is stored.
	defer r.Lock(record.ID)()
	err := r.Put(ctx, storage, record.ID, record)
	if err != nil && record.Capped {
		r.caps.forget(record.Role) // the record may or may not be there
	}
	return err
}

// update writes a changed record.
func (r *records) update(ctx context.Context, storage logical.Storage, record *Record) error {
	if err := r.Put(ctx, storage, record.ID, record); err != nil || !record.Capped {
		return err
	}
	return r.caps.move(ctx, storage, record)
}

// remove deletes a record.
func (r *records) remove(ctx context.Context, storage logical.Storage, record *Record) error {
	if err := r.Delete(ctx, storage, record.ID); err != nil || !record.Capped {
		return err
	}
	return r.caps.release(ctx, storage, record)
}

// removeUnread deletes a record that cannot be read.
func (r *records) removeUnread(ctx context.Context, storage logical.Storage, id string) error {
	r.caps.forgetAll()
	return r.Delete(ctx, storage, id)
}

// eachIn visits the records of one shard, straight from the storage. One that
// cannot be read does not keep it from the others.
func (r *records) eachIn(ctx context.Context, storage logical.Storage, shard string, visit func(*Record) error) error {
	ids, err := r.List(ctx, storage, shard+"/")
	if err != nil {
		return err
	}
	var failed []error
	for _, id := range ids {
		if err := ctx.Err(); err != nil {
			return err
		}
		record, err := r.Read(ctx, storage, id)
		if err == nil && record != nil { // else revoked since it was listed
			err = visit(record)
		}
		if err != nil {
			failed = append(failed, err)
		}
	}
	return errors.Join(failed...)
}
