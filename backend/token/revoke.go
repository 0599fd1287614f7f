package token

import (
	"context"
	"time"

	"github.com/hashicorp/vault/sdk/logical"

	"github.com/vault-tokens/vault-plugin-secrets-tokens/backend/role"
	"github.com/vault-tokens/vault-plugin-secrets-tokens/backend/statuslist"
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
// left to do. It needs neither the role nor a readable record.
func (t *Tokens) RevokeOpaque(ctx context.Context, storage logical.Storage, id string) (*Ended, error) {
	if !format.ValidID(id) {
		return nil, nil
	}
	defer t.records.Lock(id)()
	record, err := t.records.Get(ctx, storage, id)
	if err != nil {
		// Unreadable or undecodable: it must go all the same.
		return &Ended{ID: id}, t.records.removeUnread(ctx, storage, id)
	}
	if record == nil {
		return nil, nil
	}
	return record.ended(t.clock()), t.records.remove(ctx, storage, record)
}

// JWTLease is what revoking a JWT needs.
type JWTLease struct {
	ID        string
	Role      string
	Ref       statuslist.Ref
	ExpiresAt time.Time
}

// RevokeJWT makes a JWT inactive: it writes one entry before the token's expiry,
// nothing after. It returns nil if the token was revoked before.
func (t *Tokens) RevokeJWT(ctx context.Context, storage logical.Storage, lease JWTLease) (*Ended, error) {
	revoked := &Ended{ID: lease.ID, TokenType: role.JWT, Role: lease.Role}
	if t.clock().Before(lease.ExpiresAt) {
		if done, err := t.lists.Revoke(ctx, storage, lease.Ref, lease.ID); err != nil || !done {
			return nil, err
		}
		return revoked, nil
	}
	if _, before, err := t.lists.Status(ctx, storage, lease.Ref); err != nil || before {
		return nil, nil // an expired token needs nothing, even if the storage fails
	}
	revoked.Expired = true
	return revoked, nil
}

// RevokePossessed revokes the token that the caller holds. It returns nil if that
// is no token of this mount, or has ended, which is no error (RFC 7009 §2.2).
func (t *Tokens) RevokePossessed(ctx context.Context, storage logical.Storage, token format.Secret) (*Ended, error) {
	presented, err := t.find(ctx, storage, token)
	switch {
	case err != nil || presented.reason != "" && presented.reason != NotYet:
		return nil, err
	case presented.record != nil:
		return t.RevokeOpaque(ctx, storage, presented.record.ID)
	default:
		return t.RevokeJWT(ctx, storage, JWTLease{
			ID:        presented.claims.ID,
			Role:      presented.role,
			Ref:       presented.ref,
			ExpiresAt: time.Unix(presented.claims.ExpiresAt, 0),
		})
	}
}
