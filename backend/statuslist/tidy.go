package statuslist

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"time"

	"github.com/hashicorp/vault/sdk/logical"
)

const (
	// sweepEvery is how often the expired revocations of a list are removed, and
	// those without a list looked for.
	sweepEvery = 6 * time.Hour
	// undatedMargin is when a revocation of format 0, which has no expiry in its
	// name, is removed if its list is gone: long after any token it can be of.
	undatedMargin = 2 * 365 * 24 * time.Hour
	// maxFailures in a row end a run: the storage is then down.
	maxFailures = 10
)

// Tidied is what a run of Tidy removed.
type Tidied struct{ Lists, Revocations int }

// Tidy removes lists on which every token expired longer than margin ago, and
// revocations of such tokens. It stops when ctx ends, and the next run begins
// elsewhere. What cannot be removed concerns that list alone.
func (l *Lists) Tidy(ctx context.Context, storage logical.Storage, margin time.Duration) (Tidied, error) {
	var done Tidied
	if err := l.listIDs(ctx, storage); err != nil {
		return done, err
	}
	ids := l.knownIDs() // with those that were removed without a reply
	rand.Shuffle(len(ids), func(i, j int) { ids[i], ids[j] = ids[j], ids[i] })
	var failed []error
	inARow := 0
	for _, id := range ids {
		if ctx.Err() != nil || inARow >= maxFailures {
			break
		}
		inARow++
		switch err := l.tidyList(ctx, storage, id, margin, &done); {
		case err == nil:
			inARow = 0
		case ctx.Err() == nil: // else its time is over, and a later run does it
			failed = append(failed, fmt.Errorf("tidy status list %s: %w", id, err))
		}
	}
	if err := l.tidyOrphans(ctx, storage, margin, &done); err != nil {
		failed = append(failed, err)
	}
	return done, summary(failed)
}

// summary keeps what one broken storage says thousands of times short.
func summary(failed []error) error {
	const most = 5
	if len(failed) > most {
		failed = append(failed[:most:most], fmt.Errorf("and %d more", len(failed)-most))
	}
	return errors.Join(failed...)
}

func (l *Lists) tidyList(ctx context.Context, storage logical.Storage, id string, margin time.Duration, done *Tidied) error {
	now := l.clock()
	until, swept := l.horizonOf(id)
	var owner Owner
	if until.IsZero() || !now.Before(until.Add(margin)) {
		stored, err := l.entries.Read(ctx, storage, id)
		if err != nil {
			return err
		}
		if stored == nil { // somebody has removed it; its revocations are orphans
			l.drop(id)
			return nil
		}
		until, owner = stored.Until, stored.Owner
		l.noteHorizon(id, func(h *horizon) { h.until = until })
	}
	if !now.Before(until.Add(margin)) {
		return l.remove(ctx, storage, id, owner, done)
	}
	if age := now.Sub(swept); age >= 0 && age < sweepEvery {
		return nil
	}
	if err := l.sweep(ctx, storage, id, margin, done); err != nil {
		return err
	}
	l.noteHorizon(id, func(h *horizon) { h.swept = now })
	return nil
}

func (l *Lists) horizonOf(id string) (until, swept time.Time) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if h := l.known[id]; h != nil {
		return h.until, h.swept
	}
	return time.Time{}, time.Time{}
}

func (l *Lists) noteHorizon(id string, note func(*horizon)) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if h := l.known[id]; h != nil {
		note(h)
	}
}

// remove deletes a list, and then its revocations: without its list a token is
// refused, without its revocation it is not. Revocations that a crash leaves are
// found by tidyOrphans.
func (l *Lists) remove(ctx context.Context, storage logical.Storage, id string, owner Owner, done *Tidied) error {
	w := l.writer(owner)
	select {
	case w.changes <- struct{}{}:
		defer func() { <-w.changes }()
	default:
		return nil // a list of this owner is being written just now; the next run looks again
	}
	l.stopFilling(id)
	if err := l.entries.Delete(ctx, storage, id); err != nil {
		return err // it may be gone or not; the next run looks
	}
	l.drop(id)
	done.Lists++
	return l.removeRevocations(ctx, storage, id, done, func(string, mark) (bool, error) { return true, nil })
}

func (l *Lists) knownIDs() []string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return slices.Collect(maps.Keys(l.known))
}

// drop forgets that a list exists.
func (l *Lists) drop(id string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.forget(id)
	delete(l.known, id)
}

// stopFilling makes sure that no token joins the list. The owner's changes are
// held.
func (l *Lists) stopFilling(id string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if li, ok := l.loaded.Peek(id); ok {
		l.closeList(li)
	}
}

// sweep removes the revocations of a list that concern one token, if that expired
// long ago. The few that concern many stay as long as their list.
func (l *Lists) sweep(ctx context.Context, storage logical.Storage, id string, margin time.Duration, done *Tidied) error {
	before := l.clock().Add(-margin)
	return l.removeRevocations(ctx, storage, id, done, func(_ string, m mark) (bool, error) {
		return m.index >= 0 && !m.expires.IsZero() && m.expires.Before(before), nil
	})
}

func (l *Lists) removeRevocations(ctx context.Context, storage logical.Storage, id string, done *Tidied, ended func(name string, m mark) (bool, error)) error {
	names, err := l.revocations.List(ctx, storage, id+"/")
	if err != nil {
		return err
	}
	for _, name := range names {
		if err := ctx.Err(); err != nil {
			return err
		}
		m, err := parseMark(name)
		if err != nil {
			continue // of a later version, or damaged: not ours to remove
		}
		remove, err := ended(name, m)
		if err != nil {
			return err
		}
		if !remove {
			continue
		}
		if err := l.revocations.Delete(ctx, storage, id+"/"+name); err != nil {
			return err
		}
		done.Revocations++
	}
	return nil
}

// tidyOrphans removes revocations whose list is gone, once their own tokens
// expired long ago: the list of a token may also come back, with a snapshot.
func (l *Lists) tidyOrphans(ctx context.Context, storage logical.Storage, margin time.Duration, done *Tidied) error {
	now := l.clock()
	l.mu.Lock()
	age := now.Sub(l.orphansAt)
	l.mu.Unlock()
	if age >= 0 && age < sweepEvery || ctx.Err() != nil {
		return nil
	}
	folders, err := l.revocations.List(ctx, storage, "")
	if err != nil {
		return err
	}
	var failed []error
	for _, folder := range folders {
		id := strings.TrimSuffix(folder, "/")
		if known, _ := l.isKnown(id); known {
			continue
		}
		stored, err := l.entries.Read(ctx, storage, id)
		if stored != nil {
			continue // it is not gone
		}
		if err == nil {
			err = l.removeRevocations(ctx, storage, id, done, func(name string, m mark) (bool, error) {
				if !m.expires.IsZero() {
					return now.After(m.expires.Add(margin)), nil
				}
				revocation, err := l.revocations.Read(ctx, storage, id+"/"+name)
				return revocation != nil && now.After(revocation.RevokedAt.Add(undatedMargin)), err
			})
		}
		if ctx.Err() != nil {
			return summary(failed) // its time is over, and the next run goes on
		}
		if err != nil {
			failed = append(failed, err)
		}
		if len(failed) >= maxFailures {
			break
		}
	}
	if len(failed) == 0 {
		l.mu.Lock()
		defer l.mu.Unlock()
		l.orphansAt = now
	}
	return summary(failed)
}
