package tokens

import (
	"context"
	"fmt"
	"strconv"
	"time"

	"github.com/hashicorp/vault/sdk/framework"
	"github.com/hashicorp/vault/sdk/logical"

	"github.com/vault-tokens/vault-plugin-secrets-tokens/backend/role"
	"github.com/vault-tokens/vault-plugin-secrets-tokens/backend/statuslist"
	"github.com/vault-tokens/vault-plugin-secrets-tokens/backend/token"
)

// secretTypes names the kinds of lease. Leases in Vault's storage refer to
// these names: never rename or drop one.
var secretTypes = map[role.TokenType]string{
	role.APIKey: "api_key",
	role.Bearer: "bearer",
	role.JWT:    "jwt",
}

// Keys of a lease's internal data, all of which are strings: numbers do not
// survive Vault's storage as they were.
const (
	leaseTokenID   = "token_id"
	leaseRole      = "role"
	leaseExpiresAt = "expires_at"
	leaseList      = "status_list"
	leaseIndex     = "status_index"
	leaseTracked   = "tracked" // "true" for a JWT that has a record
)

// leaseData is all that renewing or revoking the token needs.
func leaseData(issued *token.Issued) map[string]any {
	return map[string]any{
		leaseTokenID:   issued.ID,
		leaseRole:      issued.Role,
		leaseExpiresAt: issued.ExpiresAt.Format(time.RFC3339),
		leaseList:      issued.Ref.List,
		leaseIndex:     strconv.Itoa(issued.Ref.Index),
		leaseTracked:   strconv.FormatBool(issued.Tracked),
	}
}

func (b *tokensBackend) secrets() []*framework.Secret {
	fields := map[string]*framework.FieldSchema{"token": field(framework.TypeString, "The token.")}
	return []*framework.Secret{
		{Type: secretTypes[role.APIKey], Fields: fields, Renew: b.renewOpaque, Revoke: b.revokeOpaque},
		{Type: secretTypes[role.Bearer], Fields: fields, Renew: b.renewOpaque, Revoke: b.revokeOpaque},
		// A signed exp cannot move, so there is nothing to renew.
		{Type: secretTypes[role.JWT], Fields: fields, Revoke: b.revokeJWT},
	}
}

func (b *tokensBackend) renewOpaque(ctx context.Context, req *logical.Request, _ *framework.FieldData) (*logical.Response, error) {
	id, err := leaseString(req, leaseTokenID)
	if err != nil {
		return nil, err
	}
	renewed, err := b.engine.Tokens.Renew(ctx, req.Storage, id, req.Secret.Increment)
	if err != nil {
		return nil, err
	}
	b.counts.renewed.add(string(renewed.Record.TokenType))
	b.Logger().Info("token renewed", "token_id", id, "role", renewed.Record.Role, "token_type", renewed.Record.TokenType,
		"expires_at", renewed.Record.ExpiresAt.Format(time.RFC3339))
	// Without data, so that Vault drops the answer that it stored with the lease,
	// and its copy of the token, with the first renewal.
	resp := &logical.Response{Secret: req.Secret}
	resp.Secret.TTL = renewed.TTL
	resp.Secret.MaxTTL = renewed.MaxTTL
	return resp, nil
}

func (b *tokensBackend) revokeOpaque(ctx context.Context, req *logical.Request, _ *framework.FieldData) (*logical.Response, error) {
	id, err := leaseString(req, leaseTokenID)
	if err != nil {
		return nil, err
	}
	lease := token.Lease{ID: id}
	if _, ok := req.Secret.InternalData[leaseList]; ok {
		if lease, err = leaseOf(req); err != nil {
			return nil, err
		}
	} else { // of a token that was issued before opaque ones had bits
		lease.Role, _ = req.Secret.InternalData[leaseRole].(string)
	}
	ended, err := b.engine.Tokens.Revoke(ctx, req.Storage, lease)
	b.logEnded(ended, err)
	return nil, err
}

func (b *tokensBackend) revokeJWT(ctx context.Context, req *logical.Request, _ *framework.FieldData) (*logical.Response, error) {
	lease, err := leaseOf(req)
	if err != nil {
		return nil, err
	}
	ended, err := b.engine.Tokens.RevokeJWT(ctx, req.Storage, lease)
	b.logEnded(ended, err)
	return nil, err
}

// leaseOf reads a lease's internal data.
func leaseOf(req *logical.Request) (lease token.Lease, err error) {
	read := func(key string) (value string) {
		if err == nil {
			value, err = leaseString(req, key)
		}
		return value
	}
	lease.ID = read(leaseTokenID)
	lease.Role = read(leaseRole)
	lease.Ref = statuslist.Ref{List: read(leaseList)}
	index, expires := read(leaseIndex), read(leaseExpiresAt)
	if err != nil {
		return lease, err
	}
	if lease.Ref.Index, err = strconv.Atoi(index); err != nil {
		return lease, fmt.Errorf("lease data %s: %w", leaseIndex, err)
	}
	if lease.ExpiresAt, err = time.Parse(time.RFC3339, expires); err != nil {
		return lease, fmt.Errorf("lease data %s: %w", leaseExpiresAt, err)
	}
	tracked, _ := req.Secret.InternalData[leaseTracked].(string) // younger than some leases
	lease.Tracked = tracked == "true"
	return lease, nil
}

func leaseString(req *logical.Request, key string) (string, error) {
	value, ok := req.Secret.InternalData[key].(string)
	if !ok {
		return "", fmt.Errorf("lease data has no %s", key)
	}
	return value, nil
}
