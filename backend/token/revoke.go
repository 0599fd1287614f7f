package token

import (
	"context"
	"time"

	"github.com/hashicorp/vault/sdk/logical"

	"github.com/vault-tokens/vault-plugin-secrets-tokens/backend/role"
	"github.com/vault-tokens/vault-plugin-secrets-tokens/backend/statuslist"
	"github.com/vault-tokens/vault-plugin-secrets-tokens/verify/format"
)

// Revoked tells which token was revoked.
type Revoked struct {
	ID        string
	TokenType role.TokenType
	Role      string
	Expired   bool // it had expired before, so this is its expiry
}

// ended describes the end of a token, now.
func (r *Record) ended(now time.Time) *Revoked {
	return &Revoked{ID: r.ID, TokenType: r.TokenType, Role: r.Role, Expired: !r.Live(now)}
}

// RevokeOpaque makes an opaque token inactive. Nil says that there was nothing
// left to do. It needs neither the role nor a readable record.
func (s *Service) RevokeOpaque(ctx context.Context, storage logical.Storage, id string) (*Revoked, error) {
	if !format.ValidID(id) {
		return nil, nil
	}
	defer s.records.Lock(id)()
	record, err := s.records.Get(ctx, storage, id)
	if err != nil {
		// Unreadable or undecodable: it must go all the same.
		return &Revoked{ID: id}, s.records.removeUnread(ctx, storage, id)
	}
	if record == nil {
		return nil, nil
	}
	return record.ended(s.clock()), s.records.remove(ctx, storage, record)
}

// JWTLease is what revoking a JWT needs.
type JWTLease struct {
	ID        string
	Role      string
	Place     statuslist.Place
	ExpiresAt time.Time
}

// RevokeJWT makes a JWT inactive: one entry before its expiry, nothing after.
// Nil says that it was revoked before.
func (s *Service) RevokeJWT(ctx context.Context, storage logical.Storage, lease JWTLease) (*Revoked, error) {
	revoked := &Revoked{ID: lease.ID, TokenType: role.JWT, Role: lease.Role}
	if s.clock().Before(lease.ExpiresAt) {
		if done, err := s.Lists.Revoke(ctx, storage, lease.Place, lease.ID); err != nil || !done {
			return nil, err
		}
		return revoked, nil
	}
	if _, before, err := s.Lists.Look(ctx, storage, lease.Place); err != nil || before {
		return nil, nil // an expired token needs nothing, whatever the storage says
	}
	revoked.Expired = true
	return revoked, nil
}

// RevokePossessed revokes the token that the caller holds. Nil says that it is
// no token of this mount that is live or will be, which is no error (RFC 7009
// §2.2).
func (s *Service) RevokePossessed(ctx context.Context, storage logical.Storage, token format.Secret) (*Revoked, error) {
	found, err := s.find(ctx, storage, token)
	switch {
	case err != nil || found.inactive != "" && found.inactive != NotYet:
		return nil, err
	case found.record != nil:
		return s.RevokeOpaque(ctx, storage, found.record.ID)
	default:
		return s.RevokeJWT(ctx, storage, JWTLease{
			ID:        found.claims.ID,
			Role:      found.role,
			Place:     found.place,
			ExpiresAt: time.Unix(found.claims.ExpiresAt, 0),
		})
	}
}
