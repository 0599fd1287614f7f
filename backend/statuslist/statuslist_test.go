package statuslist

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/iotest"
	"time"

	"github.com/hashicorp/vault/sdk/logical"

	"github.com/vault-tokens/vault-plugin-secrets-tokens/backend/store/storetest"
)

var owner = Owner{Key: "k", Issuer: "https://vault.example.com/v1/tokens"}

const (
	orders = "orders" // a role
	margin = 24 * time.Hour
)

// fixture is the lists of a mount on a storage that can fail, at a time that
// the test sets.
type fixture struct {
	*Lists
	t       *testing.T
	ctx     context.Context
	storage *storetest.Storage
	now     time.Time
	maxAge  time.Duration  // of what is cached; 0 on the node that writes
	ids     map[Ref]string // of the tokens issued
	expires map[Ref]time.Time
}

func newFixture(t *testing.T) *fixture {
	t.Helper()
	f := &fixture{t: t, ctx: context.Background(), storage: &storetest.Storage{}, now: time.Now(), ids: map[Ref]string{}, expires: map[Ref]time.Time{}}
	f.restart()
	return f
}

func (f *fixture) clock() time.Time { return f.now }

// restart gives the fixture new lists on the same storage.
func (f *fixture) restart() { f.Lists = f.other() }

// other returns lists on the same storage, such as those of another node.
func (f *fixture) other() *Lists {
	return New(f.clock, rand.Reader, func() time.Duration { return f.maxAge })
}

// reserve returns the bit of a token that lives for an hour.
func (f *fixture) reserve() Ref { return f.reserveFor(owner, orders, time.Hour) }

func (f *fixture) reserveFor(owner Owner, role string, life time.Duration) Ref {
	f.t.Helper()
	ref, err := f.Reserve(f.ctx, f.storage, owner, role, f.now.Add(life))
	if err != nil {
		f.t.Fatal(err)
	}
	f.note(ref, f.now.Add(life))
	return ref
}

// note fails on a bit that was given out before.
func (f *fixture) note(ref Ref, expires time.Time) {
	f.t.Helper()
	if before, twice := f.ids[ref]; twice {
		f.t.Fatalf("%v was given out before, to token %s", ref, before)
	}
	f.ids[ref] = fmt.Sprint("token-", len(f.ids))
	f.expires[ref] = expires
}

func (f *fixture) revoke(ref Ref) bool {
	f.t.Helper()
	done, err := f.Revoke(f.ctx, f.storage, ref, f.ids[ref], f.expires[ref])
	if err != nil {
		f.t.Fatal(err)
	}
	return done
}

func (f *fixture) status(ref Ref) Status {
	f.t.Helper()
	_, status, err := f.Status(f.ctx, f.storage, ref)
	if err != nil {
		f.t.Fatal(err)
	}
	return status
}

// revoked reports whether a bit is refused, for whatever reason.
func (f *fixture) revoked(ref Ref) bool {
	f.t.Helper()
	return f.status(ref) != Valid
}

func (f *fixture) tidy() Tidied {
	f.t.Helper()
	removed, err := f.Tidy(f.ctx, f.storage, margin)
	if err != nil {
		f.t.Fatal(err)
	}
	return removed
}

// stored lists what the storage holds below a prefix.
func (f *fixture) stored(prefix string) []string {
	f.t.Helper()
	names, err := logical.CollectKeysWithPrefix(f.ctx, f.storage, prefix)
	if err != nil {
		f.t.Fatal(err)
	}
	return names
}

func TestReserve(t *testing.T) {
	f := newFixture(t)
	first := f.reserve()
	if role, status, err := f.Status(f.ctx, f.storage, first); role != orders || status != Valid || err != nil {
		t.Errorf("a new token is of role %q, status %v, %v", role, status, err)
	}
	// Each write reserves three times as much as all before it, so that thousands of
	// tokens take few; and their indexes come in no order.
	ascending := 0
	_, writes := f.storage.Count(func() {
		for last := first; len(f.ids) < 4000; {
			ref := f.reserve()
			if ref.Index > last.Index {
				ascending++
			}
			last = ref
		}
	})
	if writes != 4 {
		t.Errorf("4000 tokens took %d writes, want those of 32, 128, 512, 2048 and 6144", writes+1)
	}
	_, writes = f.storage.Count(func() {
		for range 2 * largestBlock {
			f.reserve()
		}
	})
	if writes != 2 {
		t.Errorf("%d further tokens took %d writes", 2*largestBlock, writes)
	}
	if ascending < 1000 || ascending > 3000 {
		t.Errorf("%d of 4000 indexes are above the one before", ascending)
	}
}

// Tokens that differ in key or issuer share no list; those of several roles do.
func TestListsAreOfOneOwner(t *testing.T) {
	f := newFixture(t)
	lists := map[string]Owner{}
	for _, o := range []Owner{owner, {Key: "b", Issuer: owner.Issuer}, {Key: owner.Key, Issuer: "https://c"}, {Lifetime: Day}, {Lifetime: Long}} {
		ref := f.reserveFor(o, orders, time.Hour)
		if other, shared := lists[ref.List]; shared {
			t.Errorf("%v and %v are on one list", o, other)
		}
		lists[ref.List] = o
		for _, role := range []string{orders, "billing"} {
			again := f.reserveFor(o, role, time.Hour)
			if again.List != ref.List {
				t.Errorf("%v is on two lists", o)
			}
			if got, _, _ := f.Status(f.ctx, f.storage, again); got != role {
				t.Errorf("a token of %s is of role %s", role, got)
			}
		}
	}
}

// No index twice: over blocks, restarts, full lists, and writes that failed or
// whose reply was lost.
func TestNoIndexTwice(t *testing.T) {
	f := newFixture(t)
	issue := func(n int) {
		for range n {
			f.reserve() // which fails on an index that it saw before
		}
	}
	puts := storetest.Fail(listPrefix, storetest.Put)
	for range 3 {
		issue(5000)
		for _, restart := range []func(){f.restart, func() {}} {
			for _, inject := range []func(){
				func() { f.storage.Before(puts) },
				func() { f.storage.After(puts) },
			} {
				restart()
				inject()
				for range largestBlock { // until a block is needed
					ref, err := f.Reserve(f.ctx, f.storage, owner, orders, f.now.Add(time.Hour))
					if err != nil {
						break
					}
					f.note(ref, f.now.Add(time.Hour))
					if f.other().mustStatus(f, ref) != Valid {
						t.Fatalf("%v was given out, although nothing says so in the storage", ref)
					}
				}
				f.storage.Heal()
				issue(10)
			}
		}
		// A process that cannot read needs to read nothing.
		f.restart()
		f.storage.Before(storetest.Fail("", storetest.Get, storetest.List))
		issue(10)
		f.storage.Heal()
	}
	// One for each process, and for each write whose fate is not known.
	if lists := f.stored(listPrefix); len(lists) > 3*7 {
		t.Errorf("%d lists for %d tokens", len(lists), len(f.ids))
	}
}

func (l *Lists) mustStatus(f *fixture, ref Ref) Status {
	f.t.Helper()
	_, status, err := l.Status(f.ctx, f.storage, ref)
	if err != nil {
		f.t.Fatal(err)
	}
	return status
}

func TestFullList(t *testing.T) {
	f := newFixture(t)
	lists := map[string]bool{}
	for _, size := range []int{firstSize, 2 * firstSize, 4 * firstSize, listSize, listSize} {
		first := f.reserve().List
		if lists[first] {
			t.Error("a full list took one more")
		}
		lists[first] = true
		for range size - 1 {
			if ref := f.reserve(); ref.List != first {
				t.Fatalf("a list of %d is full too early", size)
			}
		}
	}
	f.restart()
	if next := f.reserve(); lists[next.List] {
		t.Error("after a restart, a list of before took one more")
	}
}

func TestConcurrentReservations(t *testing.T) {
	f := newFixture(t)
	var mu sync.Mutex
	seen := map[Ref]bool{}
	var issuers sync.WaitGroup
	for range 8 {
		issuers.Go(func() {
			for range 1000 {
				ref, err := f.Reserve(f.ctx, f.storage, owner, orders, f.now.Add(time.Hour))
				mu.Lock()
				if err != nil || seen[ref] {
					t.Errorf("%v: %v, given out before: %v", ref, err, seen[ref])
				}
				seen[ref] = true
				mu.Unlock()
			}
		})
	}
	issuers.Wait()
}

// The horizon bounds all tokens of a list before any of them is given out.
func TestHorizon(t *testing.T) {
	f := newFixture(t)
	f.reserve()
	for _, step := range []struct {
		after, life time.Duration
		writes      int64
	}{
		{0, time.Hour, 0},
		{10 * time.Minute, time.Hour, 0}, // as far as the first token's write went
		{time.Second, time.Hour, 1},
		{0, time.Minute, 0},
		{0, 30 * time.Hour, 1},
	} {
		f.now = f.now.Add(step.after)
		var ref Ref
		if _, writes := f.storage.Count(func() { ref = f.reserveFor(owner, orders, step.life) }); writes != step.writes {
			t.Errorf("%s later, for %s: %d writes, want %d", step.after, step.life, writes, step.writes)
		}
		kept := f.now
		f.now = f.now.Add(step.life - 1) // until the token expires, whatever happens
		fresh := f.other()
		if n, err := fresh.Tidy(f.ctx, f.storage, 0); n != (Tidied{}) || err != nil {
			t.Errorf("the list of a token of %s was removed while it lives: %v, %v", step.life, n, err)
		}
		if fresh.mustStatus(f, ref) != Valid {
			t.Errorf("a token of %s is revoked while it lives", step.life)
		}
		f.now = kept
	}
}

func TestRevoke(t *testing.T) {
	f := newFixture(t)
	kept, gone := f.reserve(), f.reserve()
	_, writes := f.storage.Count(func() {
		if !f.revoke(gone) {
			t.Error("there was nothing to revoke")
		}
	})
	if writes != 1 {
		t.Errorf("a revocation took %d writes", writes)
	}
	check := func(when string) {
		t.Helper()
		if f.revoked(kept) || !f.revoked(gone) {
			t.Errorf("%s: revoked %v and %v, want the second alone", when, f.revoked(kept), f.revoked(gone))
		}
		if reads, writes := f.storage.Count(func() { f.revoke(gone) }); reads+writes != 0 || f.revoke(gone) {
			t.Errorf("%s: revoking again took %d reads and %d writes", when, reads, writes)
		}
	}
	check("then")
	f.restart()
	f.revoked(kept) // into memory
	check("after a restart")
	f.restart()
	if !f.Invalidate("list/x") || !f.Invalidate("revoked/x/1") || f.Invalidate("role/list/") {
		t.Error("Invalidate does not know its keys")
	}
	f.revoked(kept)
	check("after an invalidation")
}

// What was never given out is revoked, and what is no index revokes nothing.
func TestStatusOfNoToken(t *testing.T) {
	f := newFixture(t)
	list := f.reserve().List
	for name, ref := range map[string]Ref{
		"unknown list":   {strings.Repeat("0", 22), 0},
		"no list":        {"", 0},
		"unreserved":     {list, listSize - 1},
		"beyond the end": {list, listSize},
		"negative":       {list, -1},
	} {
		if !f.revoked(ref) {
			t.Errorf("%s: counts as good", name)
		}
	}
	for _, ref := range []Ref{{"", 0}, {"../config", 0}, {list, listSize}, {list, -1}} {
		if _, writes := f.storage.Count(func() {
			if done, err := f.Revoke(f.ctx, f.storage, ref, "id", f.now); done || err == nil {
				t.Errorf("%v was revoked", ref)
			}
		}); writes != 0 {
			t.Errorf("%v: %d writes", ref, writes)
		}
	}
	f.restart()
	f.revoked(Ref{List: list}) // which fails if what is stored cannot be read
}

// After a snapshot was restored the storage knows less than was given out.
func TestRevokeUnreserved(t *testing.T) {
	f := newFixture(t)
	ref := Ref{List: f.reserve().List, Index: 2*largestBlock + 7}
	f.expires[ref] = f.now.Add(time.Hour)
	if !f.revoke(ref) {
		t.Error("an index that was not reserved cannot be revoked")
	}
	for _, when := range []string{"then", "after a restart"} {
		for range 3 * largestBlock { // none of them the revoked one's
			if f.revoked(f.reserve()) {
				t.Fatalf("%s: a token is revoked as it is issued", when)
			}
		}
		if !f.revoked(ref) {
			t.Errorf("%s: not revoked", when)
		}
		f.restart()
	}
	if _, given := f.ids[ref]; given {
		t.Error("the revoked index was given out")
	}
}

// A revocation that failed is not acknowledged, and yet nobody is told that the
// token is good: it may have taken effect. It can be tried again, which writes
// again; one that was acknowledged holds. A caller that hangs up stops none.
func TestRevokeOnFaults(t *testing.T) {
	for name, test := range map[string]struct {
		inject func(*storetest.Storage)
		cancel bool
	}{
		"write refused": {func(s *storetest.Storage) { s.Before(storetest.Fail(revokedPrefix, storetest.Put)) }, false},
		"reply lost":    {func(s *storetest.Storage) { s.After(storetest.Fail(revokedPrefix, storetest.Put)) }, false},
		"caller gone":   {func(*storetest.Storage) {}, true},
	} {
		t.Run(name, func(t *testing.T) {
			f := newFixture(t)
			ref := f.reserve()
			test.inject(f.storage)
			ctx, cancel := context.WithCancel(f.ctx)
			defer cancel()
			if test.cancel {
				cancel()
			}
			if done, err := f.Revoke(ctx, f.storage, ref, "id", f.expires[ref]); done != test.cancel || (err == nil) != test.cancel {
				t.Errorf("revoked %v, %v", done, err)
			}
			if !f.revoked(ref) {
				t.Error("good, although its revocation may have taken effect")
			}
			f.storage.Heal()
			_, writes := f.storage.Count(func() {
				if done, err := f.Revoke(f.ctx, f.storage, ref, "id", f.expires[ref]); done == test.cancel || err != nil || !f.revoked(ref) {
					t.Errorf("tried again: %v, %v, revoked %v", done, err, f.revoked(ref))
				}
			})
			if (writes == 0) != test.cancel {
				t.Errorf("tried again with %d writes", writes)
			}
			f.restart()
			if !f.revoked(ref) {
				t.Error("not revoked after a restart")
			}
		})
	}
}

// Nothing that cannot be read passes for good, and it can be revoked all the same.
func TestReadFaults(t *testing.T) {
	f := newFixture(t)
	ref, gone := f.reserve(), f.reserve()
	f.revoke(gone)
	for name, fault := range map[string]storetest.Hook{
		"list":  storetest.Fail(listPrefix, storetest.List),
		"entry": storetest.Fail(listPrefix, storetest.Get),
		"bits":  storetest.Fail(revokedPrefix, storetest.List),
	} {
		for _, start := range []func(){f.restart, func() { f.restart(); f.Invalidate(listPrefix + ref.List) }} {
			start()
			f.storage.Before(fault)
			if _, status, err := f.Status(f.ctx, f.storage, ref); err == nil || status == Valid {
				t.Errorf("%s: status %v, %v", name, status, err)
			}
			if removed, err := f.Tidy(f.ctx, f.storage, 0); err == nil {
				t.Errorf("%s: removed %v", name, removed)
			}
			other := Ref{List: ref.List, Index: listSize - 1 - len(f.ids)}
			f.note(other, f.now.Add(time.Hour))
			if !f.revoke(other) {
				t.Errorf("%s: not revoked", name)
			}
			f.storage.Heal()
			if f.status(ref) != Valid || f.status(gone) != Revoked || f.status(other) != Revoked {
				t.Errorf("%s: afterwards, %v, %v and %v", name, f.status(ref), f.status(gone), f.status(other))
			}
		}
	}
	for _, bad := range []string{"x", "-1", fmt.Sprint(listSize), "1.x", "1.5.7", "4096-8191"} {
		entry := &logical.StorageEntry{Key: revokedPrefix + ref.List + "/" + bad, Value: []byte("{}")}
		if err := f.storage.Put(f.ctx, entry); err != nil {
			t.Fatal(err)
		}
		f.restart()
		if _, status, err := f.Status(f.ctx, f.storage, ref); err == nil || status == Valid {
			t.Errorf("a revocation of %q: status %v, %v", bad, status, err)
		}
		if err := f.storage.Delete(f.ctx, entry.Key); err != nil {
			t.Fatal(err)
		}
	}
}

func TestNoRandomness(t *testing.T) {
	f := newFixture(t)
	f.Lists = New(f.clock, iotest.ErrReader(io.ErrUnexpectedEOF), func() time.Duration { return 0 })
	if ref, err := f.Reserve(f.ctx, f.storage, owner, orders, f.now.Add(time.Hour)); !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("reserved %v, %v", ref, err)
	}
	if left := slices.Concat(f.stored(listPrefix), f.stored(revokedPrefix)); len(left) != 0 {
		t.Errorf("stored %v", left)
	}
}
