package backend

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/hashicorp/vault/sdk/logical"

	"github.com/vault-tokens/vault-plugin-secrets-tokens/backend/keyring"
	"github.com/vault-tokens/vault-plugin-secrets-tokens/backend/statuslist"
	"github.com/vault-tokens/vault-plugin-secrets-tokens/backend/token"
	"github.com/vault-tokens/vault-plugin-secrets-tokens/backend/usererror"
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
	Cutoffs   int // removed
	Rotations []*keyring.Rotation
}

// Tidy does what is due as time passes: it rotates keys, removes what expired tokens
// leave, and writes when tokens were last seen. A run does some of it, within a
// bounded time, and the next one goes on. What fails in one part does not keep the others from being done.
func (e *Engine) Tidy(ctx context.Context, storage logical.Storage) (*TidyResult, error) {
	done := &TidyResult{Tokens: &token.TidyResult{}}
	var errReferences, errSeen error
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
		errSeen = e.Seen.Flush(ctx, storage, safetyMargin)
	})
	if !e.tidying.run.TryLock() { // it is done in the background
		return done, errors.Join(errRotate, errReferences, errSeen)
	}
	defer e.tidying.run.Unlock()
	return done, errors.Join(errRotate, errReferences, errSeen, e.removeDue(ctx, storage, done))
}

// removeDue does some of what is due of lists, records and cut-offs. The caller
// holds e.tidying.run.
func (e *Engine) removeDue(ctx context.Context, storage logical.Storage, done *TidyResult) error {
	var errLists, errTokens, errCutoffs error
	within(ctx, func(ctx context.Context) {
		done.Lists, errLists = e.Lists.Tidy(ctx, storage, safetyMargin)
		errLists = errors.Join(errLists, e.settler.prepare(ctx, storage))
	})
	within(ctx, func(ctx context.Context) {
		done.Tokens, errTokens = e.Tokens.Tidy(ctx, storage, safetyMargin)
	})
	within(ctx, func(ctx context.Context) {
		done.Cutoffs, errCutoffs = e.tidyCutoffs(ctx, storage)
	})
	e.tidying.count(done)
	return errors.Join(errLists, errTokens, errCutoffs)
}

func within(ctx context.Context, part func(ctx context.Context)) {
	ctx, cancel := context.WithTimeout(ctx, tidyBudget)
	defer cancel()
	part(ctx)
}

// tidyCutoffs looks at the cut-offs once after each complete pass over all records.
// One in which a record failed does not count: that may be a token that only its
// cut-off ends.
func (e *Engine) tidyCutoffs(ctx context.Context, storage logical.Storage) (removed int, err error) {
	last, err := e.Tokens.LastComplete(ctx, storage)
	if err != nil || last == nil || last.Failed > 0 || last.StartedAt.Equal(e.tidying.cutoffsAfter) {
		return 0, err
	}
	removed, err = e.Cutoffs.Tidy(ctx, storage, last.StartedAt, safetyMargin, func() (time.Time, error) {
		return e.Keys.SignedUntil(ctx, storage)
	})
	if err == nil && ctx.Err() == nil {
		e.tidying.cutoffsAfter = last.StartedAt
	}
	return removed, err
}

// tidying is what this process knows of the tidying of lists, records and cut-offs.
type tidying struct {
	run          sync.Mutex // one run at a time
	cutoffsAfter time.Time  // the start of the pass after which cut-offs were looked at

	mu      sync.Mutex
	since   time.Time // the start of the pass since when removals are counted
	removed Removed
}

// Removed is what was removed besides records since the last pass over these began,
// or since the start of the process.
type Removed struct{ Lists, Revocations, Cutoffs int }

func (t *tidying) count(done *TidyResult) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if began := done.Tokens.Pass.StartedAt; !began.IsZero() && !began.Equal(t.since) {
		t.since, t.removed = began, Removed{}
	}
	t.removed.Lists += done.Lists.Lists
	t.removed.Revocations += done.Lists.Revocations
	t.removed.Cutoffs += done.Cutoffs
}

func (t *tidying) counted() Removed {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.removed
}

// StartTidy begins a pass over all records in the background, after the one that is
// under way, if any. If this process ends before, the periodic run goes on with it.
func (e *Engine) StartTidy() {
	e.Tokens.WantPass()
	if e.Storage != nil && writeSafe(e.system) {
		e.background.ask(passJob)
	}
}

// StartDryRun begins to count in the background what a pass would remove. It is
// refused while a pass is being made.
func (e *Engine) StartDryRun() error {
	if doing, busy := e.background.busy(); busy {
		what := map[job]string{passJob: "tidying is under way", dryRunJob: "a dry run is under way"}[doing]
		return usererror.Field("dry_run", "%s; see tidy/status, and wait for it or end it with tidy/cancel", what)
	}
	if e.Storage != nil && writeSafe(e.system) {
		e.background.ask(dryRunJob)
	}
	return nil
}

// CancelTidy ends the pass or dry run that is under way, and reports whether there
// was any.
func (e *Engine) CancelTidy(ctx context.Context, storage logical.Storage) (bool, error) {
	_, busy := e.background.busy()
	e.background.cancelAll()
	cancelled, err := e.Tokens.CancelPass(ctx, storage)
	return cancelled || busy, err
}

// TidyState is whether tidying is under way.
type TidyState string

// The states of tidying.
const (
	TidyIdle      TidyState = "idle"
	TidyRunning   TidyState = "running"
	TidyCancelled TidyState = "cancelled"
)

// TidyStatus is how tidying stands.
type TidyStatus struct {
	State TidyState
	*token.TidyStatus
	Removed Removed
}

// TidyStatus returns how tidying stands.
func (e *Engine) TidyStatus(ctx context.Context, storage logical.Storage) (*TidyStatus, error) {
	_, busy := e.background.busy()
	tokens, err := e.Tokens.TidyStatus(ctx, storage)
	if err != nil {
		return nil, err
	}
	status := &TidyStatus{State: TidyIdle, TidyStatus: tokens, Removed: e.tidying.counted()}
	switch p := tokens.Pass; {
	case busy || tokens.Wanted || p != nil && p.FinishedAt.IsZero():
		status.State = TidyRunning
	case p != nil && p.Cancelled:
		status.State = TidyCancelled
	}
	return status, nil
}

// Stop ends what is done in the background.
func (e *Engine) Stop(ctx context.Context) { e.background.stop(ctx) }

// inBackground does a job until it is done or ctx ends. What it does is reported as
// it goes on.
func (e *Engine) inBackground(ctx context.Context, j job) {
	if j == dryRunJob {
		if err := e.Tokens.DryRun(ctx, e.Storage, safetyMargin); err != nil {
			e.Report(&TidyResult{Tokens: &token.TidyResult{}}, err)
		}
		return
	}
	e.tidying.run.Lock() // a periodic run that has begun ends within its budget
	defer e.tidying.run.Unlock()
	for more := true; more && ctx.Err() == nil; {
		done := &TidyResult{Tokens: &token.TidyResult{}}
		err := e.removeDue(ctx, e.Storage, done)
		e.Report(done, err)
		more = done.Tokens.More
	}
}
