package store

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/vault-tokens/vault-plugin-secrets-tokens/backend/store/storetest"
)

// Those who ask for a name at once share one read, and its error; who hangs up does
// not end it.
func TestLoadsAreMerged(t *testing.T) {
	for _, fails := range []bool{false, true} {
		ctx, storage := context.Background(), &storetest.Storage{}
		s := New(Entries[value]{Prefix: "kind/"}, Options{MaxEntries: 8, MaxAbsent: 8})
		if err := s.Entries.Put(ctx, storage, "a", &value{1}); err != nil {
			t.Fatal(err)
		}
		seen, release := make(chan struct{}), make(chan struct{})
		var once sync.Once
		storage.Before(func(storetest.Op, string) error {
			once.Do(func() { close(seen) })
			<-release
			if fails {
				return storetest.ErrInjected
			}
			return nil
		})
		var callers sync.WaitGroup
		ask := func(ctx context.Context) {
			callers.Go(func() {
				got, err := s.Get(ctx, storage, "a")
				if fails != errors.Is(err, storetest.ErrInjected) || !fails && (err != nil || got.N != 1) {
					t.Errorf("got %v, %v", got, err)
				}
			})
		}
		reads, _ := storage.Count(func() {
			first, cancel := context.WithCancel(ctx)
			ask(first)
			<-seen
			cancel()
			for range 50 {
				ask(ctx)
			}
			// Who waits can hang up.
			gone, cancelGone := context.WithCancel(ctx)
			cancelGone()
			if _, err := s.Get(gone, storage, "a"); !errors.Is(err, context.Canceled) {
				t.Errorf("a caller that is gone got %v", err)
			}
			close(release)
			callers.Wait()
		})
		// With an error nothing is kept, and who comes after it reads anew.
		if !fails && reads != 1 {
			t.Errorf("%d reads", reads)
		}
		storage.Heal()
		if got, err := s.Get(ctx, storage, "a"); err != nil || got.N != 1 {
			t.Errorf("then got %v, %v", got, err)
		}
	}
}

// A panic of the storage ends the request that met it. Who waits for its read gets
// an error, and who comes after reads anew.
func TestPanicWhileReading(t *testing.T) {
	ctx, storage := context.Background(), &storetest.Storage{}
	s := New(Entries[value]{Prefix: "kind/"}, Options{MaxEntries: 8})
	if err := s.Entries.Put(ctx, storage, "a", &value{1}); err != nil {
		t.Fatal(err)
	}
	seen, release := make(chan struct{}), make(chan struct{})
	storage.Before(func(storetest.Op, string) error {
		close(seen)
		<-release
		panic("on purpose")
	})
	var callers sync.WaitGroup
	callers.Go(func() {
		defer func() { recover() }()
		s.Get(ctx, storage, "a")
	})
	<-seen
	waiting := s.loading["a"]
	close(release)
	callers.Wait()
	select {
	case <-waiting.done:
		if waiting.err == nil {
			t.Error("who waited got no error")
		}
	default:
		t.Error("who waited waits for ever")
	}
	storage.Heal()
	limited, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	if got, err := s.Get(limited, storage, "a"); err != nil || got.N != 1 {
		t.Errorf("then got %v, %v", got, err)
	}
}

// That there is no value is remembered, until there is one.
func TestAbsence(t *testing.T) {
	ctx, storage := context.Background(), &storetest.Storage{}
	s := New(Entries[value]{Prefix: "kind/"}, Options{MaxEntries: 4, MaxAbsent: 8})
	reads := func(name string, want int64, exists bool) {
		t.Helper()
		n, _ := storage.Count(func() {
			if got, err := s.Get(ctx, storage, name); err != nil || (got != nil) != exists {
				t.Errorf("got %v, %v", got, err)
			}
		})
		if n != want {
			t.Errorf("%d reads of %s, want %d", n, name, want)
		}
	}
	put := func(name string) {
		t.Helper()
		if err := s.Put(ctx, storage, name, &value{1}); err != nil {
			t.Fatal(err)
		}
	}
	reads("a", 1, false)
	reads("a", 0, false)
	put("a")
	reads("a", 0, true)
	if err := s.Delete(ctx, storage, "a"); err != nil {
		t.Fatal(err)
	}
	reads("a", 1, false)
	if err := s.Entries.Put(ctx, storage, "a", &value{1}); err != nil { // elsewhere
		t.Fatal(err)
	}
	reads("a", 0, false)
	s.Invalidate("kind/a")
	reads("a", 1, true)
	// A write that failed may have taken effect.
	reads("b", 1, false)
	storage.After(storetest.Fail("kind/b", storetest.Put))
	if s.Put(ctx, storage, "b", &value{1}) == nil {
		t.Error("no error")
	}
	storage.Heal()
	reads("b", 1, true)
	// A flood of names pushes no value out.
	for n := range 100 {
		if _, err := s.Get(ctx, storage, fmt.Sprint("made-up-", n)); err != nil {
			t.Fatal(err)
		}
	}
	reads("a", 0, true)
	reads("b", 0, true)
}

// A value is as old as its maximum age at most, and one of a clock that was ahead is
// not believed.
func TestMaxAge(t *testing.T) {
	ctx, storage := context.Background(), &storetest.Storage{}
	now, limit := time.Unix(1e9, 0), 30*time.Second
	s := New(Entries[value]{Prefix: "kind/"}, Options{
		MaxEntries: 4, MaxAbsent: 4,
		MaxAge: func() time.Duration { return limit },
		Clock:  func() time.Time { return now },
	})
	if err := s.Entries.Put(ctx, storage, "a", &value{1}); err != nil {
		t.Fatal(err)
	}
	reads := func(when string, want int64) {
		t.Helper()
		n, _ := storage.Count(func() {
			s.Get(ctx, storage, "a")
			s.Get(ctx, storage, "absent")
		})
		if n != want {
			t.Errorf("%s: %d reads, want %d", when, n, want)
		}
	}
	reads("first", 2)
	now = now.Add(limit - 1)
	reads("young", 0)
	now = now.Add(1)
	reads("old", 2)
	now = now.Add(-time.Hour)
	reads("from the future", 2)
	limit = 0 // it writes itself now
	now = now.Add(time.Hour)
	reads("on the node that writes", 0)
}

// A write goes on when its caller hangs up: one that was given up could take effect
// after a later one.
func TestWritesOutliveTheirCaller(t *testing.T) {
	ctx, cancel := context.WithCancel(context.Background())
	storage := &storetest.Storage{}
	s := New(Entries[value]{Prefix: "kind/"}, Options{MaxEntries: 4})
	cancel()
	if err := s.Put(ctx, storage, "a", &value{1}); err != nil {
		t.Error(err)
	}
	if err := s.Delete(ctx, storage, "a"); err != nil {
		t.Error(err)
	}
	detached, cancel := Detach(ctx)
	defer cancel()
	if _, bounded := detached.Deadline(); !bounded || detached.Err() != nil {
		t.Error("not detached, or without a deadline")
	}
}

func TestCacheIsBoundedInBytes(t *testing.T) {
	c := NewCache[int, int](100, 1000)
	for n := range 1000 {
		c.Add(n%150, n, 1+n%300)
		if c.Bytes() > 1000 || c.Len() > 100 || c.Bytes() < 0 {
			t.Fatalf("%d entries of %d bytes", c.Len(), c.Bytes())
		}
	}
	c.Add(1, 1, 2000) // larger than all of it
	if _, ok := c.Get(1); ok || c.Bytes() > 1000 {
		t.Errorf("kept %d bytes", c.Bytes())
	}
	for n := range 150 {
		c.Remove(n)
	}
	if c.Bytes() != 0 || c.Len() != 0 {
		t.Errorf("empty, it has %d entries of %d bytes", c.Len(), c.Bytes())
	}
}

// An entry of a later version is neither read nor taken for absent, and can be
// deleted; one of an earlier version has the defaults of what it lacks.
func TestFormats(t *testing.T) {
	ctx, storage := context.Background(), &storetest.Storage{}
	later := New(Entries[value]{Prefix: "kind/", Format: 2}, Options{MaxEntries: 4})
	if err := later.Put(ctx, storage, "a", &value{1}); err != nil {
		t.Fatal(err)
	}
	s := New(Entries[value]{Prefix: "kind/", Format: 1, New: func(string) *value { return &value{7} }}, Options{MaxEntries: 4})
	if got, err := s.Get(ctx, storage, "a"); got != nil || !errors.Is(err, ErrNewer) || !errors.Is(err, ErrUndecodable) {
		t.Errorf("got %v, %v", got, err)
	}
	if err := s.Delete(ctx, storage, "a"); err != nil {
		t.Error(err)
	}
	earlier := New(Entries[struct{}]{Prefix: "kind/"}, Options{MaxEntries: 4})
	if err := earlier.Put(ctx, storage, "a", &struct{}{}); err != nil {
		t.Fatal(err)
	}
	if got, err := s.Get(ctx, storage, "a"); err != nil || got.N != 7 {
		t.Errorf("got %v, %v", got, err)
	}
}
