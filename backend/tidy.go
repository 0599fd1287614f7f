package backend

import (
	"context"
	"errors"
	"time"

	"github.com/hashicorp/vault/sdk/logical"

	"github.com/vault-tokens/vault-plugin-secrets-tokens/backend/keyring"
	"github.com/vault-tokens/vault-plugin-secrets-tokens/backend/statuslist"
	"github.com/vault-tokens/vault-plugin-secrets-tokens/backend/token"
)

// safetyMargin is how long an entry is kept that nothing needs any more by this
// node's clock, which may be wrong.
const safetyMargin = 24 * time.Hour

// TidyResult is what a run of Tidy did.
type TidyResult struct {
	Expired   []*token.Ended // tokens that expired without a lease to report it
	Lists     statuslist.Tidied
	Rotations []*keyring.Rotation
}

// Tidy does what is due as time passes: it rotates keys, and removes what
// expired tokens leave. Each run covers a part of the tokens; run counts them.
// What fails in one part does not keep the others from being done.
func (e *Engine) Tidy(ctx context.Context, storage logical.Storage, run int) (*TidyResult, error) {
	c, err := e.Config.Get(ctx, storage)
	if err != nil {
		return nil, err
	}
	done := &TidyResult{}
	var errRotate, errLists, errTokens error
	done.Rotations, errRotate = e.Keys.RotateDue(ctx, storage, c.StatusListLifetime)
	done.Lists, errLists = e.Lists.Tidy(ctx, storage, safetyMargin)
	done.Expired, errTokens = e.Tokens.Tidy(ctx, storage, run)
	return done, errors.Join(errRotate, errLists, errTokens)
}
