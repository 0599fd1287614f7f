package statuslist

import (
	"context"
	"errors"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/vault/sdk/logical"

	"github.com/vault-tokens/vault-plugin-secrets-tokens/backend/store/storetest"
)

// Two processes that both believe to be the one that writes, and writes that take
// effect late and in another order, never give out an index twice, lose a token
// that lives, or revive one that was revoked.
func TestTwoWritersAndLateWrites(t *testing.T) {
	f := newFixture(t)
	random := rand.New(rand.NewPCG(1, 2))
	writers := []*Lists{f.Lists, f.other()}
	var revoked []Ref
	for range 60 {
		for range random.IntN(200) {
			w := writers[random.IntN(2)]
			life := time.Duration(1+random.IntN(100)) * time.Minute
			ref, err := w.Reserve(f.ctx, f.storage, owner, []string{"a", "b", "c"}[random.IntN(3)], f.now.Add(life))
			if err != nil {
				continue // its writes come late
			}
			f.note(ref, f.now.Add(life))
			if random.IntN(10) == 0 {
				if _, err := writers[random.IntN(2)].Revoke(f.ctx, f.storage, ref, "id", f.expires[ref]); err == nil {
					revoked = append(revoked, ref)
				}
			}
		}
		switch random.IntN(4) {
		case 0:
			f.storage.Hold(listPrefix)
		case 1:
			if err := f.storage.Land(random.Perm(f.storage.Held())); err != nil {
				t.Fatal(err)
			}
		case 2:
			writers[random.IntN(2)] = f.other()
		}
		f.now = f.now.Add(time.Duration(random.IntN(120)) * time.Second)
	}
	if err := f.storage.Land(random.Perm(f.storage.Held())); err != nil {
		t.Fatal(err)
	}
	f.restart()
	if _, err := f.Tidy(f.ctx, f.storage, 0); err != nil {
		t.Fatal(err)
	}
	live := 0
	for ref, expires := range f.expires {
		if !f.now.Before(expires) {
			continue
		}
		live++
		if want := slices.Contains(revoked, ref); f.revoked(ref) != want {
			t.Errorf("%v is revoked: %v, want %v", ref, f.revoked(ref), want)
		}
	}
	t.Logf("%d tokens, %d of them live, %d revoked, on %d lists", len(f.ids), live, len(revoked), len(f.stored(listPrefix)))
	if live == 0 || len(revoked) == 0 {
		t.Error("the test shows nothing")
	}
}

// gate is a storage of which one operation waits, when it has seen the data, to be
// let go.
type gate struct {
	*storetest.Storage
	seen, release chan struct{}
}

// at returns a gate for the first operation of a kind below a prefix.
func (f *fixture) at(op storetest.Op, prefix string) *gate {
	g := &gate{f.storage, make(chan struct{}), make(chan struct{})}
	passed := make(chan struct{}, 1)
	passed <- struct{}{}
	f.storage.After(func(got storetest.Op, key string) error {
		if got == op && strings.HasPrefix(key, prefix) {
			select {
			case <-passed:
				close(g.seen)
				<-g.release
			default:
			}
		}
		return nil
	})
	return g
}

// open lets the operation go, and waits for what was begun with it.
func (g *gate) open(done <-chan struct{}) {
	close(g.release)
	<-done
	g.Heal()
}

func begin(do func()) <-chan struct{} {
	done := make(chan struct{})
	go func() { defer close(done); do() }()
	return done
}

// While one list is written, everybody goes on who does not need that write.
func TestSlowWriteHoldsUpNobody(t *testing.T) {
	f, s := newFixture(t), newSigner(t)
	ref, gone := f.reserve(), f.reserve()
	other := f.reserveFor(Owner{Key: "other"}, orders, time.Hour)
	f.revoke(gone)
	f.publish(ref.List, settings, s)
	g := f.at(storetest.Put, listPrefix)
	slow := begin(func() {
		if _, err := f.Reserve(f.ctx, f.storage, owner, "slow", f.now.Add(time.Hour)); err != nil {
			t.Error(err)
		}
	})
	<-g.seen
	if f.status(ref) != Valid || f.status(gone) != Revoked || f.status(other) != Valid {
		t.Error("a status is wrong")
	}
	f.publish(ref.List, settings, s)
	f.revoke(ref)
	f.publish(ref.List, settings, s)
	f.reserve()                                          // from a block
	f.reserveFor(Owner{Key: "other"}, "more", time.Hour) // with a write of another list
	ctx, cancel := context.WithCancel(f.ctx)             // and who has to wait can hang up
	waiting := begin(func() { f.Reserve(ctx, f.storage, owner, "waits", f.now.Add(time.Hour)) })
	cancel()
	<-waiting
	g.open(slow)
}

// A load goes on when the caller that began it hangs up, and what it read is kept.
func TestLoadOutlivesItsCaller(t *testing.T) {
	f := newFixture(t)
	ref := f.reserve()
	for _, op := range []storetest.Op{storetest.List, storetest.Get} {
		f.restart()
		g := f.at(op, listPrefix)
		ctx, cancel := context.WithCancel(f.ctx)
		first := begin(func() { f.Status(ctx, f.storage, ref) })
		<-g.seen
		second := begin(func() { f.status(ref) }) // waits for the same
		cancel()
		g.open(first)
		<-second
		if reads, _ := f.storage.Count(func() { f.status(ref) }); reads != 0 {
			t.Errorf("%s: read again, %d times", op, reads)
		}
	}
}

// A load that was under way when the list changed is not what later callers get.
func TestChangeWhileLoading(t *testing.T) {
	for _, op := range []storetest.Op{storetest.List, storetest.Get} {
		prefix := map[storetest.Op]string{storetest.List: revokedPrefix, storetest.Get: listPrefix}[op]
		f := newFixture(t)
		ref := f.reserve()
		f.restart()
		g := f.at(op, prefix)
		old := begin(func() { f.Status(f.ctx, f.storage, ref) })
		<-g.seen
		f.revoke(ref)
		if f.status(ref) != Revoked {
			t.Errorf("%s: good after its revocation", op)
		}
		g.open(old)
		if f.status(ref) != Revoked {
			t.Errorf("%s: good after the old load", op)
		}
	}
}

// Who reads a list while it is removed sees it whole or not at all.
func TestLoadWhileRemoved(t *testing.T) {
	f := newFixture(t)
	ref := f.reserve()
	f.revoke(ref)
	f.now = f.now.Add(2*time.Hour + margin)
	for _, op := range []storetest.Op{storetest.Get, storetest.List} {
		prefix := map[storetest.Op]string{storetest.List: revokedPrefix, storetest.Get: listPrefix}[op]
		copied := *f
		f := &copied
		f.storage = f.copyStorage()
		f.restart()
		g := f.at(op, prefix)
		old := begin(func() {
			if f.status(ref) == Valid {
				t.Errorf("%s: revoked before, and good while its list is removed", op)
			}
		})
		<-g.seen
		if n, err := f.other().Tidy(f.ctx, f.storage, margin); n != (Tidied{1, 1}) || err != nil {
			t.Errorf("removed %v, %v", n, err)
		}
		g.open(old)
	}
}

// A token that is issued while its list is removed gets another.
func TestReserveWhileRemoved(t *testing.T) {
	f := newFixture(t)
	old := f.reserve()
	f.now = f.now.Add(2*time.Hour + margin)
	g := f.at(storetest.Delete, listPrefix)
	tidied := begin(func() { f.tidy() })
	<-g.seen
	var ref Ref
	reserved := begin(func() { ref = f.reserve() })
	f.Invalidate(listPrefix + old.List)
	g.open(tidied)
	<-reserved
	if ref.List == old.List || f.status(ref) != Valid || f.other().mustStatus(f, ref) != Valid {
		t.Errorf("on list %s, %v; removed is %s", ref.List, f.status(ref), old.List)
	}
	// And the other way round: a list that a token is joining is not removed.
	f.now = f.now.Add(2*time.Hour + margin)
	g = f.at(storetest.Put, listPrefix)
	reserved = begin(func() { ref = f.reserve() })
	<-g.seen
	f.tidy()
	g.open(reserved)
	if f.status(ref) != Valid || f.other().mustStatus(f, ref) != Valid {
		t.Error("the list of a new token was removed")
	}
}

// A list that cannot be removed costs the others nothing.
func TestFailingRemovalConcernsOneList(t *testing.T) {
	f := newFixture(t)
	stuck := f.reserveFor(Owner{Key: "stuck"}, orders, time.Minute)
	f.now = f.now.Add(2*time.Hour + margin)
	ref := f.reserve()
	f.storage.Before(storetest.Fail(listPrefix+stuck.List, storetest.Delete))
	for range 10 {
		if n, err := f.Tidy(f.ctx, f.storage, margin); n.Lists != 0 || !errors.Is(err, storetest.ErrInjected) {
			t.Errorf("removed %v, %v", n, err)
		}
		if reads, writes := f.storage.Count(func() { f.status(ref); f.reserve() }); reads+writes != 0 {
			t.Errorf("a token of another list takes %d reads and %d writes", reads, writes)
		}
	}
}

// Revocations go when their own tokens expired long ago, however long the list
// lives; and those without a list not sooner.
func TestSweep(t *testing.T) {
	f := newFixture(t)
	short, long := f.reserveFor(owner, orders, time.Hour), f.reserveFor(owner, orders, 60*24*time.Hour)
	orphan := Ref{List: strings.Repeat("0", 22), Index: 5}
	f.expires[orphan] = f.now.Add(48 * time.Hour)
	old := revokedPrefix + long.List + "/77" // of before there was an expiry in the name
	if err := f.storage.Put(f.ctx, &logical.StorageEntry{Key: old, Value: []byte(`{}`)}); err != nil {
		t.Fatal(err)
	}
	for _, ref := range []Ref{short, long, orphan} {
		f.revoke(ref)
	}
	left := func() int { return len(f.stored(revokedPrefix)) }
	f.now = f.now.Add(time.Hour + margin - time.Second)
	if f.tidy(); left() != 4 {
		t.Errorf("left are %v, want all", f.stored(revokedPrefix))
	}
	f.now = f.now.Add(sweepEvery)
	if f.tidy(); left() != 3 {
		t.Errorf("left are %v, want all but the short one", f.stored(revokedPrefix))
	}
	if f.restart(); f.status(long) != Revoked || f.status(Ref{long.List, 77}) != Revoked {
		t.Error("good again")
	}
	f.now = f.now.Add(48 * time.Hour)
	if f.tidy(); left() != 2 {
		t.Errorf("left are %v, want those of the long list", f.stored(revokedPrefix))
	}
	// A clock that goes back keeps nothing from being swept.
	for range 100 {
		f.revoke(f.reserveFor(owner, orders, time.Minute))
	}
	f.now = f.now.Add(-90 * 24 * time.Hour)
	f.tidy()
	f.now = f.now.Add(92 * 24 * time.Hour)
	if f.tidy(); left() != 2 {
		t.Errorf("%d are left", left())
	}
}

// A clock that was ahead for less than the margin destroys nothing.
func TestClockAhead(t *testing.T) {
	f := newFixture(t)
	kept, gone := f.reserve(), f.reserve()
	f.revoke(gone)
	f.now = f.now.Add(margin)
	f.tidy()
	f.now = f.now.Add(-margin)
	for range 2 {
		if f.status(kept) != Valid || f.status(gone) != Revoked {
			t.Errorf("they are %v and %v", f.status(kept), f.status(gone))
		}
		f.restart()
	}
}

// A list that was signed while the clock was ahead is not served any more.
func TestNoListFromTheFuture(t *testing.T) {
	f, s := newFixture(t), newSigner(t)
	list := f.reserve().List
	f.now = f.now.Add(46 * time.Hour)
	f.publish(list, settings, s)
	f.now = f.now.Add(-46 * time.Hour)
	_, claims := f.verify(f.publish(list, settings, s), list, s) // which fails if it is from the future
	if claims.IssuedAt.After(f.now) {
		t.Errorf("served is a list of %s", claims.IssuedAt)
	}
}

// A panic of the storage is an error of that request alone.
func TestPanicWhileLoading(t *testing.T) {
	f := newFixture(t)
	ref, gone := f.reserve(), f.reserve()
	f.revoke(gone)
	for _, op := range []storetest.Op{storetest.Get, storetest.List} {
		f.restart()
		f.storage.Before(func(got storetest.Op, _ string) error {
			if got == op {
				panic("on purpose")
			}
			return nil
		})
		func() {
			defer func() { recover() }()
			f.Status(f.ctx, f.storage, ref)
		}()
		f.storage.Heal()
		if f.status(ref) != Valid || f.status(gone) != Revoked {
			t.Errorf("%s: they are %v and %v", op, f.status(ref), f.status(gone))
		}
		if next := f.reserve(); f.status(next) != Valid {
			t.Error("a new token is refused")
		}
	}
}

// A run that is out of time goes on where others were, and says nothing.
func TestTidyOutOfTime(t *testing.T) {
	f := newFixture(t)
	f.seed(100, 1000)
	f.now = f.now.Add(2*time.Hour + margin)
	runs := 0
	for ; len(f.stored(listPrefix)) > 0 && runs < 1000; runs++ {
		ctx, cancel := context.WithCancel(f.ctx)
		writes := f.storage.Writes.Load()
		f.storage.After(func(storetest.Op, string) error {
			if f.storage.Writes.Load()-writes > 50 {
				cancel()
			}
			return nil
		})
		if _, err := f.Tidy(ctx, f.storage, margin); err != nil {
			t.Fatalf("run %d: %v", runs, err)
		}
		f.storage.Heal()
		cancel()
	}
	f.now = f.now.Add(sweepEvery)
	f.tidy()
	if left := f.stored(""); runs == 0 || runs > 100 || len(left) != 1 {
		t.Errorf("after %d runs, left are %d entries", runs, len(left))
	}
}

// A storage that is down is not asked for each list, and does not fill the log.
func TestTidyOnStorageThatIsDown(t *testing.T) {
	f := newFixture(t)
	f.seed(1000, 0)
	f.storage.Before(storetest.Fail("", storetest.Get, storetest.Put, storetest.Delete))
	var err error
	reads, _ := f.storage.Count(func() { _, err = f.Tidy(f.ctx, f.storage, margin) })
	if err == nil || reads > 30 {
		t.Errorf("%d reads, %v", reads, err)
	}
	if err != nil && strings.Count(err.Error(), "\n") > 10 {
		t.Errorf("an error of %d lines", strings.Count(err.Error(), "\n"))
	}
}
