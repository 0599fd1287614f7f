package token

import (
	"context"
	"net/netip"
	"slices"
	"time"

	"github.com/hashicorp/vault/sdk/framework"
	"github.com/hashicorp/vault/sdk/logical"

	"github.com/vault-tokens/vault-plugin-secrets-tokens/backend/role"
	"github.com/vault-tokens/vault-plugin-secrets-tokens/backend/scope"
	"github.com/vault-tokens/vault-plugin-secrets-tokens/backend/usererror"
)

// Renewed is an opaque token whose life was extended.
type Renewed struct {
	Record *Record
	TTL    time.Duration // from now, of the token and its lease
	MaxTTL time.Duration // since issue; zero: the mount's
}

var errEnded = usererror.Field("lease_id", "the token was revoked or has expired; request a new one")

// Renew extends an opaque token by increment (zero: the role's TTL), within the
// role's maximum as it is now. It never widens what the token may do, and refuses
// if the role would no longer issue such a token.
func (t *Tokens) Renew(ctx context.Context, storage logical.Storage, id string, increment time.Duration) (*Renewed, error) {
	defer t.records.Lock(id)()
	record, err := t.records.Read(ctx, storage, id)
	if err != nil {
		return nil, err
	}
	if record == nil {
		return nil, errEnded
	}
	if reason, err := t.standing(ctx, storage, record); err != nil {
		return nil, err
	} else if reason != "" {
		return nil, errEnded
	}
	r, err := t.roles.Get(ctx, storage, record.Role)
	if err != nil {
		return nil, err
	}
	ceilings, err := t.config.Get(ctx, storage)
	if err != nil {
		return nil, err
	}
	if r == nil || r.TokenType != record.TokenType {
		return nil, usererror.Field("role", "%q issued the token and does not exist any more; the token lives until %s and cannot be renewed", record.Role, record.ExpiresAt.Format(time.RFC3339))
	}
	if err := stillGiven(r, record); err != nil {
		return nil, err
	}
	for _, allowed := range [][]string{r.AllowedScopes, ceilings.AllowedScopes} {
		if lost, outside := scope.Outside(allowed, record.Scopes); outside {
			return nil, usererror.Field("scopes", "the token's scope %q is no longer allowed by role %q; request a new token", lost, r.Name)
		}
	}
	if lost, outside := scope.Outside(ceilings.AllowedAudiences, record.Audience); outside {
		return nil, usererror.Field("audience", "the token's audience %q is above the mount's ceiling now; see allowed_audiences in config", usererror.Clip(lost))
	}
	renewed := &Renewed{MaxTTL: tightest(r.MaxTTL, ceilings.MaxTTL)}
	// Vault adds its own warning when the TTL is cut.
	renewed.TTL, _, err = framework.CalculateTTL(t.system, increment, r.TTL, 0, renewed.MaxTTL, 0, record.IssuedAt)
	if err != nil {
		return nil, usererror.Field("lease_id", "the token has reached the role's or the mount's max_ttl; request a new one")
	}
	extended := *record
	extended.ExpiresAt = t.clock().UTC().Truncate(time.Second).Add(renewed.TTL)
	renewed.Record = &extended
	if err := t.prolong(ctx, storage, &extended); err != nil {
		return nil, err
	}
	return renewed, t.records.update(ctx, storage, &extended)
}

// prolong makes sure that the list of a token lasts for as long as the token.
func (t *Tokens) prolong(ctx context.Context, storage logical.Storage, record *Record) error {
	if !record.HasBit() {
		return nil
	}
	exists, err := t.lists.Prolong(ctx, storage, record.Ref.List, record.ExpiresAt)
	if err == nil && !exists {
		err = errEnded
	}
	return err
}

// stillGiven refuses what a role no longer gives: an audience that it lost, use from
// outside the networks that it has been bound to since, or a token without a key
// where it wants one.
func stillGiven(r *role.Role, record *Record) error {
	for _, a := range record.Audience {
		if !slices.Contains(r.Audiences, a) {
			return usererror.Field("audience", "the token's audience %q is no longer one of role %q; request a new token", usererror.Clip(a), r.Name)
		}
	}
	if r.RequireCnf && record.Cnf == nil {
		return usererror.Field("cnf", "role %q issues only tokens that are bound to a key now, and the token is not; request a new token", r.Name)
	}
	if len(r.BoundCIDRs) > 0 && len(record.BoundCIDRs) == 0 {
		return usererror.Field("bound_cidrs", "role %q is bound to networks now, and the token is not; request a new token", r.Name)
	}
	for _, network := range record.BoundCIDRs {
		if len(r.BoundCIDRs) > 0 && !slices.ContainsFunc(r.BoundCIDRs, func(p netip.Prefix) bool { return covers(p, network) }) {
			return usererror.Field("bound_cidrs", "the token may be used from %s; role %q no longer allows that; request a new token", network, r.Name)
		}
	}
	return nil
}

// covers reports whether all addresses of inner are in outer.
func covers(outer, inner netip.Prefix) bool {
	return outer.Bits() <= inner.Bits() && outer.Contains(inner.Addr())
}
