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

// clockSlack is how far this node's clock may be ahead without a revocation being
// taken for an expiry. A lease that ends by itself ends within it.
const clockSlack = 5 * time.Minute

// RevokeJWT makes a JWT inactive with one entry. It returns nil if the token was
// revoked before. A token that has just expired needs no entry. One that by this
// node's clock expired longer ago gets it: the clock may be ahead.
func (t *Tokens) RevokeJWT(ctx context.Context, storage logical.Storage, lease JWTLease) (*Ended, error) {
	ended := &Ended{ID: lease.ID, TokenType: role.JWT, Role: lease.Role}
	if past := t.clock().Sub(lease.ExpiresAt); past >= 0 && past < clockSlack {
		// Whatever the storage says: it is asked for the log line only.
		if _, status, err := t.lists.Status(ctx, storage, lease.Ref); err != nil || status == statuslist.Revoked {
			return nil, nil
		}
		ended.Expired = true
		return ended, nil
	}
	done, err := t.lists.Revoke(ctx, storage, lease.Ref, lease.ID, lease.ExpiresAt)
	if err != nil || !done {
		return nil, err
	}
	return ended, nil
}

// RevokePossessed revokes the token that the caller holds. It returns nil if that
// is no token of this mount, or has ended, which is no error (RFC 7009 §2.2).
func (t *Tokens) RevokePossessed(ctx context.Context, storage logical.Storage, token format.Secret) (*Ended, error) {
	presented, err := t.find(ctx, storage, token)
	switch {
	case err != nil:
		return nil, err
	case presented.record != nil:
		return t.RevokeOpaque(ctx, storage, presented.record.ID)
	case presented.claims == nil:
		return nil, nil
	default:
		return t.RevokeJWT(ctx, storage, JWTLease{
			ID:        presented.claims.ID,
			Role:      presented.role,
			Ref:       presented.ref,
			ExpiresAt: time.Unix(presented.claims.ExpiresAt, 0),
		})
	}
}
