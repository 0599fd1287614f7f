package token

import (
	"context"
	"time"

	"github.com/hashicorp/vault/sdk/logical"

	"github.com/vault-tokens/vault-plugin-secrets-tokens/backend/usererror"
)

// cutOff reports whether a client's tokens of that time are dead, because all that
// its entity was issued until then was revoked. The client is the token's client_id,
// which is the id of the entity for whoever has one. It reads nothing once the
// cut-offs are known. Times of issue have seconds, so that the second of the cut-off
// belongs to it.
func (t *Tokens) cutOff(ctx context.Context, storage logical.Storage, client string, issuedAt time.Time) (bool, error) {
	at, err := t.cutoffs.Entity(ctx, storage, client)
	return err == nil && isCutOff(issuedAt, at), err
}

// roleCutOff is cutOff for the tokens of a role.
func (t *Tokens) roleCutOff(ctx context.Context, storage logical.Storage, role string, issuedAt time.Time) (bool, error) {
	at, err := t.cutoffs.Role(ctx, storage, role)
	return err == nil && isCutOff(issuedAt, at), err
}

func isCutOff(issuedAt, at time.Time) bool {
	return !at.IsZero() && issuedAt.Unix() <= at.Unix()
}

// notCutOff refuses to issue a token that would be dead at once: in the second of
// its entity's cut-off, or by a clock that is behind it.
func (t *Tokens) notCutOff(ctx context.Context, storage logical.Storage, client string, issuedAt time.Time) error {
	at, err := t.cutoffs.Entity(ctx, storage, client)
	if err != nil || !isCutOff(issuedAt, at) {
		return err
	}
	return usererror.Field("entity_id", "all tokens that entity %s was issued until %s are revoked, and this one would be too; ask again after that second", client, at.Format(time.RFC3339))
}
