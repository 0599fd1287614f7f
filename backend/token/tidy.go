package token

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/hashicorp/vault/sdk/logical"

	"github.com/vault-tokens/vault-plugin-secrets-tokens/backend/store"
)

const (
	// A run stops after so many removals, so that it does not flood the log, and
	// after so many failures in a row, since the storage is then down.
	maxRemovals = 1000
	maxFailures = 10
	// burst is how long a run works before it rests for as long, so that it takes at
	// most half of one core, or of one stream of the storage.
	burst = 50 * time.Millisecond
	// showEvery is after how many records the status of a run is brought up to date.
	showEvery = 100
)

// TidyResult is what one run did.
type TidyResult struct {
	Expired []*Ended // tokens that had expired without a lease to report it
	Ended   []*Ended // tokens that a kill switch had ended
	Pass    Pass     // so far; zero if none was due
	// More: the pass is not finished, or another one is wanted, and the storage works.
	More bool
}

// Tidy looks at some of the records, where the last run stopped, until ctx ends.
// It removes those of tokens that expired longer than margin ago, ends the tokens
// that a kill switch made dead, and removes slots of caps without a record. It keeps
// its place in the storage.
func (t *Tokens) Tidy(ctx context.Context, storage logical.Storage, margin time.Duration) (*TidyResult, error) {
	select {
	case t.tidying.running <- struct{}{}:
	default:
		return &TidyResult{}, nil
	}
	defer func() { <-t.tidying.running }()
	p, err := t.currentPass(ctx, storage)
	if err != nil || p == nil {
		return &TidyResult{}, err
	}
	run := &tidyRun{tokens: t, storage: storage, margin: margin, pass: p, began: t.clock()}
	run.records(ctx)
	run.caps(ctx)
	t.tidying.set(p)
	if err := t.tidying.entries.Put(ctx, storage, passName, p); err != nil {
		run.stalled = true
		run.failed = append(run.failed, err)
	}
	if !p.underWay() {
		run.failed = append(run.failed, t.endVisit(ctx, storage, p.Failed == 0))
	}
	more := !run.stalled && run.inARow < maxFailures && !t.tidying.isCancelling() && (p.underWay() || t.tidying.isWanted())
	return &TidyResult{Expired: run.expired, Ended: run.ended, Pass: *p, More: more}, errors.Join(run.failed...)
}

// DryRun looks at all records, until ctx ends, and counts what Tidy would remove
// among them. It removes nothing, and leaves the slots of caps alone.
func (t *Tokens) DryRun(ctx context.Context, storage logical.Storage, margin time.Duration) error {
	p := &Pass{StartedAt: t.clock().UTC(), DryRun: true}
	t.tidying.set(p)
	run := &tidyRun{tokens: t, storage: storage, margin: margin, pass: p, began: t.clock()}
	defer func() { // whatever ends it
		p.FinishedAt, p.Cancelled = t.clock().UTC(), p.Shard < len(shards)
		t.tidying.set(p)
	}()
	run.records(ctx)
	return errors.Join(run.failed...)
}

// tidyRun is one run of a pass.
type tidyRun struct {
	tokens  *Tokens
	storage logical.Storage
	margin  time.Duration
	pass    *Pass
	expired []*Ended
	ended   []*Ended
	failed  []error
	inARow  int       // failures
	stalled bool      // a failure ended it
	began   time.Time // the burst under way
}

// stop reports whether the run has to end.
func (r *tidyRun) stop(ctx context.Context) bool {
	return ctx.Err() != nil || r.inARow >= maxFailures || len(r.expired)+len(r.ended) >= maxRemovals ||
		!r.pass.DryRun && r.tokens.tidying.isCancelling()
}

// failUnlessOver notes a failure, or reports that the run's time is over, which is
// none. A storage that is down must not make thousands of lines.
func (r *tidyRun) failUnlessOver(ctx context.Context, err error) (over bool) {
	if ctx.Err() != nil {
		return true
	}
	r.pass.Failed++
	if !errors.Is(err, store.ErrUndecodable) { // the storage works
		r.inARow++
	}
	if len(r.failed) < maxFailures {
		r.failed = append(r.failed, err)
	}
	return false
}

// pace rests for as long as the run has worked. It holds no lock meanwhile.
func (r *tidyRun) pace(ctx context.Context) {
	worked := r.tokens.clock().Sub(r.began)
	if worked >= 0 && worked < burst {
		return
	}
	r.tokens.rest(ctx, burst)
	r.began = r.tokens.clock()
}

// rest waits, or until ctx ends.
func rest(ctx context.Context, d time.Duration) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-ctx.Done():
	}
}

func (r *tidyRun) records(ctx context.Context) {
	for r.pass.Shard < len(shards) && !r.stop(ctx) {
		ids, err := r.tokens.records.shardAfter(ctx, r.storage, r.pass.Shard, r.pass.After)
		if err != nil {
			r.stalled = !r.failUnlessOver(ctx, err)
			return
		}
		for _, id := range ids {
			if r.stop(ctx) {
				return
			}
			if err := r.record(ctx, id); err == nil {
				r.inARow = 0
			} else if r.failUnlessOver(ctx, fmt.Errorf("tidy token %s: %w", id, err)) {
				return // the next run begins with this one
			}
			r.pass.Looked++
			r.pass.After = id
			if r.pass.Looked%showEvery == 0 {
				r.tokens.tidying.set(r.pass)
			}
			r.pace(ctx)
		}
		r.pass.Shard++
		r.pass.After = ""
	}
}

// fate is what becomes of a record.
type fate int

const (
	stays   fate = iota
	expired      // long ago
	dead         // its token was ended by a kill switch
)

func (r *tidyRun) fate(ctx context.Context, record *Record) (fate, error) {
	if !r.tokens.clock().Before(record.ExpiresAt.Add(r.margin)) {
		return expired, nil
	}
	ended, err := r.tokens.dead(ctx, r.storage, record)
	if ended {
		return dead, err
	}
	return stays, err
}

// record ends the token of a record if it is dead or expired long ago.
func (r *tidyRun) record(ctx context.Context, id string) error {
	records := r.tokens.records
	record, err := records.Read(ctx, r.storage, id)
	if err != nil || record == nil {
		return err
	}
	fate, err := r.fate(ctx, record)
	if err != nil {
		return err
	}
	if fate == stays || r.pass.DryRun {
		r.count(fate, record)
		return nil
	}
	// Again under the lock: the token may just have been renewed.
	defer records.Lock(id)()
	if record, err = records.Read(ctx, r.storage, id); err != nil || record == nil {
		return err
	}
	if fate, err = r.fate(ctx, record); err != nil {
		return err
	}
	// Whether or not the removal is confirmed: this is the only trace of it.
	r.count(fate, record)
	if fate == stays {
		return nil
	}
	return r.tokens.end(ctx, r.storage, record)
}

// count notes what becomes of a record.
func (r *tidyRun) count(fate fate, record *Record) {
	p := r.pass
	switch fate {
	case stays:
		p.Left++
		if !p.DryRun {
			r.tokens.visit(record)
		}
	case expired:
		p.Removed++
	case dead:
		p.Ended++
	}
	if p.DryRun {
		return
	}
	switch now := r.tokens.clock(); fate {
	case expired:
		r.expired = append(r.expired, record.ended(now))
	case dead:
		r.ended = append(r.ended, record.ended(now))
	}
}

// visit shows a record to the visitor, if it has seen the pass from its beginning.
func (t *Tokens) visit(record *Record) {
	t.tidying.mu.Lock()
	visiting := t.tidying.visiting
	t.tidying.mu.Unlock()
	if visiting {
		t.Visitor.Visit(record)
	}
}

// caps removes the slots of caps that have no record, role by role.
func (r *tidyRun) caps(ctx context.Context) {
	if r.pass.Shard < len(shards) || r.stop(ctx) {
		return
	}
	roles, err := r.tokens.records.caps.roleNames(ctx, r.storage)
	if err != nil {
		r.stalled = !r.failUnlessOver(ctx, err)
		return
	}
	slices.Sort(roles)
	for _, role := range roles {
		if role < r.pass.Role {
			continue
		}
		if role != r.pass.Role {
			r.pass.Role, r.pass.After = role, ""
		}
		if r.stop(ctx) {
			return
		}
		removed, last, err := r.tokens.records.caps.reconcile(ctx, r.storage, role, r.pass.After, r.tokens.records.expiry(r.storage))
		r.pass.Slots += removed
		r.pass.After = last
		if err == nil {
			r.inARow = 0
		} else if r.failUnlessOver(ctx, err) {
			return
		}
	}
	r.pass.FinishedAt = r.tokens.clock().UTC()
}
