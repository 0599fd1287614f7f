package token

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/hashicorp/vault/sdk/helper/locksutil"
	"github.com/hashicorp/vault/sdk/logical"

	"github.com/vault-tokens/vault-plugin-secrets-tokens/backend/role"
	"github.com/vault-tokens/vault-plugin-secrets-tokens/backend/statuslist"
	"github.com/vault-tokens/vault-plugin-secrets-tokens/backend/store"
	"github.com/vault-tokens/vault-plugin-secrets-tokens/verify/format"
)

// Ended is a token that was revoked, or whose expiry was noticed.
type Ended struct {
	ID        string
	TokenType role.TokenType
	Role      string
	Expired   bool // it had expired before, so this is its expiry
	// Unmarked: its record could not be decoded, so that its bit is not known. If it
	// is a JWT, or verifiers remember it, it may be taken for valid until it expires.
	Unmarked bool
}

// ended describes the end of a token, now.
func (r *Record) ended(now time.Time) *Ended {
	return &Ended{ID: r.ID, TokenType: r.TokenType, Role: r.Role, Expired: !r.Live(now)}
}

// Lease is what is known of a token that is to be revoked. A lease has it all; who
// revokes by id knows that alone.
type Lease struct {
	ID        string
	TokenType role.TokenType
	Role      string
	Ref       statuslist.Ref
	ExpiresAt time.Time // when it was issued; zero if that is not known
	Tracked   bool      // a JWT that has a record
}

// Revoke makes a token inactive that has a record: first by its bit, then by removing
// the record. It returns nil if there was nothing left to do. It needs neither the
// role nor a readable record.
func (t *Tokens) Revoke(ctx context.Context, storage logical.Storage, lease Lease) (*Ended, error) {
	if !format.ValidID(lease.ID) {
		return nil, nil
	}
	defer t.records.Lock(lease.ID)()
	record, err := t.records.Get(ctx, storage, lease.ID)
	ended := &Ended{ID: lease.ID, TokenType: lease.TokenType, Role: lease.Role}
	switch {
	case err == nil && record == nil:
		return t.revokeWithoutRecord(ctx, storage, ended, lease)
	case err != nil && lease.Ref == (statuslist.Ref{}) && !errors.Is(err, store.ErrUndecodable):
		// Its bit is in the record, which another try may read.
	case err != nil: // unreadable or undecodable: it must go all the same
		ended.Unmarked = lease.Ref == statuslist.Ref{}
		if err = t.setBit(ctx, storage, lease.Ref, lease.ID, lease.ExpiresAt); err == nil {
			err = t.records.Delete(ctx, storage, lease.ID)
		}
		if err == nil {
			err = t.freeSlot(ctx, storage, lease.ID, lease.Role)
		}
	default:
		ended = record.ended(t.clock())
		err = t.end(ctx, storage, record)
	}
	if err != nil {
		t.unconfirmed.add(ended)
		return nil, err
	}
	t.unconfirmed.take(lease.ID)
	return ended, nil
}

// end sets the bit of a token and removes its record, whose lock is held. A token
// that has expired needs no bit.
func (t *Tokens) end(ctx context.Context, storage logical.Storage, record *Record) error {
	if !t.lapsed(record.ExpiresAt) {
		if err := t.setBit(ctx, storage, record.Ref, record.ID, record.ExpiresAt); err != nil {
			return err
		}
	}
	return t.records.remove(ctx, storage, record)
}

// lapsed reports whether a token has expired, for all that this node's clock can be
// trusted.
func (t *Tokens) lapsed(expires time.Time) bool {
	past := t.clock().Sub(expires)
	return past >= clockTrust || past >= 0 && past < clockSlack
}

// setBit marks the bit of a token with a record as revoked, if it has one. The entry
// stays as long as any token of the list: a renewal that lands late may bring the
// record back, to live until then.
func (t *Tokens) setBit(ctx context.Context, storage logical.Storage, ref statuslist.Ref, id string, expires time.Time) error {
	if ref == (statuslist.Ref{}) {
		return nil
	}
	until, err := t.lists.Until(ctx, storage, ref.List)
	if err == nil && until.After(expires) {
		expires = until
	}
	if expires.IsZero() { // its list is gone, or cannot be read
		if errors.Is(err, store.ErrUndecodable) {
			err = nil // no token on it is active
		}
		return err
	}
	_, err = t.lists.Revoke(ctx, storage, ref, id, expires)
	return err
}

// revokeWithoutRecord ends a token of which there is no record: a try before may have
// removed it, and no more; or it is lost, and the lease leads to the bit.
func (t *Tokens) revokeWithoutRecord(ctx context.Context, storage logical.Storage, ended *Ended, lease Lease) (*Ended, error) {
	again := t.unconfirmed.take(ended.ID)
	if again != nil {
		ended = again
	}
	lost := false
	err := t.freeSlot(ctx, storage, ended.ID, ended.Role)
	if err == nil && lease.Ref != (statuslist.Ref{}) {
		var status statuslist.Status
		_, status, err = t.lists.Status(ctx, storage, lease.Ref)
		if errors.Is(err, store.ErrUndecodable) { // it may be readable again
			err = t.setBit(ctx, storage, lease.Ref, lease.ID, lease.ExpiresAt)
		} else if err == nil && status != statuslist.NotGiven {
			lost = status == statuslist.Valid
			// Also what is revoked: the write of a try before may have failed.
			err = t.setBit(ctx, storage, lease.Ref, lease.ID, lease.ExpiresAt)
		}
	}
	switch {
	case err != nil:
		if again != nil || lost {
			t.unconfirmed.add(ended)
		}
		return nil, err
	case again != nil || lost:
		return ended, nil
	}
	return nil, nil
}

// unconfirmed is the tokens whose removal was answered with an error: it may have
// taken effect. When it is tried again, the end of the token is still reported.
type unconfirmed struct {
	mu    sync.Mutex
	ended *store.Cache[string, *Ended]
}

func newUnconfirmed() *unconfirmed {
	return &unconfirmed{ended: store.NewCache[string, *Ended](1<<12, 0)}
}

func (u *unconfirmed) add(ended *Ended) {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.ended.Add(ended.ID, ended, 0)
}

// take returns what is known of a token, and forgets it.
func (u *unconfirmed) take(id string) *Ended {
	u.mu.Lock()
	defer u.mu.Unlock()
	ended, _ := u.ended.Get(id)
	u.ended.Remove(id)
	return ended
}

// freeSlot gives back the slot of a token that has no record any more, if it has
// one and its role is known and has slots. Otherwise tidying finds it.
func (t *Tokens) freeSlot(ctx context.Context, storage logical.Storage, id, role string) error {
	if role == "" || !t.records.caps.has(role) {
		return nil
	}
	return t.records.caps.release(ctx, storage, role, id)
}

// clockSlack is how far this node's clock may be ahead without a revocation being
// taken for an expiry. A lease that ends by itself ends within it.
const clockSlack = 5 * time.Minute

// clockTrust is how far the clock may be ahead at all: lists and records are kept
// for as long after the last expiry.
const clockTrust = 24 * time.Hour

// RevokeJWT makes a JWT inactive with one entry. It returns nil if the token was
// revoked before. A token that has just expired needs no entry. One that by this
// node's clock expired longer ago gets it as long as its list exists, since the
// clock may be ahead.
func (t *Tokens) RevokeJWT(ctx context.Context, storage logical.Storage, lease Lease) (*Ended, error) {
	if lease.Tracked {
		return t.Revoke(ctx, storage, lease)
	}
	past := t.clock().Sub(lease.ExpiresAt)
	if past < 0 {
		return t.revokeJWT(ctx, storage, lease)
	}
	_, status, err := t.lists.Status(ctx, storage, lease.Ref)
	switch {
	case past >= clockSlack && past < clockTrust && (err != nil || status != statuslist.NotGiven):
		return t.revokeJWT(ctx, storage, lease)
	case err != nil || status == statuslist.Revoked:
		return nil, nil // an expired token needs nothing, even if the storage fails
	}
	return &Ended{ID: lease.ID, TokenType: role.JWT, Role: lease.Role, Expired: true}, nil
}

func (t *Tokens) revokeJWT(ctx context.Context, storage logical.Storage, lease Lease) (*Ended, error) {
	done, err := t.lists.Revoke(ctx, storage, lease.Ref, lease.ID, lease.ExpiresAt)
	if err != nil || !done {
		return nil, err
	}
	return &Ended{ID: lease.ID, TokenType: role.JWT, Role: lease.Role}, nil
}

// RevokePossessed revokes the token that the caller holds. It returns nil if that
// is no token of this mount, or has ended, which is no error (RFC 7009 §2.2).
func (t *Tokens) RevokePossessed(ctx context.Context, storage logical.Storage, token format.Secret) (*Ended, error) {
	presented, err := t.find(ctx, storage, token)
	switch { // first what is genuine, even if its list cannot be read
	case presented.record != nil:
		return t.Revoke(ctx, storage, Lease{ID: presented.record.ID, Role: presented.record.Role, Ref: presented.record.Ref})
	case presented.claims == nil:
		return nil, err
	}
	if presented.reason == Expired {
		// This clock may be ahead; but where there is no list there is no token.
		_, status, err := t.lists.Status(ctx, storage, presented.ref)
		if err == nil && status == statuslist.NotGiven {
			return nil, nil
		}
	}
	lease := Lease{
		ID:        presented.claims.ID,
		TokenType: role.JWT,
		Role:      presented.role,
		Ref:       presented.ref,
		ExpiresAt: time.Unix(presented.claims.ExpiresAt, 0),
	}
	ended, err := t.revokeJWT(ctx, storage, lease)
	if err != nil {
		return nil, err
	}
	// Whether it has a record its claims do not say. If the role does not track any
	// more, tidying finds the record.
	r, err := t.roles.Get(ctx, storage, lease.Role)
	if err == nil && r != nil && r.Track {
		_, err = t.Revoke(ctx, storage, lease)
	}
	if err != nil {
		t.unconfirmed.add(&Ended{ID: lease.ID, TokenType: role.JWT, Role: lease.Role})
		return nil, err
	}
	return ended, nil
}

// RoleEnded is what EndRole did.
type RoleEnded struct {
	Lists      int      // on which the role had tokens
	Unreadable []string // lists that cannot be decoded; no token on them is active
	Tokens     *int     // that were live, where they are counted: under max_tokens
	RevokedAt  time.Time
}

// EndRole makes every token of a role inactive that was issued until it returns, of
// whatever kind, leased or not; the role may be gone. Those that are issued while it
// runs wait for it. The records are removed later, by tidying.
func (t *Tokens) EndRole(ctx context.Context, storage logical.Storage, name string) (*RoleEnded, error) {
	gate := locksutil.LockForKey(t.gates, name)
	gate.Lock()
	defer gate.Unlock()
	counted := t.records.caps.live(name)
	lists, err := t.lists.EndRole(ctx, storage, name)
	if err != nil {
		return nil, err
	}
	// For tokens that were issued before opaque ones had bits.
	at, err := t.cutoffs.EndRole(ctx, storage, name)
	if err != nil {
		return nil, err
	}
	t.records.caps.recount(name)
	return &RoleEnded{Lists: lists.Lists, Unreadable: lists.Unreadable, Tokens: counted, RevokedAt: at}, nil
}
