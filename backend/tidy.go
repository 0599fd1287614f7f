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

const (
	// safetyMargin is how long an entry is kept that nothing needs any more by this
	// node's clock, which may be wrong.
	safetyMargin = 24 * time.Hour
	// tidyBudget bounds each part of a run, which Vault begins every minute.
	tidyBudget = 10 * time.Second
)

// TidyResult is what a run of Tidy did.
type TidyResult struct {
	Tokens    *token.TidyResult
	Lists     statuslist.Tidied
	Rotations []*keyring.Rotation
}

// Tidy does what is due as time passes: it rotates keys, removes what expired tokens
// leave, and writes when tokens were last seen. A run does some of it, within a bounded time, and the next one goes
// on. What fails in one part does not keep the others from being done.
func (e *Engine) Tidy(ctx context.Context, storage logical.Storage) (*TidyResult, error) {
	done := &TidyResult{}
	var errReferences, errLists, errTokens, errSeen error
	c, errRotate := e.Config.Get(ctx, storage)
	if errRotate == nil {
		within(ctx, func(ctx context.Context) {
			done.Rotations, errRotate = e.Keys.RotateDue(ctx, storage, c.PublishedUntil(e.clock()))
		})
	}
	within(ctx, func(ctx context.Context) {
		errReferences = errors.Join(e.tidyReferences(ctx, storage), e.tidyStale(ctx, storage))
	})
	within(ctx, func(ctx context.Context) {
		done.Lists, errLists = e.Lists.Tidy(ctx, storage, safetyMargin)
	})
	within(ctx, func(ctx context.Context) {
		done.Tokens, errTokens = e.Tokens.Tidy(ctx, storage, safetyMargin)
	})
	within(ctx, func(ctx context.Context) {
		errSeen = e.Seen.Flush(ctx, storage, safetyMargin)
	})
	return done, errors.Join(errRotate, errReferences, errLists, errTokens, errSeen)
}

func within(ctx context.Context, part func(ctx context.Context)) {
	ctx, cancel := context.WithTimeout(ctx, tidyBudget)
	defer cancel()
	part(ctx)
}
