package cutoff

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"time"

	"github.com/hashicorp/vault/sdk/logical"
)

// maxFailures end a run: the storage is then down.
const maxFailures = 10

// tidying is one run of Tidy.
type tidying struct {
	storage logical.Storage
	now     time.Time
	cleaned time.Time
	margin  time.Duration
	horizon func() (time.Time, error)
	until   *time.Time // what horizon returned
	removed int
}

func (t *tidying) kind(ctx context.Context, k *kind) error {
	if err := k.load(ctx, t.storage); err != nil {
		return err
	}
	names, err := k.entries.List(ctx, t.storage, "") // with those that are superseded
	if err != nil {
		return err
	}
	newest := newestOf(names)
	rand.Shuffle(len(names), func(i, j int) { names[i], names[j] = names[j], names[i] })
	var failed []error
	for _, name := range names {
		if ctx.Err() != nil || len(failed) >= maxFailures {
			break // a later run begins elsewhere
		}
		id, seconds, ok := parseName(name)
		if !ok {
			continue // of a later version: not ours to remove
		}
		if seconds < newest[id] {
			err = t.remove(ctx, k, id, seconds)
		} else {
			err = t.entry(ctx, k, id, seconds)
		}
		if err != nil && ctx.Err() == nil {
			failed = append(failed, fmt.Errorf("tidy cut-off: %w", err))
		}
	}
	return errors.Join(failed...)
}

// newestOf returns the latest stored cut-off of each id. Only a stored one supersedes
// another: one that is known here may have failed to be stored, and go with this
// process.
func newestOf(names []string) map[string]int64 {
	newest := make(map[string]int64, len(names))
	for _, name := range names {
		if id, seconds, ok := parseName(name); ok {
			newest[id] = max(newest[id], seconds)
		}
	}
	return newest
}

func (t *tidying) entry(ctx context.Context, k *kind, id string, seconds int64) error {
	// A token may have been on its way at the time, or the clock been wrong.
	if at := timeOf(seconds); !t.now.After(at.Add(t.margin)) || !t.cleaned.After(at.Add(t.margin)) {
		return nil
	}
	entry, err := k.entries.Read(ctx, t.storage, nameOf(id, seconds))
	switch {
	case err != nil || entry == nil:
		return err
	case entry.Until.IsZero():
		return t.date(ctx, k, id, seconds, entry)
	case t.now.After(entry.Until.Add(t.margin)):
		return t.remove(ctx, k, id, seconds)
	}
	return nil
}

// date stores until when a cut-off is needed.
func (t *tidying) date(ctx context.Context, k *kind, id string, seconds int64, entry *Entry) error {
	if t.until == nil {
		until, err := t.horizon()
		if err != nil {
			return err
		}
		if until.Before(t.now) {
			until = t.now
		}
		t.until = &until
	}
	entry.Until = *t.until
	return k.entries.Put(ctx, t.storage, nameOf(id, seconds), entry)
}

// remove deletes an entry. If it is not known whether it went, it stays in effect
// here.
func (t *tidying) remove(ctx context.Context, k *kind, id string, seconds int64) error {
	if err := k.entries.Delete(ctx, t.storage, nameOf(id, seconds)); err != nil {
		return err
	}
	k.forget(id, seconds)
	t.removed++
	return nil
}
