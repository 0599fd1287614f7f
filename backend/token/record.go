package token

import (
	"context"
	"crypto/sha256"
	"crypto/subtle"
	"net/netip"
	"slices"
	"time"

	"github.com/hashicorp/vault/sdk/logical"

	"github.com/vault-tokens/vault-plugin-secrets-tokens/backend/role"
	"github.com/vault-tokens/vault-plugin-secrets-tokens/backend/statuslist"
	"github.com/vault-tokens/vault-plugin-secrets-tokens/backend/store"
	"github.com/vault-tokens/vault-plugin-secrets-tokens/verify/format"
)

// Record is all that is stored of an opaque token, or of a JWT of a role that tracks
// its tokens. The token cannot be rebuilt from it: it has only the hash of the
// secret part, and nothing at all of a JWT's signature.
type Record struct {
	ID          string               `json:"id"`
	Prefix      string               `json:"prefix"`
	SecretHash  []byte               `json:"secret_sha256,omitempty"` // of an opaque token
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
	// Ref is the token's bit, which decides whether it is revoked. Tokens that were
	// issued before opaque ones had bits have none.
	Ref statuslist.Ref `json:"status,omitzero"`
}

// HasBit reports whether the token has a bit in a status list.
func (r *Record) HasBit() bool { return r.Ref != statuslist.Ref{} }

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
	// Bounds on the records in memory. One takes about 1 KiB as stored, and at most
	// some 20 KiB, by the limits on what a record holds.
	cachedRecords     = 1 << 17
	cachedRecordBytes = 64 << 20
	// absentRecords is how many ids without a record are remembered: made-up ids
	// then cost few reads, and no more or less time than a wrong secret.
	absentRecords = 1 << 14
)

func shardOf(id string) string { return id[len(id)-1:] }

// records is all opaque tokens of a mount.
type records struct {
	*store.Store[Record]
	caps *caps
}

func newRecords(clock func() time.Time, maxAge func() time.Duration, dead func(context.Context, logical.Storage, slotKey) bool) *records {
	entries := store.Entries[Record]{
		Prefix: recordPrefix,
		Path:   func(id string) string { return shardOf(id) + "/" + id },
		Format: 2, // whoever does not know of Ref would call a revoked token active
	}
	return &records{
		Store: store.New(entries, store.Options{
			MaxEntries: cachedRecords,
			MaxBytes:   cachedRecordBytes,
			MaxAbsent:  absentRecords,
			MaxAge:     maxAge,
			Clock:      clock,
		}),
		caps: newCaps(clock, dead),
	}
}

// shardAfter returns the ids of one shard that come after the given one ("" for
// all), sorted.
func (r *records) shardAfter(ctx context.Context, storage logical.Storage, shard int, after string) ([]string, error) {
	ids, err := r.List(ctx, storage, shards[shard:shard+1]+"/")
	if err != nil {
		return nil, err
	}
	slices.Sort(ids)
	from, found := slices.BinarySearch(ids, after)
	if found {
		from++
	}
	return ids[from:], nil
}

// invalidate drops what is cached of a storage key that changed elsewhere.
func (r *records) invalidate(key string) bool { return r.Invalidate(key) || r.caps.invalidate(key) }

// expiry is when a token that has a record ends, zero if it has none.
func (r *records) expiry(storage logical.Storage) expiryOf {
	return func(ctx context.Context, id string) (time.Time, error) {
		record, err := r.Get(ctx, storage, id)
		if err != nil || record == nil {
			return time.Time{}, err
		}
		return record.ExpiresAt, nil
	}
}

// add writes a new record, unless the role's cap (0: none) is reached. Before that
// place gives it its bit: a request that is refused uses up none.
func (r *records) add(ctx context.Context, storage logical.Storage, record *Record, maxTokens int, place func() error) error {
	// As every write: a token can be found, and revoked, as soon as it is stored.
	defer r.Lock(record.ID)()
	if maxTokens <= 0 {
		if err := place(); err != nil {
			return err
		}
		return r.Put(ctx, storage, record.ID, record)
	}
	record.Capped = true
	if err := r.caps.take(ctx, storage, record, maxTokens, place, r.expiry(storage)); err != nil {
		return err
	}
	defer r.caps.of(record.Role).settled(record.ID)
	err := r.Put(ctx, storage, record.ID, record)
	if err == nil {
		return nil
	}
	// The record may or may not be there. The slot is given back once it surely is
	// not; else reconcile looks.
	if r.Delete(ctx, storage, record.ID) == nil {
		_ = r.caps.release(ctx, storage, record.Role, record.ID)
	}
	return err
}

// update writes a renewed record. A token that has just expired may have given its
// slot to another one; it then is not renewed.
func (r *records) update(ctx context.Context, storage logical.Storage, record *Record) error {
	if !record.Capped {
		return r.Put(ctx, storage, record.ID, record)
	}
	n := r.caps.of(record.Role)
	if !n.hold(record.ID) {
		return errEnded
	}
	defer n.settled(record.ID)
	err := r.Put(ctx, storage, record.ID, record)
	if err == nil {
		n.move(record.ID, record.ExpiresAt)
	}
	return err
}

// remove deletes a record, and then its slot.
func (r *records) remove(ctx context.Context, storage logical.Storage, record *Record) error {
	if err := r.Delete(ctx, storage, record.ID); err != nil || !record.Capped {
		return err
	}
	return r.caps.release(ctx, storage, record.Role, record.ID)
}
