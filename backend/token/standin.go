package token

import (
	"context"

	"github.com/hashicorp/vault/sdk/logical"

	"github.com/vault-tokens/vault-plugin-secrets-tokens/backend/role"
	"github.com/vault-tokens/vault-plugin-secrets-tokens/backend/statuslist"
)

// dead reports whether a token has been revoked although its record is there: by its
// bit, its role's end, or a cut-off.
func (t *Tokens) dead(ctx context.Context, storage logical.Storage, record *Record) (bool, error) {
	dead, err := t.cutOff(ctx, storage, record.ClientID, record.IssuedAt)
	if err != nil || dead || !record.HasBit() {
		return dead, err
	}
	_, status, err := t.lists.Status(ctx, storage, record.Ref)
	return err == nil && status == statuslist.Revoked, err
}

// Tracked reports whether tokens of a role have a record, so that a kill switch
// finds them.
func Tracked(r *role.Role) bool { return r.TokenType.Opaque() }
