package statuslist

import (
	"context"
	"fmt"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/vault/sdk/logical"

	"github.com/vault-tokens/vault-plugin-secrets-tokens/backend/store/storetest"
)

// Many roles that issue in turn fill lists with tokens, not with blocks that they
// reserve: what verifiers fetch grows with the tokens.
func TestManyRolesInTurn(t *testing.T) {
	f := newFixture(t)
	const roles, rounds = 1500, 40
	lists := map[string]bool{}
	last := map[string]string{} // list by role
	_, writes := f.storage.Count(func() {
		for range rounds {
			for n := range roles {
				role := fmt.Sprint("role-", n)
				ref := f.reserveFor(owner, role, time.Hour)
				lists[ref.List] = true
				last[role] = ref.List
			}
		}
	})
	// Two blocks a role, of 128 places: the first lists are small ones.
	if len(lists) > 4 {
		t.Errorf("%d tokens are on %d lists", roles*rounds, len(lists))
	}
	if most := int64(2*roles + len(lists) + 1); writes > most {
		t.Errorf("%d writes for two blocks of each of %d roles, want at most %d", writes, roles, most)
	}
	for ref := range f.ids {
		if role, status, _ := f.Status(f.ctx, f.storage, ref); status != Valid || role == "" {
			t.Fatalf("a token is %v, of role %q", status, role)
		}
		break
	}
	for _, key := range f.stored(listPrefix) {
		entry, err := f.storage.Get(f.ctx, key)
		if err != nil || len(entry.Value) > 64<<10 {
			t.Errorf("the entry of a list has %d bytes, %v", len(entry.Value), err)
		}
	}
}

// What verifiers fetch grows with the live tokens: a million of them fill eight
// lists, or ten if they are of ten thousand roles, which have some room to spare.
func TestMillionTokens(t *testing.T) {
	for _, roles := range []int{1, 10_000} {
		f := newFixture(t)
		lists := map[string]bool{}
		_, writes := f.storage.Count(func() {
			for range 1_000_000 / roles {
				for n := range roles {
					ref, err := f.Reserve(f.ctx, f.storage, Owner{Lifetime: Month}, fmt.Sprint("role-", n), f.now.Add(time.Hour))
					if err != nil {
						t.Fatal(err)
					}
					lists[ref.List] = true
				}
			}
		})
		if len(lists) > 10 {
			t.Errorf("the tokens of %d roles are on %d lists", roles, len(lists))
		}
		if most := int64(2*roles + 300); writes > most {
			t.Errorf("%d roles: %d writes, want at most %d", roles, writes, most)
		}
		t.Logf("%d roles: %d lists, %d writes, %d KiB in memory", roles, len(lists), writes, f.Counts().LoadedBytes>>10)
	}
}

// A role that issues seldom keeps its block when others have filled the list, for
// as long as its tokens need.
func TestBlockOutlivesFullList(t *testing.T) {
	f := newFixture(t)
	seldom := f.reserveFor(owner, "seldom", time.Hour)
	for range firstSize {
		f.reserve()
	}
	if f.reserve().List == seldom.List {
		t.Fatal("the list is not full; the test shows nothing")
	}
	for step, life := range []time.Duration{time.Hour, 30 * time.Hour} { // the second moves the list's horizon
		ref := f.reserveFor(owner, "seldom", life)
		if ref.List != seldom.List {
			t.Errorf("step %d: on another list, although its block is open", step)
		}
		for name, lists := range map[string]*Lists{"here": f.Lists, "elsewhere": f.other()} {
			if lists.mustStatus(f, ref) != Valid {
				t.Errorf("step %d: refused %s", step, name)
			}
		}
	}
	f.now = f.now.Add(30*time.Hour + margin - time.Second)
	if n, err := f.other().Tidy(f.ctx, f.storage, margin); err != nil || n.Lists != 1 { // the one of orders
		t.Errorf("removed %v, %v", n, err)
	}
	if f.other().mustStatus(f, seldom) != Valid {
		t.Error("the list went before its last token")
	}
}

// A copy of a list that is older than a token does not refuse it, as long as one
// process gives out the list's indexes.
func TestOlderCopyHasYoungerTokens(t *testing.T) {
	f, s := newFixture(t), newSigner(t)
	list := f.reserve().List
	revoked, _ := f.verify(f.publish(list, settings, s), list, s)
	for range firstSize - 1 {
		ref := f.reserve()
		if ref.List == list && slices.Contains(revoked, ref.Index) {
			t.Fatalf("a copy refuses index %d, which was given out after it", ref.Index)
		}
	}
}

// Once no process will give them out, indexes that were not reserved are revoked:
// here, after a restart, and on a node that follows the one which was restarted.
func TestNotGivenOutIsRevoked(t *testing.T) {
	f, s := newFixture(t), newSigner(t)
	list := f.reserve().List
	published := func(lists *Lists) int {
		t.Helper()
		body, err := lists.Publish(f.ctx, f.storage, list, settings, s.of)
		if err != nil {
			t.Fatal(err)
		}
		revoked, _ := f.verify(string(body), list, s)
		return len(revoked)
	}
	follower := New(f.clock, nil, func() time.Duration { return 30 * time.Second })
	for name, lists := range map[string]*Lists{"the one that fills it": f.Lists, "one that follows it": follower} {
		if n := published(lists); n != 0 {
			t.Errorf("%s: %d are revoked, and may be given out", name, n)
		}
	}
	f.restart()
	if n := published(f.Lists); n != firstSize-smallestBlock {
		t.Errorf("after a restart, %d are revoked, want all but the block", n)
	}
	if err := f.Begin(f.ctx, f.storage); err != nil {
		t.Fatal(err)
	}
	follower.Invalidate(instancePrefix + instanceName)
	if n := published(follower); n != firstSize-smallestBlock {
		t.Errorf("on the node that follows, %d are revoked, want all but the block", n)
	}
}

// A snapshot that was restored knows nothing of the tokens issued after it. They
// are refused, on the list as well, and can be revoked.
func TestRestoredSnapshot(t *testing.T) {
	f, s := newFixture(t), newSigner(t)
	early := f.reserve()
	snapshot := f.copyStorage()
	var late Ref
	for range 200 {
		late = f.reserve()
	}
	f.storage = snapshot
	f.restart()
	check := func(when string) {
		t.Helper()
		revoked, _ := f.verify(f.publish(late.List, settings, s), late.List, s)
		if f.status(late) == Valid || !slices.Contains(revoked, late.Index) {
			t.Errorf("%s: a token of after the snapshot is good", when)
		}
		if f.status(early) != Valid || slices.Contains(revoked, early.Index) {
			t.Errorf("%s: a token of before the snapshot is refused", when)
		}
	}
	check("at once")
	for range 5000 {
		if ref := f.reserve(); ref.List == late.List {
			t.Fatal("the list of before is filled on")
		}
	}
	check("after many more tokens")
	if !f.revoke(late) {
		t.Error("there was nothing to revoke")
	}
	for range 2 {
		if f.status(late) != Revoked {
			t.Error("not revoked")
		}
		f.restart()
	}
}

func (f *fixture) copyStorage() *storetest.Storage {
	f.t.Helper()
	copied := &storetest.Storage{}
	for _, key := range f.stored("") {
		entry, err := f.storage.Get(f.ctx, key)
		if err == nil {
			err = copied.Put(f.ctx, entry)
		}
		if err != nil {
			f.t.Fatal(err)
		}
	}
	return copied
}

// seed stores lists of an earlier process, each with a token, and revocations.
func (f *fixture) seed(lists, revocations int) (refs []Ref) {
	f.t.Helper()
	for n := range lists {
		refs = append(refs, f.reserveFor(Owner{Key: fmt.Sprint("k", n), Issuer: owner.Issuer}, orders, time.Hour))
	}
	for n := range revocations {
		ref := Ref{List: refs[n%lists].List, Index: 1000 + n/lists}
		if _, err := f.Revoke(f.ctx, f.storage, ref, "id", f.now.Add(time.Hour)); err != nil {
			f.t.Fatal(err)
		}
	}
	f.restart()
	return refs
}

// With thousands of lists, a request loads the one that it is about; and one that
// cannot be read stops nobody else.
func TestListsLoadOneByOne(t *testing.T) {
	f := newFixture(t)
	refs := f.seed(3000, 0)
	bad := refs[1].List
	f.storage.Before(func(op storetest.Op, key string) error {
		if strings.Contains(key, bad) {
			return storetest.ErrInjected
		}
		return nil
	})
	if reads, _ := f.storage.Count(func() { f.status(refs[0]) }); reads != 3 {
		t.Errorf("%d reads for one token, want the names of the lists and the two of its own", reads)
	}
	if reads, _ := f.storage.Count(func() { f.status(refs[2]) }); reads != 2 {
		t.Errorf("%d reads for the next list, want 2", reads)
	}
	if _, status, err := f.Status(f.ctx, f.storage, refs[1]); err == nil || status == Valid {
		t.Errorf("a list that cannot be read: %v, %v", status, err)
	}
	if reads, writes := f.storage.Count(func() { f.reserve() }); reads != 0 || writes != 2 {
		t.Errorf("the first token took %d reads and %d writes, want those of the instance and the list", reads, writes)
	}
	if counts := f.Counts(); counts.Loaded != 3 {
		t.Errorf("%d lists are in memory", counts.Loaded)
	}
}

// Lists that are made up cost one listing in a while, however many are asked for.
func TestMadeUpListsCostNothing(t *testing.T) {
	f, s := newFixture(t), newSigner(t)
	f.seed(3, 0)
	reads, _ := f.storage.Count(func() {
		for n := range 1000 {
			if body := f.publish(fmt.Sprintf("%022d", n), settings, s); body != "" {
				t.Fatal("published a list that is none")
			}
		}
	})
	if reads != 1 {
		t.Errorf("%d reads", reads)
	}
	if counts := f.Counts(); counts.Lists != 3 {
		t.Errorf("%d lists are known", counts.Lists)
	}
	// One that another node makes is found nevertheless.
	ref, err := f.other().Reserve(f.ctx, f.storage, owner, orders, f.now.Add(time.Hour))
	if err != nil {
		t.Fatal(err)
	}
	f.now = f.now.Add(relistAfter)
	if f.status(ref) != Valid {
		t.Error("a list of another node is not found")
	}
}

// What another node changed costs a node that follows it no read, and concerns one
// list.
func TestInvalidateConcernsOneList(t *testing.T) {
	f, s := newFixture(t), newSigner(t)
	refs := f.seed(100, 1000)
	bodies := map[string]string{}
	for _, ref := range refs {
		bodies[ref.List] = f.publish(ref.List, settings, s)
	}
	changed := refs[7]
	reads, _ := f.storage.Count(func() {
		f.Invalidate(revokedPrefix + changed.List + "/" + mark{index: changed.Index, expires: f.now.Add(time.Hour)}.name())
		for _, ref := range refs {
			if anew := f.publish(ref.List, settings, s) != bodies[ref.List]; anew != (ref == changed) {
				t.Errorf("list %s signed anew: %v", ref.List, anew)
			}
		}
	})
	if reads != 0 {
		t.Errorf("a revocation elsewhere costs %d reads", reads)
	}
	if f.status(changed) != Revoked {
		t.Error("not revoked")
	}
	reads, _ = f.storage.Count(func() {
		f.Invalidate(listPrefix + refs[8].List)
		for _, ref := range refs {
			f.status(ref)
		}
	})
	if reads != 2 {
		t.Errorf("a change of one list costs %d reads, want its own 2", reads)
	}
}

// A node that follows is told of changes; what it was not told of it sees within
// its maximum age.
func TestLostInvalidation(t *testing.T) {
	f := newFixture(t)
	ref := f.reserve()
	follower := New(f.clock, nil, func() time.Duration { return 30 * time.Second })
	if follower.mustStatus(f, ref) != Valid {
		t.Fatal("refused")
	}
	f.revoke(ref)
	if follower.mustStatus(f, ref) != Valid {
		t.Fatal("seen at once; the test shows nothing")
	}
	f.now = f.now.Add(30 * time.Second)
	if follower.mustStatus(f, ref) != Revoked {
		t.Error("not seen")
	}
}

// Memory grows with what is reserved and revoked, and is bounded for what can be
// read again.
func TestMemory(t *testing.T) {
	heap := func() int {
		var stats runtime.MemStats
		runtime.GC()
		runtime.ReadMemStats(&stats)
		return int(stats.HeapAlloc)
	}
	f := newFixture(t)
	f.ids = nil
	before := heap()
	const roles = 10_000
	for n := range roles {
		if _, err := f.Reserve(f.ctx, discard{f.storage}, owner, fmt.Sprint("role-", n), f.now.Add(time.Hour)); err != nil {
			t.Fatal(err)
		}
	}
	perRole := (heap() - before) / roles
	t.Logf("%d bytes for each of %d roles with a token", perRole, roles)
	if perRole > 1<<10 {
		t.Errorf("%d bytes for each role, want at most 1 KiB", perRole)
	}
	runtime.KeepAlive(f)

	f = newFixture(t)
	const lists, revocations = 1000, 100_000
	refs := f.seed(lists, revocations)
	before = heap()
	for _, ref := range refs {
		f.status(ref)
	}
	perList := (heap() - before) / lists
	counts := f.Counts()
	t.Logf("%d bytes for each of %d lists with %d revocations, %d by its own count", perList, lists, revocations/lists, counts.LoadedBytes/lists)
	if perList > 8<<10 || counts.LoadedBytes > 2*lists*perList || 3*counts.LoadedBytes < lists*perList {
		t.Errorf("%d bytes for each list, %d by its own count", perList, counts.LoadedBytes/lists)
	}
	runtime.KeepAlive(f)
}

// discard is a storage that keeps nothing of lists.
type discard struct{ logical.Storage }

func (d discard) Put(context.Context, *logical.StorageEntry) error { return nil }
