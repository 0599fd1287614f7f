package statuslist

import (
	"crypto/rand"
	"testing"
	"time"

	"github.com/hashicorp/vault/sdk/logical"

	"github.com/vault-tokens/vault-plugin-secrets-tokens/backend/store/storetest"
	"github.com/vault-tokens/vault-plugin-secrets-tokens/verify/format"
)

var opaque = Owner{Lifetime: Day}

func (f *fixture) endRole(role string) *RoleEnded {
	f.t.Helper()
	ended, err := f.EndRole(f.ctx, f.storage, role)
	if err != nil {
		f.t.Fatal(err)
	}
	return ended
}

// scattered returns tokens of two roles on several lists, old and new.
func scattered(f *fixture) (of map[string][]Ref, lists int) {
	of = map[string][]Ref{}
	ids := map[string]bool{}
	for range 2 {
		for _, o := range []Owner{owner, opaque, {Lifetime: Long}} {
			for range 2*smallestBlock + 1 {
				for _, role := range []string{orders, "billing"} {
					ref := f.reserveFor(o, role, time.Hour)
					of[role] = append(of[role], ref)
					ids[ref.List] = true
				}
			}
		}
		f.restart()
	}
	return of, len(ids)
}

// All that a role was given is revoked with one write per list, wherever it is; what
// others have is not, nor what the role is given afterwards.
func TestEndRole(t *testing.T) {
	f := newFixture(t)
	of, lists := scattered(f)
	before := f.reserve()
	of[orders] = append(of[orders], before)
	lists++
	var ended *RoleEnded
	f.endRole("of no token")
	for _, ref := range of["billing"] {
		f.status(ref) // so that all lists are in memory
	}
	reads, writes := f.storage.Count(func() { ended = f.endRole(orders) })
	if reads != 0 || writes != int64(lists) || ended.Lists != lists {
		t.Errorf("%d reads, %d writes, %d lists ended, want 0, %d, %d", reads, writes, ended.Lists, lists, lists)
	}
	if _, writes := f.storage.Count(func() { ended = f.endRole(orders) }); writes != 0 || ended.Lists != 0 {
		t.Errorf("a second time: %d writes, %d lists", writes, ended.Lists)
	}
	after := f.reserve()
	check := func(when string) {
		t.Helper()
		for role, want := range map[string]Status{orders: Revoked, "billing": Valid} {
			for _, ref := range of[role] {
				if got := f.status(ref); got != want {
					t.Fatalf("%s: a token of %s is %v, want %v", when, role, got, want)
				}
			}
		}
		if f.status(after) != Valid {
			t.Fatalf("%s: a token of after is not valid", when)
		}
	}
	check("at once")
	f.restart()
	check("after a restart")
	if after.List == before.List && after.Index/smallestBlock == before.Index/smallestBlock {
		t.Error("the token of after is in the block of one before")
	}
	f.now = f.now.Add(time.Hour + margin/2)
	f.tidy()
	check("within the margin")
	f.now = f.now.Add(margin)
	f.tidy()
	if left := f.stored(revokedPrefix); len(left) > 0 {
		t.Errorf("left: %v", left)
	}
}

// The end of a role is followed by a node that reads only, and by one that loads
// the list just then.
func TestEndRoleElsewhere(t *testing.T) {
	f := newFixture(t)
	of, _ := scattered(f)
	follower := f.other()
	for _, refs := range of {
		for _, ref := range refs {
			follower.mustStatus(f, ref)
		}
	}
	f.endRole(orders)
	for _, key := range f.stored(revokedPrefix) {
		follower.Invalidate(key)
	}
	reads, _ := f.storage.Count(func() {
		for _, ref := range of[orders] {
			if follower.mustStatus(f, ref) != Revoked {
				t.Fatal("a token of the role is valid on another node")
			}
		}
	})
	if reads != 0 {
		t.Errorf("%d reads", reads)
	}
}

// A role's end that was answered with an error is done by the next try, and nothing
// that was revoked comes back in between.
func TestEndRoleOnFaults(t *testing.T) {
	for _, inject := range []func(*fixture, storetest.Hook){
		func(f *fixture, h storetest.Hook) { f.storage.Before(h) },
		func(f *fixture, h storetest.Hook) { f.storage.After(h) },
	} {
		for nth := range 12 {
			f := newFixture(t)
			of, _ := scattered(f)
			seen := 0
			fail := storetest.Fail("", storetest.Get, storetest.List, storetest.Put)
			inject(f, func(operation storetest.Op, key string) error {
				seen++
				if seen != nth+1 {
					return nil
				}
				return fail(operation, key)
			})
			_, err := f.EndRole(f.ctx, f.storage, orders)
			f.storage.Heal()
			if err == nil && nth == 0 {
				t.Fatal("no error of a storage that failed")
			}
			f.endRole(orders)
			for _, ref := range of[orders] {
				if !f.revoked(ref) {
					t.Fatalf("fault %d: a token is valid after the retry", nth)
				}
			}
			f.restart()
			for _, ref := range of[orders] {
				if !f.revoked(ref) {
					t.Fatalf("fault %d: a token is valid after the retry and a restart", nth)
				}
			}
			for _, ref := range of["billing"] {
				if f.revoked(ref) {
					t.Fatalf("fault %d: a token of another role is revoked", nth)
				}
			}
		}
	}
}

// A list that cannot be decoded keeps no role from being ended on the others.
func TestEndRoleBesideABadList(t *testing.T) {
	f := newFixture(t)
	bad := f.reserveFor(opaque, orders, time.Hour)
	good := f.reserveFor(owner, orders, time.Hour)
	if err := f.storage.Put(f.ctx, &logical.StorageEntry{Key: listPrefix + bad.List, Value: []byte("{")}); err != nil {
		t.Fatal(err)
	}
	f.restart()
	ended := f.endRole(orders)
	if ended.Lists != 1 || len(ended.Unreadable) != 1 || ended.Unreadable[0] != bad.List {
		t.Errorf("%+v", ended)
	}
	if !f.revoked(good) {
		t.Error("the token on the good list is valid")
	}
}

// A list lasts for a token that is renewed, whoever made it, at one write per ten
// minutes.
func TestProlong(t *testing.T) {
	f := newFixture(t)
	for _, restart := range []bool{false, true} {
		ref := f.reserveFor(opaque, orders, time.Hour)
		if restart {
			f.restart()
			f.status(ref)
		}
		steps := 0
		reads, writes := f.storage.Count(func() {
			for life := time.Duration(0); life < 2*time.Hour; life += time.Minute {
				if ok, err := f.Prolong(f.ctx, f.storage, ref.List, f.now.Add(time.Hour+life)); !ok || err != nil {
					t.Fatal(ok, err)
				}
				steps++
			}
		})
		if reads != 0 || writes > int64(steps)/10 || writes < int64(steps)/11-1 {
			t.Errorf("restarted: %v: %d reads, %d writes for %d renewals a minute apart", restart, reads, writes, steps)
		}
		f.expires[ref] = f.now.Add(3*time.Hour - time.Minute)
		f.now = f.expires[ref].Add(margin - time.Second)
		f.tidy()
		if f.status(ref) != Valid {
			t.Error("the list of a renewed token is gone")
		}
		f.now = f.now.Add(time.Hour)
		f.tidy()
		if f.status(ref) != NotGiven {
			t.Error("the list is kept for ever")
		}
	}
	if ok, err := f.Prolong(f.ctx, f.storage, mustID(t), f.now.Add(time.Hour)); ok || err != nil {
		t.Errorf("a list that never was: %v, %v", ok, err)
	}
}

func mustID(t *testing.T) string {
	t.Helper()
	id, err := format.NewID(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return id
}

func TestProlongOnFaults(t *testing.T) {
	for _, inject := range []func(*fixture, storetest.Hook){
		func(f *fixture, h storetest.Hook) { f.storage.Before(h) },
		func(f *fixture, h storetest.Hook) { f.storage.After(h) },
	} {
		f := newFixture(t)
		ref := f.reserveFor(opaque, orders, time.Hour)
		until := f.now.Add(2 * time.Hour)
		inject(f, storetest.Fail(listPrefix, storetest.Put))
		if _, err := f.Prolong(f.ctx, f.storage, ref.List, until); err == nil {
			t.Fatal("no error of a storage that failed")
		}
		f.storage.Heal()
		// The retry writes; and no index is given out any more that a late write
		// could hide.
		if ok, err := f.Prolong(f.ctx, f.storage, ref.List, until); !ok || err != nil {
			t.Fatal(ok, err)
		}
		if next := f.reserveFor(opaque, orders, time.Hour); next.List == ref.List {
			t.Error("a list was extended whose entry may be written late")
		}
		f.restart()
		f.now = until.Add(margin - time.Second)
		f.tidy()
		if f.status(ref) != Valid {
			t.Error("the list does not last")
		}
	}
}

// Of the tokens that were issued after a snapshot was taken, a restored mount knows
// nothing but the block: once all records were looked at, they are revoked. Those
// that a record names are not.
func TestSettle(t *testing.T) {
	f := newFixture(t)
	var known, lost []Ref
	for range smallestBlock / 2 {
		known = append(known, f.reserveFor(opaque, orders, time.Hour))
	}
	jwt := f.reserve()
	f.revoke(known[0])
	for range smallestBlock / 4 {
		lost = append(lost, f.reserveFor(opaque, orders, time.Hour))
	}
	settle := func() int {
		t.Helper()
		s, err := f.BeginSettling(f.ctx, f.storage)
		if err != nil {
			t.Fatal(err)
		}
		for _, ref := range known {
			s.Name(ref)
		}
		s.Name(Ref{})
		s.Name(Ref{List: mustID(t), Index: 1})
		n, err := s.End(f.ctx, f.storage)
		if err != nil {
			t.Fatal(err)
		}
		return n
	}
	if n := settle(); n != 0 {
		t.Errorf("%d lists of the instance that fills them were settled", n)
	}
	f.restart()
	check := func(when string, want Status) {
		t.Helper()
		if f.status(known[0]) != Revoked || f.status(known[1]) != Valid || f.status(jwt) != Valid {
			t.Errorf("%s: %v %v %v", when, f.status(known[0]), f.status(known[1]), f.status(jwt))
		}
		for _, ref := range lost {
			if f.status(ref) != want {
				t.Fatalf("%s: a token without a record is %v, want %v", when, f.status(ref), want)
			}
		}
	}
	check("before", Valid)
	follower := f.other()
	follower.mustStatus(f, lost[0])
	if n := settle(); n != 1 {
		t.Errorf("%d lists were settled", n)
	}
	check("settled", Revoked)
	for _, key := range f.stored(revokedPrefix) {
		follower.Invalidate(key)
	}
	if follower.mustStatus(f, lost[0]) != Revoked {
		t.Error("a node that follows does not know")
	}
	f.restart()
	check("after a restart", Revoked)
	if n := settle(); n != 0 {
		t.Errorf("%d lists were settled again", n)
	}
	if role, _, _ := f.Status(f.ctx, f.storage, lost[0]); role != orders {
		t.Errorf("the role of a lost token is %q", role)
	}
}
