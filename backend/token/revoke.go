package token

import (
	"context"
	"sync"
	"time"

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
}

// ended describes the end of a token, now.
func (r *Record) ended(now time.Time) *Ended {
	return &Ended{ID: r.ID, TokenType: r.TokenType, Role: r.Role, Expired: !r.Live(now)}
}

// RevokeOpaque makes an opaque token inactive. It returns nil if there was nothing
// left to do. It needs neither the role nor a readable record. role is the token's
// if the caller knows it, as a lease does, and "" otherwise.
func (t *Tokens) RevokeOpaque(ctx context.Context, storage logical.Storage, id, role string) (*Ended, error) {
	if !format.ValidID(id) {
		return nil, nil
	}
	defer t.records.Lock(id)()
	record, err := t.records.Get(ctx, storage, id)
	ended := &Ended{ID: id, Role: role}
	switch {
	case err == nil && record == nil:
		// A try before may have removed the record, and no more.
		again := t.unconfirmed.take(id)
		if again != nil {
			role = again.Role
		}
		if err := t.freeSlot(ctx, storage, id, role); err != nil {
			if again != nil {
				t.unconfirmed.add(again)
			}
			return nil, err
		}
		return again, nil
	case err != nil: // unreadable or undecodable: it must go all the same
		if err = t.records.Delete(ctx, storage, id); err == nil {
			err = t.freeSlot(ctx, storage, id, role)
		}
	default:
		ended = record.ended(t.clock())
		err = t.records.remove(ctx, storage, record)
	}
	if err != nil {
		t.unconfirmed.add(ended)
		return nil, err
	}
	t.unconfirmed.take(id)
	return ended, nil
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

// JWTLease is what revoking a JWT needs.
type JWTLease struct {
	ID        string
	Role      string
	Ref       statuslist.Ref
	ExpiresAt time.Time
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
func (t *Tokens) RevokeJWT(ctx context.Context, storage logical.Storage, lease JWTLease) (*Ended, error) {
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

func (t *Tokens) revokeJWT(ctx context.Context, storage logical.Storage, lease JWTLease) (*Ended, error) {
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
	switch {
	case err != nil:
		return nil, err
	case presented.record != nil:
		return t.RevokeOpaque(ctx, storage, presented.record.ID, presented.record.Role)
	case presented.claims == nil:
		return nil, nil
	}
	if presented.reason == Expired {
		// This clock may be ahead; but where there is no list there is no token.
		_, status, err := t.lists.Status(ctx, storage, presented.ref)
		if err != nil || status == statuslist.NotGiven {
			return nil, err
		}
	}
	return t.revokeJWT(ctx, storage, JWTLease{
		ID:        presented.claims.ID,
		Role:      presented.role,
		Ref:       presented.ref,
		ExpiresAt: time.Unix(presented.claims.ExpiresAt, 0),
	})
}
