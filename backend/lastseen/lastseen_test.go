package lastseen

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	mathrand "math/rand/v2"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/hashicorp/vault/sdk/logical"

	"github.com/vault-tokens/vault-plugin-secrets-tokens/backend/store"
	"github.com/vault-tokens/vault-plugin-secrets-tokens/backend/store/storetest"
	"github.com/vault-tokens/vault-plugin-secrets-tokens/verify/format"
)

const margin = 24 * time.Hour

// fixture is the times of a mount, on a storage that can fail, at a time that the
// test sets.
type fixture struct {
	*Times
	t         *testing.T
	ctx       context.Context
	storage   *storetest.Storage
	now       time.Time
	mustWrite bool
}

func newFixture(t *testing.T) *fixture {
	t.Helper()
	f := &fixture{t: t, ctx: context.Background(), storage: &storetest.Storage{}, now: time.Unix(1_800_000_000, 0).UTC(), mustWrite: true}
	f.restart()
	return f
}

func (f *fixture) restart() {
	f.Times = New(func() time.Time { return f.now }, func() bool { return f.mustWrite })
}

func (f *fixture) newID() string {
	f.t.Helper()
	id, err := format.NewID(rand.Reader)
	if err != nil {
		f.t.Fatal(err)
	}
	return id
}

// see notes a token that lives for a year.
func (f *fixture) see(id string) { f.Note(id, f.now.Add(365*24*time.Hour)) }

// flush is a run of a flush that is due, which has to succeed.
func (f *fixture) flush() {
	f.t.Helper()
	f.now = f.now.Add(Interval)
	if err := f.Flush(f.ctx, f.storage, margin); err != nil {
		f.t.Fatal(err)
	}
}

// want wants a token to have been seen last at a time.
func (f *fixture) want(when, id string, at time.Time) {
	f.t.Helper()
	if got, err := f.Last(f.ctx, f.storage, id); err != nil || !got.Equal(at) {
		f.t.Errorf("%s: last seen %v, %v; want %v", when, got, err, at)
	}
}

func TestLastSeen(t *testing.T) {
	f := newFixture(t)
	id, never := f.newID(), f.newID()
	f.want("never seen", id, time.Time{})
	f.see(id)
	first := f.now
	f.want("in memory", id, first)
	f.flush()
	f.want("written", id, first)
	f.restart()
	f.want("after a restart", id, first)
	f.now = f.now.Add(time.Minute)
	f.see(id)
	second := f.now
	f.want("seen again", id, second)
	f.restart() // without warning: this is what is lost
	f.want("after a crash", id, first)
	f.want("another one", never, time.Time{})
	for _, wrong := range []string{"", "x", id + "0"} {
		f.see(wrong)
		f.want("no id", wrong, time.Time{})
	}
}

// Noting costs no operation of the storage; writing costs a read and a write for
// each bucket, once an interval.
func TestCost(t *testing.T) {
	f := newFixture(t)
	cost := func(what string, most int64, do func()) {
		t.Helper()
		if reads, writes := f.storage.Count(do); reads > most || writes > most || reads != writes {
			t.Errorf("%s: %d reads and %d writes, want at most %d", what, reads, writes, most)
		}
	}
	run := func() {
		if err := f.Flush(f.ctx, f.storage, margin); err != nil {
			t.Fatal(err)
		}
	}
	ids := make([]string, 5000)
	for i := range ids {
		ids[i] = f.newID()
	}
	for round := range 3 {
		cost("noting", 0, func() {
			for range 3 {
				for _, id := range ids {
					f.see(id)
				}
			}
		})
		f.now = f.now.Add(Interval - time.Second)
		cost("too early", 0, run)
		f.now = f.now.Add(time.Second)
		cost("in time", 62*62, run)
		if f.count != 0 || len(f.noted) != 0 || len(f.todo) != 0 {
			t.Errorf("round %d: %d tokens are still in memory, and %d buckets to write", round, f.count, len(f.todo))
		}
		cost("again", 0, run)
		f.now = f.now.Add(Interval)
		cost("with nothing noted", 0, run)
	}
	if keys, err := logical.CollectKeysWithPrefix(f.ctx, f.storage, storagePrefix); err != nil || len(keys) > 62*62 {
		t.Errorf("%d entries, %v", len(keys), err)
	}
}

// A node that must not write notes nothing: it would never forget it.
func TestFollower(t *testing.T) {
	f := newFixture(t)
	f.mustWrite = false
	id := f.newID()
	f.see(id)
	f.Renewed(id, f.now.Add(time.Hour))
	if f.count != 0 {
		t.Errorf("%d noted", f.count)
	}
}

func TestExpiry(t *testing.T) {
	f := newFixture(t)
	neighbour := f.newID()
	same := func() string { return f.newID()[:20] + bucketOf(neighbour) } // another id of the same bucket
	short, renewed, early := same(), same(), same()
	f.Note(early, f.now.Add(Interval)) // has expired when it would be written
	f.Note(short, f.now.Add(Interval+time.Second))
	f.Note(renewed, f.now.Add(Interval+time.Second))
	seen := f.now
	f.flush()
	f.restart()
	f.want("expired before it was written", early, time.Time{})
	f.Renewed(renewed, f.now.Add(100*24*time.Hour))
	f.Renewed(same(), f.now.Add(100*24*time.Hour)) // never seen
	f.flush()
	f.now = f.now.Add(margin - 2*Interval)
	f.see(neighbour)
	f.flush()
	f.want("within the margin", short, seen)
	f.now = f.now.Add(Interval)
	f.see(neighbour)
	f.flush()
	f.want("longer", short, time.Time{})
	f.want("renewed", renewed, seen)
	if b, err := f.entries.Read(f.ctx, f.storage, bucketOf(neighbour)); err != nil || len(b.Tokens) != 2 {
		t.Errorf("stored are %v, %v", b, err)
	}
}

// The last token of an entry takes the entry with it.
func TestEmptyEntryIsDeleted(t *testing.T) {
	f := newFixture(t)
	id := f.newID()
	f.Note(id, f.now.Add(2*Interval))
	f.flush()
	f.now = f.now.Add(2*Interval + margin)
	f.Renewed(f.newID()[:20]+bucketOf(id), f.now.Add(24*time.Hour))
	f.flush()
	if keys, err := logical.CollectKeysWithPrefix(f.ctx, f.storage, storagePrefix); err != nil || len(keys) != 0 {
		t.Errorf("left are %v, %v", keys, err)
	}
}

// A time never moves back: not when the clock does, nor with what another node
// noted. One that cannot be is not believed for ever.
func TestNeverBackwards(t *testing.T) {
	f := newFixture(t)
	id := f.newID()
	f.see(id)
	latest := f.now
	f.now = f.now.Add(-10 * time.Minute)
	f.see(id)
	f.want("the clock went back", id, latest)
	if err := f.Flush(f.ctx, f.storage, margin); err != nil { // due, since the due time is too far away
		t.Fatal(err)
	}
	f.restart()
	f.want("written", id, latest)
	f.see(id)
	f.want("another process, whose clock is behind", id, latest)
	f.now = f.now.Add(-3 * Interval)
	f.flush()
	f.restart()
	f.want("written by it", id, latest)

	f.now = f.now.Add(10 * 24 * time.Hour)
	f.see(id)
	f.flush()
	f.now = f.now.Add(-10 * 24 * time.Hour)
	f.restart()
	f.see(id)
	seen := f.now
	f.flush()
	f.restart()
	f.want("the clock was ten days ahead", id, seen)
}

// Whatever becomes of a write, what was noted is in memory until it is surely
// stored, and what is stored is no earlier than what was.
func TestFaults(t *testing.T) {
	for name, inject := range map[string]func(f *fixture){
		"write fails":              func(f *fixture) { f.storage.Before(storetest.Fail(storagePrefix, storetest.Put)) },
		"write fails after effect": func(f *fixture) { f.storage.After(storetest.Fail(storagePrefix, storetest.Put)) },
		"write lands late":         func(f *fixture) { f.storage.Hold(storagePrefix) },
		"read fails":               func(f *fixture) { f.storage.Before(storetest.Fail(storagePrefix, storetest.Get)) },
	} {
		t.Run(name, func(t *testing.T) {
			f := newFixture(t)
			id := f.newID()
			f.see(id)
			f.flush()
			f.see(id)
			second := f.now
			inject(f)
			f.now = f.now.Add(Interval)
			if err := f.Flush(f.ctx, f.storage, margin); !errors.Is(err, storetest.ErrInjected) {
				t.Fatal(err)
			}
			f.storage.Heal()
			f.want("after the fault", id, second)
			f.now = f.now.Add(time.Minute)
			f.see(id)
			third := f.now
			// Not when the next is due, but with the next run.
			if err := f.storage.Land(nil); name != "write lands late" && err != nil {
				t.Fatal(err)
			}
			if err := f.Flush(f.ctx, f.storage, margin); err != nil {
				t.Fatal(err)
			}
			f.want("written", id, third)
			f.restart()
			f.want("after a restart", id, third)
		})
	}
}

// A write that failed takes effect after a later one that succeeded.
func TestLateWrite(t *testing.T) {
	f := newFixture(t)
	id := f.newID()
	f.see(id)
	f.storage.Hold(storagePrefix)
	f.now = f.now.Add(Interval)
	if err := f.Flush(f.ctx, f.storage, margin); err == nil {
		t.Fatal("the write did not fail")
	}
	var late *logical.StorageEntry
	if err := f.storage.Land(nil); err != nil {
		t.Fatal(err)
	}
	late, err := f.storage.Get(f.ctx, storagePrefix+bucketOf(id))
	if err != nil || late == nil {
		t.Fatal(late, err)
	}
	f.see(id)
	second := f.now
	if err := f.Flush(f.ctx, f.storage, margin); err != nil {
		t.Fatal(err)
	}
	if err := f.storage.Put(f.ctx, late); err != nil {
		t.Fatal(err)
	}
	f.want("when the first write has landed", id, second)
	f.flush()
	f.restart()
	f.want("after the next flush", id, second)
}

// A run whose time is over goes on with the next one, and writes no bucket twice.
func TestResumes(t *testing.T) {
	f := newFixture(t)
	ids := make([]string, 500)
	for i := range ids {
		ids[i] = f.newID()
		f.see(ids[i])
	}
	seen, buckets := f.now, len(f.noted)
	f.now = f.now.Add(Interval)
	written := map[string]int{}
	for runs := 0; len(written) < buckets; runs++ {
		if runs > buckets {
			t.Fatalf("%d of %d buckets are written after %d runs", len(written), buckets, runs)
		}
		ctx, cancel := context.WithCancel(f.ctx)
		n := 0
		f.storage.Before(func(op storetest.Op, key string) error {
			if op == storetest.Put {
				written[key]++
				if n++; n == 100 {
					cancel()
				}
			}
			return nil
		})
		if err := f.Flush(ctx, f.storage, margin); err != nil {
			t.Fatal(err)
		}
		if n > 100 {
			t.Errorf("a run went on for %d writes after its end", n-100)
		}
		cancel()
	}
	for key, n := range written {
		if n != 1 {
			t.Errorf("%s was written %d times", key, n)
		}
	}
	// Whose time is over while it reads has done nothing, and says nothing.
	f.see(ids[0])
	f.now = f.now.Add(Interval)
	ctx, cancel := context.WithCancel(f.ctx)
	f.storage.Before(func(storetest.Op, string) error { cancel(); return ctx.Err() })
	if err := f.Flush(ctx, f.storage, margin); err != nil || f.count != 1 {
		t.Errorf("%v; %d are noted", err, f.count)
	}
	f.storage.Heal()
	f.restart()
	for _, id := range ids {
		f.want("written", id, seen)
	}
}

// One entry that is broken keeps no other one from being written, and is replaced;
// one of a newer version is not.
func TestUndecodable(t *testing.T) {
	f := newFixture(t)
	broken, newer, fine := f.newID()[:20]+"aa", f.newID()[:20]+"bb", f.newID()[:20]+"cc"
	for id, value := range map[string]string{broken: "{", newer: `{"format":99,"tokens":{}}`} {
		if err := f.storage.Put(f.ctx, &logical.StorageEntry{Key: storagePrefix + bucketOf(id), Value: []byte(value)}); err != nil {
			t.Fatal(err)
		}
		if at, err := f.Last(f.ctx, f.storage, id); !errors.Is(err, store.ErrUndecodable) {
			t.Errorf("%s: %v, %v", value, at, err)
		}
		f.see(id)
		f.want("in memory", id, f.now)
	}
	f.see(fine)
	seen := f.now
	f.now = f.now.Add(Interval)
	for range 3 {
		if err := f.Flush(f.ctx, f.storage, margin); !errors.Is(err, store.ErrNewer) {
			t.Errorf("flush: %v", err)
		}
	}
	if _, writes := f.storage.Count(func() { f.Flush(f.ctx, f.storage, margin) }); writes != 0 {
		t.Errorf("%d writes for what is written", writes)
	}
	f.want("newer, in memory", newer, seen)
	f.restart()
	f.want("broken", broken, seen)
	f.want("fine", fine, seen)
	if entry, err := f.storage.Get(f.ctx, storagePrefix+"bb"); err != nil || string(entry.Value) != `{"format":99,"tokens":{}}` {
		t.Errorf("of a newer version is left %v, %v", entry, err)
	}
}

// A storage that is down is asked a few times in a run, not once for each bucket.
func TestStorageDown(t *testing.T) {
	f := newFixture(t)
	for range 1000 {
		f.see(f.newID())
	}
	f.now = f.now.Add(Interval)
	f.storage.Before(storetest.Fail("", storetest.Get, storetest.Put))
	reads, _ := f.storage.Count(func() {
		if err := f.Flush(f.ctx, f.storage, margin); !errors.Is(err, storetest.ErrInjected) {
			t.Error(err)
		}
	})
	if reads != maxFailures || f.count != 1000 {
		t.Errorf("%d reads, and %d tokens are noted", reads, f.count)
	}
}

// Memory is bounded, and much is written before its time.
func TestManyTokens(t *testing.T) {
	f := newFixture(t)
	f.maxNoted = 1000
	for range 749 {
		f.see(f.newID())
	}
	if reads, _ := f.storage.Count(func() { f.Flush(f.ctx, f.storage, margin) }); reads != 0 {
		t.Errorf("%d reads before it is due", reads)
	}
	known := f.newID()
	f.see(known)
	for range 500 {
		f.see(f.newID())
	}
	if f.count != f.maxNoted {
		t.Errorf("%d are noted, want %d", f.count, f.maxNoted)
	}
	f.now = f.now.Add(time.Minute)
	f.see(known)
	f.want("one that is in the full memory", known, f.now)
	if err := f.Flush(f.ctx, f.storage, margin); err != nil || f.count != 0 {
		t.Errorf("written before it is due: %v; %d are noted", err, f.count)
	}
}

// An entry stays below what storages take, and keeps what was seen last.
func TestBucketIsBounded(t *testing.T) {
	b := &bucket{Tokens: map[string]times{}}
	for n := range maxBucket + 500 {
		b.Tokens[fmt.Sprintf("%022d", n)] = times{Seen: 4_000_000_000 + int64(n), Ends: 9_000_000_000}
	}
	b.drop(time.Unix(0, 0))
	raw, err := json.Marshal(b)
	if err != nil || len(b.Tokens) != maxBucket || len(raw) > 260<<10 {
		t.Errorf("%d tokens take %d bytes, %v", len(b.Tokens), len(raw), err)
	}
	if _, ok := b.Tokens[fmt.Sprintf("%022d", 499)]; ok {
		t.Error("one that was not seen for longest is kept")
	}
}

// The stored form, which later versions have to read.
func TestStoredForm(t *testing.T) {
	f := newFixture(t)
	id := strings.Repeat("a", 20) + "Z9"
	const stored = `{"format":1,"tokens":{"aaaaaaaaaaaaaaaaaaaaZ9":{"seen":1800000000,"ends":1831536000}}}`
	f.see(id)
	f.flush()
	if entry, err := f.storage.Get(f.ctx, "seen/Z9"); err != nil || entry == nil || string(entry.Value) != stored {
		t.Errorf("stored is %v, %v", entry, err)
	}
	if err := f.storage.Put(f.ctx, &logical.StorageEntry{Key: "seen/Z9", Value: []byte(stored)}); err != nil {
		t.Fatal(err)
	}
	f.restart()
	f.want("read", id, time.Unix(1_800_000_000, 0))
}

// Over any order of notes, runs, faults and crashes, a time is never later than the
// last note, never earlier than it without a crash, and after one no earlier than
// what an undisturbed flush had written.
func TestModel(t *testing.T) {
	for seed := range uint64(20) {
		f := newFixture(t)
		random := mathrand.New(mathrand.NewPCG(seed, 1))
		ids := make([]string, 20)
		noted, sure := map[string]time.Time{}, map[string]time.Time{}
		for i := range ids {
			ids[i] = f.newID()[:20] + []string{"00", "zz", "0z"}[i%3]
		}
		for range 400 {
			f.now = f.now.Add(time.Duration(random.IntN(1800)) * time.Second)
			id := ids[random.IntN(len(ids))]
			switch random.IntN(8) {
			default:
				f.see(id)
				noted[id] = f.now
			case 0:
				f.storage.Before(storetest.Fail(storagePrefix, storetest.Op([]string{"put", "get"}[random.IntN(2)])))
			case 1:
				f.storage.After(storetest.Fail(storagePrefix, storetest.Put))
			case 2, 3:
				f.storage.Heal()
				for range 2 { // the second one is due, and confirms what the first may have left
					f.flush()
				}
				for id, at := range noted {
					sure[id] = at
				}
			case 4:
				if random.IntN(4) == 0 {
					f.restart()
					f.storage.Heal()
					for _, id := range ids {
						at, err := f.Last(f.ctx, f.storage, id)
						if err != nil || at.Before(sure[id]) || at.After(noted[id]) {
							t.Fatalf("seed %d, after a crash: %v, %v; want %v to %v", seed, at, err, sure[id], noted[id])
						}
						noted[id] = at
					}
				}
			}
			_ = f.Flush(f.ctx, f.storage, margin)
			if at, err := f.Last(f.ctx, f.storage, id); err == nil && !at.Equal(noted[id]) {
				t.Fatalf("seed %d: last seen %v, want %v", seed, at, noted[id])
			}
		}
	}
}

func TestConcurrent(t *testing.T) {
	f := newFixture(t)
	id := f.newID()
	var all sync.WaitGroup
	for range 4 {
		all.Go(func() {
			for range 1000 {
				f.see(id)
				f.see(f.newID()[:20] + bucketOf(id))
				f.Last(f.ctx, f.storage, id)
			}
		})
	}
	all.Go(func() {
		for range 100 {
			f.mu.Lock()
			f.due = f.now // each run is due
			f.mu.Unlock()
			if err := f.Flush(f.ctx, f.storage, margin); err != nil {
				t.Error(err)
			}
		}
	})
	all.Wait()
	n := 0
	for _, ids := range f.noted {
		n += len(ids)
	}
	f.want("afterwards", id, f.now)
	if n != f.count {
		t.Errorf("%d are noted and %d counted", n, f.count)
	}
}
