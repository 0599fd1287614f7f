package token

import (
	"context"

	"github.com/hashicorp/vault/sdk/logical"

	"github.com/vault-tokens/vault-plugin-secrets-tokens/backend/role"
)

// dead reports whether a token has been ended although its record is there.
func (t *Tokens) dead(ctx context.Context, storage logical.Storage, record *Record) (bool, error) {
	return t.cutOff(ctx, storage, record.ClientID, record.IssuedAt)
}

// end ends a token and removes its record, whose lock is held.
func (t *Tokens) end(ctx context.Context, storage logical.Storage, record *Record) (*Ended, error) {
	return record.ended(t.clock()), t.records.remove(ctx, storage, record)
}

// Tracked reports whether tokens of a role have a record, so that a kill switch
// finds them.
func Tracked(r *role.Role) bool { return r.TokenType.Opaque() }
