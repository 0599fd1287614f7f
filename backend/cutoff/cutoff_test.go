package cutoff

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/vault-tokens/vault-plugin-secrets-tokens/backend/store/storetest"
	"github.com/vault-tokens/vault-plugin-secrets-tokens/backend/usererror"
)

const margin = 24 * time.Hour

// fixture is the cut-offs of a mount on a storage that can fail, at a time that the
// test sets.
type fixture struct {
	*Cutoffs
	t       *testing.T
	ctx     context.Context
	storage *storetest.Storage
	now     time.Time
	maxAge  time.Duration
}

func newFixture(t *testing.T) *fixture {
	t.Helper()
	f := &fixture{t: t, ctx: context.Background(), storage: &storetest.Storage{}, now: time.Unix(1_900_000_000, 5e8).UTC()}
	f.restart()
	return f
}

func (f *fixture) restart() {
	f.Cutoffs = New(func() time.Time { return f.now }, func() time.Duration { return f.maxAge })
}

func (f *fixture) end(id string) time.Time {
	f.t.Helper()
	at, err := f.EndEntity(f.ctx, f.storage, id)
	if err != nil {
		f.t.Fatal(err)
	}
	return at
}

func (f *fixture) want(when, id string, want time.Time) {
	f.t.Helper()
	if got, err := f.Entity(f.ctx, f.storage, id); err != nil || !got.Equal(want) {
		f.t.Errorf("%s: the cut-off of %s is %s, %v; want %s", when, id, got, err, want)
	}
}

func (f *fixture) stored() []string {
	f.t.Helper()
	names, err := f.entities.entries.List(f.ctx, f.storage, "")
	if err != nil {
		f.t.Fatal(err)
	}
	slices.Sort(names)
	return names
}

// counts wants an exact number of storage operations.
func (f *fixture) counts(what string, reads, writes int64, do func()) {
	f.t.Helper()
	if r, w := f.storage.Count(do); r != reads || w != writes {
		f.t.Errorf("%s: %d reads and %d writes, want %d and %d", what, r, w, reads, writes)
	}
}

func TestCutoff(t *testing.T) {
	f := newFixture(t)
	second := f.now.Truncate(time.Second)
	f.counts("cold", 0, 1, func() {
		if at := f.end("a"); !at.Equal(second) {
			t.Errorf("cut off at %s", at)
		}
	})
	f.counts("first question", 1, 0, func() { f.want("at once", "a", second) })
	f.counts("questions", 0, 0, func() {
		for range 100 {
			f.want("at once", "a", second)
			f.want("at once", "b", time.Time{})
		}
	})
	f.now = f.now.Add(time.Hour)
	f.counts("again", 0, 2, func() { f.end("a") })
	if want := []string{fmt.Sprintf("a.%d", f.now.Unix())}; !slices.Equal(f.stored(), want) {
		t.Errorf("stored are %v, want %v", f.stored(), want)
	}
	for _, when := range []string{"at once", "after a restart"} {
		f.want(when, "a", f.now.Truncate(time.Second))
		entry, err := f.ReadEntity(f.ctx, f.storage, "a")
		if err != nil || !entry.At.Equal(f.now) {
			t.Errorf("%s: %+v, %v", when, entry, err)
		}
		if newest, err := f.Newest(f.ctx, f.storage); err != nil || newest.Unix() != f.now.Unix() {
			t.Errorf("%s: the newest is %s, %v", when, newest, err)
		}
		f.restart()
	}
	if entry, err := f.ReadEntity(f.ctx, f.storage, "b"); entry != nil || err != nil {
		t.Errorf("one without a cut-off: %+v, %v", entry, err)
	}
}

// A role of the same name is something else, and its name may look like an entry's.
func TestRolesAreApart(t *testing.T) {
	f := newFixture(t)
	for _, name := range []string{"a", "a.1", "a.99999999999", "_"} {
		if _, err := f.EndRole(f.ctx, f.storage, name); err != nil {
			t.Fatal(err)
		}
		f.restart()
		f.want("of a role", name, time.Time{})
		if at, err := f.Role(f.ctx, f.storage, name); err != nil || at.Unix() != f.now.Unix() {
			t.Errorf("role %s: %s, %v", name, at, err)
		}
	}
	if at, err := f.Role(f.ctx, f.storage, "a.2"); err != nil || !at.IsZero() {
		t.Errorf("a role without a cut-off: %s, %v", at, err)
	}
}

func TestIDs(t *testing.T) {
	f := newFixture(t)
	for id, ok := range map[string]bool{
		"6ac4ea92-04c3-c6b6-e6d3-5fb2c7a7e9c1": true, "a_B-9": true, strings.Repeat("x", MaxIDLength): true,
		"": false, strings.Repeat("x", MaxIDLength+1): false, "a.1": false, "a/b": false, "..": false, "a b": false, "ä": false, "a\n": false,
	} {
		_, err := f.EndEntity(f.ctx, f.storage, id)
		var mistake *usererror.Error
		if ok != (err == nil) || !ok && (!errors.As(err, &mistake) || mistake.Field != "id") {
			t.Errorf("%.70q: %v", id, err)
		}
	}
}

// Whatever happens to a write, the cut-off is in effect at once, and after the
// caller's retry in every process.
func TestFaults(t *testing.T) {
	for name, inject := range map[string]func(*storetest.Storage){
		"fails":             func(s *storetest.Storage) { s.Before(storetest.Fail(entityPrefix, storetest.Put)) },
		"fails after":       func(s *storetest.Storage) { s.After(storetest.Fail(entityPrefix, storetest.Put)) },
		"lands late":        func(s *storetest.Storage) { s.Hold(entityPrefix) },
		"older one stays":   func(s *storetest.Storage) { s.Before(storetest.Fail(entityPrefix, storetest.Delete)) },
		"nothing is listed": func(s *storetest.Storage) { s.Before(storetest.Fail(entityPrefix, storetest.List)) },
	} {
		for _, known := range []bool{true, false} {
			t.Run(fmt.Sprintf("%s, known %v", name, known), func(t *testing.T) {
				f := newFixture(t)
				f.end("a")
				f.now = f.now.Add(time.Hour)
				f.restart()
				if known {
					f.Entity(f.ctx, f.storage, "a")
				}
				first := f.now.Truncate(time.Second)
				inject(f.storage)
				_, err := f.EndEntity(f.ctx, f.storage, "a")
				f.storage.Heal()
				f.want("at once", "a", first)
				if err != nil && !errors.Is(err, storetest.ErrInjected) {
					t.Error(err)
				}
				f.now = f.now.Add(time.Minute)
				f.storage.Hold("other/")
				at := f.end("a")
				if err := f.storage.Land(nil); err != nil {
					t.Fatal(err)
				}
				for range 2 {
					f.want("after the retry", "a", at)
					f.restart()
				}
				if _, err := f.Tidy(f.ctx, f.storage, time.Time{}, margin, nil); err != nil {
					t.Fatal(err)
				}
				if left := f.stored(); len(left) != 1 {
					t.Errorf("left are %v", left)
				}
				f.restart()
				f.want("after tidying", "a", at)
			})
		}
	}
	t.Run("caller gone", func(t *testing.T) {
		f := newFixture(t)
		gone, cancel := context.WithCancel(f.ctx)
		cancel()
		if _, err := f.EndEntity(gone, f.storage, "a"); err != nil {
			t.Error(err)
		}
		f.restart()
		if _, err := f.Entity(gone, f.storage, "a"); !errors.Is(err, context.Canceled) {
			t.Errorf("a caller that is gone: %v", err)
		}
		f.want("after all", "a", f.now.Truncate(time.Second))
	})
}

// While the cut-offs are not known, nobody is told that there is none.
func TestUnknownIsAnError(t *testing.T) {
	f := newFixture(t)
	f.storage.Before(storetest.Fail("cutoff/", storetest.List))
	if at, err := f.Entity(f.ctx, f.storage, "a"); err == nil {
		t.Errorf("answered %s", at)
	}
	if at, err := f.Newest(f.ctx, f.storage); err == nil {
		t.Errorf("answered %s", at)
	}
	f.storage.Heal()
	f.want("then", "a", time.Time{})
}

// A clock that steps back moves no cut-off, whether or not it is known.
func TestClockStepsBack(t *testing.T) {
	f := newFixture(t)
	late := f.end("a")
	for _, restart := range []func(){func() {}, f.restart} {
		restart()
		f.now = f.now.Add(-time.Hour)
		f.end("a")
		for range 2 {
			f.want("by a clock that is behind", "a", late)
			f.restart()
		}
	}
	f.now = late.Add(time.Minute)
	f.want("by the right one", "a", late)
	if at := f.end("a"); !at.Equal(f.now) {
		t.Errorf("then cut off at %s", at)
	}
}

// All who ask for the first time share one listing, and one who hangs up does not
// end it.
func TestOneListing(t *testing.T) {
	f := newFixture(t)
	f.end("a")
	f.restart()
	arrived, release := make(chan struct{}), make(chan struct{})
	var once sync.Once
	f.storage.Before(func(storetest.Op, string) error {
		once.Do(func() { close(arrived) })
		<-release
		return nil
	})
	var callers sync.WaitGroup
	reads, _ := f.storage.Count(func() {
		first, hangUp := context.WithCancel(f.ctx)
		callers.Go(func() { f.Entity(first, f.storage, "a") })
		<-arrived
		hangUp()
		for range 100 {
			callers.Go(func() { f.want("after one listing", "a", f.now.Truncate(time.Second)) })
		}
		close(release)
		callers.Wait()
	})
	if reads != 1 {
		t.Errorf("%d reads", reads)
	}
}

// What another node writes is seen when the storage says so, even if that is while
// the entries are being listed; and in any case after the maximum age.
func TestNodeThatFollows(t *testing.T) {
	f := newFixture(t)
	leader := f.Cutoffs
	f.restart()
	follower := f.Cutoffs
	f.maxAge = 30 * time.Second
	f.want("before", "a", time.Time{})
	at, err := leader.EndEntity(f.ctx, f.storage, "a")
	if err != nil {
		t.Fatal(err)
	}
	f.want("not told; the test shows nothing otherwise", "a", time.Time{})
	f.counts("invalidation", 0, 0, func() {
		for key, ours := range map[string]bool{
			entityPrefix + nameOf("a", at.Unix()): true, entityPrefix + "x": true, rolePrefix + "a.x": true, "cutoff/other": false, "token/a": false,
		} {
			if follower.Invalidate(key) != ours {
				t.Errorf("Invalidate(%q) is not %v", key, ours)
			}
		}
	})
	f.want("told", "a", at)
	f.storage.After(func(op storetest.Op, key string) error { // written after the listing was made
		if op == storetest.List && key == entityPrefix {
			follower.Invalidate(entityPrefix + nameOf("b", at.Unix()))
		}
		return nil
	})
	f.now = f.now.Add(30 * time.Second)
	f.want("told during a listing", "b", at)
	f.storage.Heal()
	f.want("listed", "a", at)
	if err := f.entities.entries.Delete(f.ctx, f.storage, nameOf("a", at.Unix())); err != nil {
		t.Fatal(err)
	}
	f.want("young", "a", at)
	f.now = f.now.Add(30 * time.Second)
	f.counts("old", 1, 0, func() { f.want("listed again", "a", time.Time{}) })
	f.now = f.now.Add(-time.Hour)
	f.counts("from the future", 1, 0, func() { f.want("listed again", "a", time.Time{}) })
	f.now = f.now.Add(time.Hour)
	f.storage.Before(storetest.Fail(entityPrefix, storetest.List))
	if at, err := f.Entity(f.ctx, f.storage, "a"); err == nil {
		t.Errorf("an old listing passed for %s", at)
	}
}

// A cut-off stays until a complete pass began a day after it, and everything has
// expired that was signed by then.
func TestTidy(t *testing.T) {
	f := newFixture(t)
	at := f.end("a")
	horizon := at.Add(30 * 24 * time.Hour)
	asked := 0
	tidy := func(cleaned time.Time, removed int) {
		t.Helper()
		f.restart()
		n, err := f.Tidy(f.ctx, f.storage, cleaned, margin, func() (time.Time, error) { asked++; return horizon, nil })
		if err != nil || n != removed {
			t.Errorf("removed %d, %v; want %d", n, err, removed)
		}
	}
	f.now = at.Add(100 * 24 * time.Hour)
	tidy(at.Add(-time.Second), 0)
	tidy(at.Add(margin), 0)
	if asked != 0 {
		t.Error("dated before tokens that were on their way are signed")
	}
	f.now = at.Add(2 * margin)
	tidy(f.now, 0)
	f.now = horizon.Add(margin)
	tidy(f.now, 0)
	f.want("at its end", "a", at)
	if asked != 1 {
		t.Errorf("dated %d times", asked)
	}
	f.now = f.now.Add(time.Second)
	tidy(f.now, 1)
	for range 2 {
		f.want("after it", "a", time.Time{})
		f.restart()
	}
	if left := f.stored(); len(left) != 0 {
		t.Errorf("left are %v", left)
	}
}

// What fails keeps its cut-off, and keeps no other from being removed.
func TestTidyOnFaults(t *testing.T) {
	for name, test := range map[string]struct {
		inject func(f *fixture, key string)
		left   int
	}{
		"not read":             {func(f *fixture, key string) { f.storage.Before(storetest.Fail(key, storetest.Get)) }, 1},
		"not removed":          {func(f *fixture, key string) { f.storage.Before(storetest.Fail(key, storetest.Delete)) }, 1},
		"removed all the same": {func(f *fixture, key string) { f.storage.After(storetest.Fail(key, storetest.Delete)) }, 0},
	} {
		t.Run(name, func(t *testing.T) {
			f := newFixture(t)
			at := f.end("a")
			for n := range 20 {
				f.end(fmt.Sprintf("e%d", n))
			}
			horizon := func() (time.Time, error) { return f.now, nil }
			f.now = f.now.Add(2 * margin)
			if _, err := f.Tidy(f.ctx, f.storage, f.now, margin, horizon); err != nil {
				t.Fatal(err)
			}
			f.now = f.now.Add(2 * margin)
			test.inject(f, entityPrefix+nameOf("a", at.Unix()))
			removed, err := f.Tidy(f.ctx, f.storage, f.now, margin, horizon)
			f.storage.Heal()
			if !errors.Is(err, storetest.ErrInjected) || removed != 20 || len(f.stored()) != test.left {
				t.Errorf("removed %d, %v; left are %v", removed, err, f.stored())
			}
			f.want("what failed", "a", at)
			if removed, err := f.Tidy(f.ctx, f.storage, f.now, margin, horizon); err != nil || removed != test.left {
				t.Errorf("then removed %d, %v", removed, err)
			}
		})
	}
	f := newFixture(t)
	at := f.end("a")
	f.now = f.now.Add(2 * margin)
	if removed, err := f.Tidy(f.ctx, f.storage, f.now, margin, func() (time.Time, error) { return time.Time{}, storetest.ErrInjected }); removed != 0 || !errors.Is(err, storetest.ErrInjected) {
		t.Errorf("removed %d, %v, without a horizon", removed, err)
	}
	f.want("without a horizon", "a", at)
}
