package token

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/hashicorp/vault/sdk/logical"

	"github.com/vault-tokens/vault-plugin-secrets-tokens/backend/store"
)

const (
	// passEvery is how often all records are looked at. A token with a lease ends
	// with it, so that only those without one, and what faults leave, need it.
	passEvery = 12 * time.Hour
	// A run stops after so many removals, so that it does not flood the log, and
	// after so many failures in a row, since the storage is then down.
	maxRemovals = 1000
	maxFailures = 10
)

// tidying is the pass over all records that is under way, or the last one.
type tidying struct {
	entries store.Entries[pass]
	running sync.Mutex // one run at a time

	mu       sync.Mutex
	pass     *pass // nil before it was read
	complete pass  // the last that was seen finished; for Counts
}

// invalidate follows the change of a storage key elsewhere.
func (t *tidying) invalidate(key string) bool {
	ours := key == passPrefix+passName
	if ours {
		t.set(nil)
	}
	return ours
}

func (t *tidying) set(p *pass) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.pass = p
	if p != nil && !p.FinishedAt.IsZero() {
		t.complete = *p
	}
}

func (t *tidying) get() *pass {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.pass
}

// pass is where a pass over all records stands. It is stored, so that a process
// which restarts goes on and does not start over.
type pass struct {
	StartedAt  time.Time `json:"started_at"`
	FinishedAt time.Time `json:"finished_at,omitzero"` // zero: under way
	Shard      int       `json:"shard"`                // of the records; then the caps
	Role       string    `json:"role,omitempty"`       // of the caps
	After      string    `json:"after"`                // the last id that was looked at
	Looked     int       `json:"looked"`
	Removed    int       `json:"removed"`
	Slots      int       `json:"slots"` // of caps, removed
	Failed     int       `json:"failed"`
}

const (
	passPrefix = "tidy/"
	passName   = "tokens"
)

// TidyResult is what one run did.
type TidyResult struct {
	Expired []*Ended // tokens that had expired without a lease to report it
	Pass    pass     // so far
}

// Tidy looks at some of the records, where the last run stopped, until ctx ends.
// It removes those of tokens that expired longer than margin ago, and slots of
// caps without a record. It keeps its place in the storage.
func (t *Tokens) Tidy(ctx context.Context, storage logical.Storage, margin time.Duration) (*TidyResult, error) {
	if !t.tidying.running.TryLock() {
		return &TidyResult{}, nil
	}
	defer t.tidying.running.Unlock()
	p, err := t.currentPass(ctx, storage)
	if err != nil || p == nil {
		return &TidyResult{}, err
	}
	run := &tidyRun{tokens: t, storage: storage, margin: margin, pass: p}
	run.records(ctx)
	run.caps(ctx)
	t.tidying.set(p)
	if err := t.tidying.entries.Put(ctx, storage, passName, p); err != nil {
		run.failed = append(run.failed, err)
	}
	return &TidyResult{Expired: run.expired, Pass: *p}, errors.Join(run.failed...)
}

// currentPass returns the pass under way, or a new one if it is time for one, or
// nil.
func (t *Tokens) currentPass(ctx context.Context, storage logical.Storage) (*pass, error) {
	p := t.tidying.get()
	if p == nil {
		stored, err := t.tidying.entries.Read(ctx, storage, passName)
		if err != nil && !errors.Is(err, store.ErrUndecodable) {
			return nil, err
		}
		p = stored
		t.tidying.set(p)
	}
	now := t.clock()
	if p != nil && p.Shard >= 0 && p.Shard <= len(shards) {
		age := now.Sub(p.StartedAt)
		if p.FinishedAt.IsZero() && age >= 0 {
			changed := *p
			return &changed, nil
		}
		if age >= 0 && age < passEvery { // a pass from the future counts for nothing
			return nil, nil
		}
	}
	return &pass{StartedAt: now}, nil
}

// tidyRun is one run of a pass.
type tidyRun struct {
	tokens  *Tokens
	storage logical.Storage
	margin  time.Duration
	pass    *pass
	expired []*Ended
	failed  []error
	inARow  int // failures
}

// stop reports whether the run has to end.
func (r *tidyRun) stop(ctx context.Context) bool {
	return ctx.Err() != nil || r.inARow >= maxFailures || len(r.expired) >= maxRemovals
}

// failUnlessOver notes a failure, or reports that the run's time is over, which is
// none. A storage that is down must not make thousands of lines.
func (r *tidyRun) failUnlessOver(ctx context.Context, err error) (over bool) {
	if ctx.Err() != nil {
		return true
	}
	r.pass.Failed++
	r.inARow++
	if len(r.failed) < maxFailures {
		r.failed = append(r.failed, err)
	}
	return false
}

func (r *tidyRun) records(ctx context.Context) {
	for r.pass.Shard < len(shards) && !r.stop(ctx) {
		ids, err := r.tokens.records.List(ctx, r.storage, shards[r.pass.Shard:r.pass.Shard+1]+"/")
		if err != nil {
			r.failUnlessOver(ctx, err)
			return
		}
		slices.Sort(ids)
		from, found := slices.BinarySearch(ids, r.pass.After)
		if found {
			from++
		}
		for _, id := range ids[from:] {
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
		}
		r.pass.Shard++
		r.pass.After = ""
	}
}

// record removes a record if its token expired long ago.
func (r *tidyRun) record(ctx context.Context, id string) error {
	records := r.tokens.records
	ended := func(record *Record) bool {
		return record != nil && !r.tokens.clock().Before(record.ExpiresAt.Add(r.margin))
	}
	if record, err := records.Read(ctx, r.storage, id); err != nil || !ended(record) {
		return err
	}
	// Again under the lock: the token may just have been renewed.
	defer records.Lock(id)()
	record, err := records.Read(ctx, r.storage, id)
	if err != nil || !ended(record) {
		return err
	}
	// Whether or not the removal is confirmed: this is the only trace of it.
	r.expired = append(r.expired, record.ended(r.tokens.clock()))
	r.pass.Removed++
	return records.remove(ctx, r.storage, record)
}

// caps removes the slots of caps that have no record, role by role.
func (r *tidyRun) caps(ctx context.Context) {
	if r.pass.Shard < len(shards) || r.stop(ctx) {
		return
	}
	roles, err := r.tokens.records.caps.roleNames(ctx, r.storage)
	if err != nil {
		r.failUnlessOver(ctx, err)
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
	r.pass.FinishedAt = r.tokens.clock()
}
