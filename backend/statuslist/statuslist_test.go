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

var owner = Owner{Role: "orders", Key: "k", Issuer: "https://vault.example.com/v1/tokens"}

// fixture is the lists of a mount on a storage that can fail, at a time that
// the test sets.
type fixture struct {
	*Lists
	t       *testing.T
	ctx     context.Context
	storage *storetest.Storage
	now     time.Time
	ids     map[Ref]string // of the tokens issued
}

func newFixture(t *testing.T) *fixture {
	t.Helper()
	f := &fixture{t: t, ctx: context.Background(), storage: &storetest.Storage{}, now: time.Now(), ids: map[Ref]string{}}
	f.restart()
	return f
}

func (f *fixture) clock() time.Time { return f.now }

// restart gives the fixture new lists on the same storage.
func (f *fixture) restart() { f.Lists = New(f.clock, rand.Reader) }

// reserve returns the bit of a token that lives for an hour.
func (f *fixture) reserve() Ref { return f.reserveFor(owner, time.Hour) }

func (f *fixture) reserveFor(owner Owner, life time.Duration) Ref {
	f.t.Helper()
	ref, err := f.Reserve(f.ctx, f.storage, owner, f.now.Add(life))
	if err != nil {
		f.t.Fatal(err)
	}
	if before, twice := f.ids[ref]; twice {
		f.t.Fatalf("%v was given out before, to token %s", ref, before)
	}
	f.ids[ref] = fmt.Sprint("token-", len(f.ids))
	return ref
}

func (f *fixture) revoke(ref Ref) bool {
	f.t.Helper()
	done, err := f.Revoke(f.ctx, f.storage, ref, f.ids[ref])
	if err != nil {
		f.t.Fatal(err)
	}
	return done
}

func (f *fixture) revoked(ref Ref) bool {
	f.t.Helper()
	_, revoked, err := f.Status(f.ctx, f.storage, ref)
	if err != nil {
		f.t.Fatal(err)
	}
	return revoked
}

func (f *fixture) tidy() int {
	f.t.Helper()
	removed, err := f.Tidy(f.ctx, f.storage)
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
	if role, revoked, err := f.Status(f.ctx, f.storage, first); role != owner.Role || revoked || err != nil {
		t.Errorf("a new token is of role %q, revoked %v, %v", role, revoked, err)
	}
	// Thousands of tokens take one write, and their indexes come in no order.
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
	if writes > 1 {
		t.Errorf("4000 tokens took %d writes", writes)
	}
	if ascending < 1000 || ascending > 3000 {
		t.Errorf("%d of 4000 indexes are above the one before", ascending)
	}
}

// Tokens that differ in role, key or issuer share no list.
func TestListsAreOfOneOwner(t *testing.T) {
	f := newFixture(t)
	lists := map[string]Owner{}
	for _, o := range []Owner{owner, {"a", owner.Key, owner.Issuer}, {owner.Role, "b", owner.Issuer}, {owner.Role, owner.Key, "https://c"}} {
		ref := f.reserveFor(o, time.Hour)
		if other, shared := lists[ref.List]; shared {
			t.Errorf("%v and %v are on one list", o, other)
		}
		lists[ref.List] = o
		if again := f.reserveFor(o, time.Hour); again.List != ref.List {
			t.Errorf("%v is on two lists", o)
		}
		if role, _, _ := f.Status(f.ctx, f.storage, ref); role != o.Role {
			t.Errorf("a token of %v is of role %s", o, role)
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
		f.restart()
		for _, inject := range []func(){
			func() { f.storage.Before(puts) },
			func() { f.storage.After(puts) },
			func() { f.storage.Before(storetest.Fail("", storetest.Get, storetest.List)) },
		} {
			f.restart()
			inject()
			if ref, err := f.Reserve(f.ctx, f.storage, owner, f.now.Add(time.Hour)); err == nil {
				t.Errorf("%v was given out, although nothing says so in the storage", ref)
			}
			f.storage.Heal()
			issue(10)
		}
	}
	if lists := f.stored(listPrefix); len(lists) > 2 {
		t.Errorf("%d lists for %d tokens", len(lists), len(f.ids))
	}
}

func TestFullList(t *testing.T) {
	f := newFixture(t)
	first := f.reserve().List
	for len(f.ids) < listSize {
		if ref := f.reserve(); ref.List != first {
			t.Fatalf("a list is full with %d tokens", len(f.ids)-1)
		}
	}
	if next := f.reserve(); next.List == first {
		t.Error("a full list took one more")
	}
	f.restart()
	if next := f.reserve(); next.List == first {
		t.Error("after a restart, a full list took one more")
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
				ref, err := f.Reserve(f.ctx, f.storage, owner, f.now.Add(time.Hour))
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
		if _, writes := f.storage.Count(func() { ref = f.reserveFor(owner, step.life) }); writes != step.writes {
			t.Errorf("%s later, for %s: %d writes, want %d", step.after, step.life, writes, step.writes)
		}
		kept := f.now
		f.now = f.now.Add(step.life) // until the token expires, whatever happens
		fresh := New(f.clock, rand.Reader)
		if n, err := fresh.Tidy(f.ctx, f.storage); n != 0 || err != nil {
			t.Errorf("the list of a token of %s was removed while it lives: %d, %v", step.life, n, err)
		}
		if _, revoked, err := fresh.Status(f.ctx, f.storage, ref); revoked || err != nil {
			t.Errorf("a token of %s is revoked while it lives: %v", step.life, err)
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
	for _, ref := range []Ref{{strings.Repeat("0", 22), 0}, {list, listSize}, {list, -1}} {
		if _, writes := f.storage.Count(func() {
			if f.revoke(ref) {
				t.Errorf("%v was revoked", ref)
			}
		}); writes != 0 {
			t.Errorf("%v: %d writes", ref, writes)
		}
	}
	f.restart()
	f.reserve() // which fails if what is stored cannot be read
}

// After a snapshot was restored the storage knows less than was given out.
func TestRevokeUnreserved(t *testing.T) {
	f := newFixture(t)
	ref := Ref{List: f.reserve().List, Index: 2*blockSize + 7}
	if !f.revoke(ref) {
		t.Error("an index that was not reserved cannot be revoked")
	}
	for _, when := range []string{"then", "after a restart"} {
		for range blockSize { // none of them the revoked one's
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

// A revocation that failed is not acknowledged, and can be tried again; one
// that was acknowledged holds.
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
			if done, err := f.Revoke(ctx, f.storage, ref, "id"); done || err == nil {
				t.Errorf("revoked %v, %v", done, err)
			}
			f.storage.Heal()
			if _, err := f.Revoke(f.ctx, f.storage, ref, "id"); err != nil || !f.revoked(ref) {
				t.Errorf("tried again: %v, revoked %v", err, f.revoked(ref))
			}
			f.restart()
			if !f.revoked(ref) {
				t.Error("not revoked after a restart")
			}
		})
	}
}

// Nothing that cannot be read passes for good.
func TestReadFaults(t *testing.T) {
	f := newFixture(t)
	ref, gone := f.reserve(), f.reserve()
	f.revoke(gone)
	for name, inject := range map[string]func() (context.Context, func()){
		"list": func() (context.Context, func()) {
			f.storage.Before(storetest.Fail(listPrefix, storetest.List))
			return f.ctx, f.storage.Heal
		},
		"entry": func() (context.Context, func()) {
			f.storage.Before(storetest.Fail(listPrefix, storetest.Get))
			return f.ctx, f.storage.Heal
		},
		"bits": func() (context.Context, func()) {
			f.storage.Before(storetest.Fail(revokedPrefix, storetest.List))
			return f.ctx, f.storage.Heal
		},
		"caller": func() (context.Context, func()) {
			ctx, cancel := context.WithCancel(f.ctx)
			cancel()
			return ctx, func() {}
		},
	} {
		for _, start := range []func(){f.restart, func() { f.Invalidate(listPrefix + ref.List) }} {
			start()
			ctx, heal := inject()
			if _, revoked, err := f.Status(ctx, f.storage, ref); err == nil || !revoked {
				t.Errorf("%s: revoked %v, %v", name, revoked, err)
			}
			if done, err := f.Revoke(ctx, f.storage, ref, "id"); err == nil || done {
				t.Errorf("%s: revoked %v, %v", name, done, err)
			}
			if ref, err := f.Reserve(ctx, f.storage, owner, f.now.Add(time.Hour)); err == nil {
				t.Errorf("%s: reserved %v", name, ref)
			}
			if removed, err := f.Tidy(ctx, f.storage); err == nil {
				t.Errorf("%s: removed %d", name, removed)
			}
			heal()
			if f.revoked(ref) || !f.revoked(gone) {
				t.Errorf("%s: afterwards, revoked %v and %v", name, f.revoked(ref), f.revoked(gone))
			}
		}
	}
	for _, bad := range []string{"x", "-1", fmt.Sprint(listSize), "1.5"} {
		entry := &logical.StorageEntry{Key: revokedPrefix + ref.List + "/" + bad, Value: []byte("{}")}
		if err := f.storage.Put(f.ctx, entry); err != nil {
			t.Fatal(err)
		}
		f.restart()
		if _, revoked, err := f.Status(f.ctx, f.storage, ref); err == nil || !revoked {
			t.Errorf("a revocation of %q: revoked %v, %v", bad, revoked, err)
		}
		if err := f.storage.Delete(f.ctx, entry.Key); err != nil {
			t.Fatal(err)
		}
	}
}

func TestNoRandomness(t *testing.T) {
	f := newFixture(t)
	f.Lists = New(f.clock, iotest.ErrReader(io.ErrUnexpectedEOF))
	if ref, err := f.Reserve(f.ctx, f.storage, owner, f.now.Add(time.Hour)); !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("reserved %v, %v", ref, err)
	}
	if left := slices.Concat(f.stored(listPrefix), f.stored(revokedPrefix)); len(left) != 0 {
		t.Errorf("stored %v", left)
	}
}
