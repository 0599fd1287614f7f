package token

import (
	"context"
	"errors"
	"strings"
	"sync"
	"time"

	"github.com/hashicorp/vault/sdk/logical"

	"github.com/vault-tokens/vault-plugin-secrets-tokens/backend/store"
)

const (
	// passEvery is how often all records are looked at. A token with a lease ends
	// with it, so that only those without one, and what faults leave, need it.
	passEvery = 12 * time.Hour
	// retryEvery is how soon a pass follows one that could not do all of it: what it
	// left may be a token that a kill switch has ended, and that is not marked so in
	// its status list.
	retryEvery = time.Hour
)

// Pass is where a pass over all records stands. It is stored, so that a process
// which restarts goes on and does not start over.
type Pass struct {
	StartedAt  time.Time `json:"started_at"`
	FinishedAt time.Time `json:"finished_at,omitzero"` // zero: under way
	Cancelled  bool      `json:"cancelled,omitempty"`  // it has finished before its end
	DryRun     bool      `json:"-"`                    // it removes nothing, and is not stored
	Shard      int       `json:"shard"`                // of the records; then the caps
	Role       string    `json:"role,omitempty"`       // of the caps
	After      string    `json:"after"`                // the last id that was looked at
	Looked     int       `json:"looked"`
	Removed    int       `json:"removed"` // of tokens that had expired
	Ended      int       `json:"ended"`   // tokens that a kill switch had ended
	Left       int       `json:"left"`    // records
	Slots      int       `json:"slots"`   // of caps, removed
	Failed     int       `json:"failed"`
	// Complete is the last one before it that looked at all records.
	Complete *Pass `json:"complete,omitempty"`
}

const (
	passPrefix = "tidy/"
	passName   = "tokens"
)

func (p *Pass) underWay() bool { return p != nil && p.FinishedAt.IsZero() }

// complete returns the last pass that looked at all records, or nil.
func (p *Pass) complete() *Pass {
	switch {
	case p == nil:
		return nil
	case p.underWay() || p.Cancelled:
		return p.Complete
	}
	last := *p
	last.Complete = nil
	return &last
}

// valid reports whether the pass is one to go on from: a stored one that makes no
// sense, or is from the future, counts for nothing.
func (p *Pass) valid(now time.Time) bool {
	return p != nil && p.Shard >= 0 && p.Shard <= len(shards) && !p.StartedAt.After(now)
}

// due reports whether another pass has to follow one that has finished.
func (p *Pass) due(now time.Time) bool {
	every := passEvery
	if p.Failed > 0 && !p.Cancelled {
		every = retryEvery
	}
	return now.Sub(p.StartedAt) >= every
}

// Position is about how much of the pass is done, from 0 to 1. Ids are uniform, so
// that the last one tells how far a shard is done.
func (p *Pass) Position() float64 {
	if !p.FinishedAt.IsZero() && !p.Cancelled {
		return 1
	}
	const digits = float64(len(shards))
	within := 0.0
	if p.Shard < len(shards) && len(p.After) > 1 {
		first, second := strings.IndexByte(shards, p.After[0]), strings.IndexByte(shards, p.After[1])
		within = max(0, (float64(first)+float64(second)/digits)/digits)
	}
	return (float64(p.Shard) + within) / (digits + 1) // the caps come last
}

// Visitor sees what is left by a pass over all records, if one process makes all of
// the pass. A pass may begin again without having ended.
type Visitor interface {
	// Begin is called when a pass begins, and reports whether there is something to
	// see. Records that are written later may not be visited.
	Begin() bool
	// Visit is called with each record that the pass leaves, and must not change it.
	Visit(record *Record)
	// End is called at the end of the pass. It is complete if no record failed, and
	// the pass was not cancelled. An error is one of the run, and is not repeated.
	End(ctx context.Context, storage logical.Storage, complete bool) error
}

// tidying is the pass over all records that is under way, or the last one.
type tidying struct {
	entries store.Entries[Pass]
	running chan struct{} // held by a run, and by who cancels the pass

	mu         sync.Mutex // never held during I/O
	pass       *Pass      // replaced as a whole; nil before it was read
	dry        *Pass      // the dry run of this process, if there was one
	again      bool       // a pass is wanted that begins from now on
	cancelling bool       // a run has to stop
	visiting   bool       // the visitor has seen all of the pass under way
}

func newTidying() *tidying {
	return &tidying{
		entries: store.Entries[Pass]{Prefix: passPrefix, Format: 1},
		running: make(chan struct{}, 1),
	}
}

// invalidate follows the change of a storage key elsewhere.
func (t *tidying) invalidate(key string) bool {
	ours := key == passPrefix+passName
	if ours {
		t.mu.Lock()
		defer t.mu.Unlock()
		t.pass, t.visiting = nil, false
	}
	return ours
}

// set takes over where a pass stands.
func (t *tidying) set(p *Pass) {
	now := *p
	t.mu.Lock()
	defer t.mu.Unlock()
	if p.DryRun {
		t.dry = &now
	} else {
		t.pass = &now
	}
}

func (t *tidying) get() *Pass {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.pass
}

func (t *tidying) isCancelling() bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.cancelling
}

func (t *tidying) setCancelling(to bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.cancelling = to
}

// takeAgain reports whether another pass is wanted. The one that begins now is it.
func (t *tidying) takeAgain() bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	again := t.again
	t.again = false
	return again
}

func (t *tidying) wantAgain(yes bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.again = yes
}

func (t *tidying) isWanted() bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.again
}

// WantPass asks for a pass over all records that begins from now on: one that is
// under way has looked at some of them already. Tidy makes it.
func (t *Tokens) WantPass() { t.tidying.wantAgain(true) }

// lastPass returns the pass under way or the last one, nil if there was none. The
// first time in a process, a cut-off that is not older than it makes another pass
// wanted: nothing is written to remember that.
func (t *Tokens) lastPass(ctx context.Context, storage logical.Storage) (*Pass, error) {
	if p := t.tidying.get(); p != nil {
		return p, nil
	}
	p, err := t.tidying.entries.Read(ctx, storage, passName)
	if err != nil && !errors.Is(err, store.ErrUndecodable) || p == nil {
		return nil, ignoreUndecodable(err)
	}
	newest, err := t.cutoffs.Newest(ctx, storage)
	if err != nil {
		return nil, err
	}
	return t.tidying.takeOver(p, newest.Unix() >= p.StartedAt.Unix()), nil
}

// takeOver begins with a pass that was read, and perhaps the wish for another, unless
// one is known by now: then what was read is of before.
func (t *tidying) takeOver(read *Pass, again bool) *Pass {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.pass == nil {
		t.pass = read
		t.again = t.again || again
	}
	return t.pass
}

func ignoreUndecodable(err error) error {
	if errors.Is(err, store.ErrUndecodable) {
		return nil
	}
	return err
}

// currentPass returns the pass under way, or a new one if it is time for one, or
// nil.
func (t *Tokens) currentPass(ctx context.Context, storage logical.Storage) (*Pass, error) {
	p, err := t.lastPass(ctx, storage)
	if err != nil {
		return nil, err
	}
	now := t.clock()
	if p.valid(now) {
		if p.underWay() {
			changed := *p
			return &changed, nil
		}
		if !t.tidying.isWanted() && !p.due(now) {
			return nil, nil
		}
	}
	return t.beginPass(p), nil
}

func (t *Tokens) beginPass(last *Pass) *Pass {
	visiting := t.Visitor != nil && t.Visitor.Begin()
	t.tidying.takeAgain()
	p := &Pass{StartedAt: t.clock().UTC(), Complete: last.complete()}
	t.tidying.set(p)
	t.tidying.mu.Lock()
	defer t.tidying.mu.Unlock()
	t.tidying.visiting = visiting
	return p
}

// LastComplete returns the last pass that looked at all records, or nil if there was
// none.
func (t *Tokens) LastComplete(ctx context.Context, storage logical.Storage) (*Pass, error) {
	p, err := t.lastPass(ctx, storage)
	if err != nil {
		return nil, err
	}
	if last := p.complete(); last.valid(t.clock()) {
		return last, nil
	}
	return nil, nil
}

// TidyStatus is how tidying stands.
type TidyStatus struct {
	Pass     *Pass // a dry run, if one is under way or was the last; nil if there was none
	Complete *Pass // the last that looked at all records, or nil
	Wanted   bool  // another pass follows
}

// TidyStatus returns how tidying stands.
func (t *Tokens) TidyStatus(ctx context.Context, storage logical.Storage) (*TidyStatus, error) {
	p, err := t.lastPass(ctx, storage)
	if err != nil {
		return nil, err
	}
	t.tidying.mu.Lock()
	status := &TidyStatus{Pass: p, Wanted: t.tidying.again}
	if dry := t.tidying.dry; dry.underWay() || dry != nil && !p.underWay() && (p == nil || dry.StartedAt.After(p.StartedAt)) {
		status.Pass = dry
	}
	t.tidying.mu.Unlock()
	status.Complete, err = t.LastComplete(ctx, storage)
	return status, err
}

// CancelPass ends the pass that is under way, and the wish for another, and reports
// whether there was any. The next one begins in its time. What the pass has removed
// stays removed, and dead tokens that it has not come to stay dead.
func (t *Tokens) CancelPass(ctx context.Context, storage logical.Storage) (bool, error) {
	t.tidying.setCancelling(true)
	defer t.tidying.setCancelling(false)
	select {
	case t.tidying.running <- struct{}{}: // the run, if there is one, stops
	case <-ctx.Done():
		return false, ctx.Err()
	}
	defer func() { <-t.tidying.running }()
	p, err := t.lastPass(ctx, storage)
	if err != nil {
		return false, err
	}
	if !p.underWay() {
		return t.tidying.takeAgain(), nil
	}
	cancelled := *p
	cancelled.Cancelled, cancelled.FinishedAt = true, t.clock().UTC()
	if err := t.tidying.entries.Put(ctx, storage, passName, &cancelled); err != nil {
		return false, err // it goes on
	}
	t.tidying.wantAgain(false)
	t.tidying.set(&cancelled)
	return true, t.endVisit(ctx, storage, false)
}

// endVisit tells the visitor, if it has seen the pass from its beginning.
func (t *Tokens) endVisit(ctx context.Context, storage logical.Storage, complete bool) error {
	t.tidying.mu.Lock()
	visiting := t.tidying.visiting
	t.tidying.visiting = false
	t.tidying.mu.Unlock()
	if !visiting {
		return nil
	}
	return t.Visitor.End(ctx, storage, complete)
}
