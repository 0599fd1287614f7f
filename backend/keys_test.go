package backend

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/hashicorp/vault/sdk/logical"

	"github.com/vault-tokens/vault-plugin-secrets-tokens/backend/config"
	"github.com/vault-tokens/vault-plugin-secrets-tokens/backend/keyring"
	"github.com/vault-tokens/vault-plugin-secrets-tokens/backend/role"
	"github.com/vault-tokens/vault-plugin-secrets-tokens/backend/store/storetest"
	"github.com/vault-tokens/vault-plugin-secrets-tokens/backend/template"
	"github.com/vault-tokens/vault-plugin-secrets-tokens/backend/token"
)

// A retired version stays for the lists that it signed, as they are configured
// when it retires.
func TestRotateKey(t *testing.T) {
	f := newFixture(t)
	if _, _, err := f.Keys.Write(f.ctx, f.storage, "k", keyring.Settings{}); err != nil {
		t.Fatal(err)
	}
	if _, _, err := f.Config.Change(f.ctx, f.storage, func(c *config.Config) { c.StatusListLifetime = 7 * time.Hour }); err != nil {
		t.Fatal(err)
	}
	rotation, err := f.RotateKey(f.ctx, f.storage, "k", true)
	if err != nil || !rotation.Retired.NotAfter.Equal(f.now.Add(7*time.Hour)) {
		t.Errorf("rotated %+v, %v", rotation, err)
	}
	if rotation, err = f.Keys.EmergencyRotate(f.ctx, f.storage, "k"); err != nil || rotation.Retired != nil || len(rotation.Dropped) != 3 {
		t.Errorf("rotated in an emergency %+v, %v", rotation, err)
	}
	_, err = f.RotateKey(f.ctx, f.storage, "never", true)
	wantMistake(t, "rotate what never was", err, "name")
	_, err = f.Keys.EmergencyRotate(f.ctx, f.storage, "never")
	wantMistake(t, "rotate what never was in an emergency", err, "name")
	// A leaked key can be dropped even if the configuration cannot be read.
	f.restart()
	f.storage.Before(storetest.Fail("config/", storetest.Get))
	if _, err := f.RotateKey(f.ctx, f.storage, "k", true); err == nil {
		t.Error("rotated without knowing how long lists live")
	}
	if _, err := f.Keys.EmergencyRotate(f.ctx, f.storage, "k"); err != nil {
		t.Errorf("an emergency rotation needs the configuration: %v", err)
	}
}

func TestDeleteKey(t *testing.T) {
	f := newFixture(t)
	if deleted, err := f.DeleteKey(f.ctx, f.storage, "never"); deleted || err != nil {
		t.Errorf("deleted what never was: %v, %v", deleted, err)
	}
	f.mustRole("jwt", role.JWT, unchanged)
	f.mustRole("bearer", role.Bearer, unchanged)
	_, err := f.DeleteKey(f.ctx, f.storage, role.DefaultKey)
	wantMistake(t, "with a role that names it", err, "name")
	f.issue("jwt")
	if _, err := f.DeleteRole(f.ctx, f.storage, "jwt"); err != nil {
		t.Fatal(err)
	}
	_, err = f.DeleteKey(f.ctx, f.storage, role.DefaultKey)
	wantMistake(t, "with a token that lives", err, "name")
	f.now = f.now.Add(24 * time.Hour)
	if deleted, err := f.DeleteKey(f.ctx, f.storage, role.DefaultKey); !deleted || err != nil {
		t.Errorf("deleted %v, %v", deleted, err)
	}
}

// A key goes only when it is known that nothing needs it.
func TestDeleteKeyOnFaults(t *testing.T) {
	for name, test := range map[string]struct {
		inject func(*storetest.Storage)
		cancel bool
		kept   bool
	}{
		"roles not listed": {func(s *storetest.Storage) { s.Before(storetest.Fail("role/", storetest.List)) }, false, true},
		"role unread":      {func(s *storetest.Storage) { s.Before(storetest.Fail("role/", storetest.Get)) }, false, true},
		"key unread":       {func(s *storetest.Storage) { s.Before(storetest.Fail("key/", storetest.Get)) }, false, true},
		"delete refused":   {func(s *storetest.Storage) { s.Before(storetest.Fail("key/", storetest.Delete)) }, false, true},
		"its reply lost":   {func(s *storetest.Storage) { s.After(storetest.Fail("key/", storetest.Delete)) }, false, false},
		"caller gone":      {func(*storetest.Storage) {}, true, true},
	} {
		t.Run(name, func(t *testing.T) {
			f := newFixture(t)
			f.mustRole("bearer", role.Bearer, unchanged)
			if _, _, err := f.Keys.Write(f.ctx, f.storage, "k", keyring.Settings{}); err != nil {
				t.Fatal(err)
			}
			f.restart()
			test.inject(f.storage)
			ctx, cancel := context.WithCancel(f.ctx)
			defer cancel()
			if test.cancel {
				cancel()
			}
			if _, err := f.DeleteKey(ctx, f.storage, "k"); err == nil {
				t.Error("no error")
			}
			f.storage.Heal()
			if key, err := f.Keys.Get(f.ctx, f.storage, "k"); (key != nil) != test.kept || err != nil {
				t.Errorf("there is %v, %v", key, err)
			}
		})
	}
}

// keyAndRole writes a key, and a role that names it.
func (f *fixture) keyAndRole(key, name string, change func(*role.Role)) {
	f.t.Helper()
	if _, _, err := f.Keys.Write(f.ctx, f.storage, key, keyring.Settings{}); err != nil {
		f.t.Fatal(err)
	}
	f.mustRole(name, role.JWT, func(r *role.Role) { r.Key = key; change(r) })
}

// forgetReferences leaves the storage as it was before roles referred to keys.
func (f *fixture) forgetReferences() {
	f.t.Helper()
	for _, prefix := range []string{"keyuse/", "tidy/keyuse"} {
		keys, err := logical.CollectKeysWithPrefix(f.ctx, f.storage, prefix)
		if err != nil {
			f.t.Fatal(err)
		}
		for _, key := range keys {
			if err := f.storage.Delete(f.ctx, key); err != nil {
				f.t.Fatal(err)
			}
		}
	}
	f.restart()
}

func (f *fixture) damage(key string) {
	f.t.Helper()
	if err := f.storage.Put(f.ctx, &logical.StorageEntry{Key: key, Value: []byte("{")}); err != nil {
		f.t.Fatal(err)
	}
	f.Invalidate(key)
}

// Lists that were published under a longer lifetime may be used until it is over:
// the key that signed them stays as long.
func TestRetiredKeyOutlivesListsOfALongerLifetime(t *testing.T) {
	f := newFixture(t)
	f.mustRole("jwt", role.JWT, unchanged)
	lifetime := func(d time.Duration) {
		t.Helper()
		if _, _, err := f.Config.Change(f.ctx, f.storage, func(c *config.Config) { c.StatusListLifetime = d }); err != nil {
			t.Fatal(err)
		}
	}
	lifetime(24 * time.Hour)
	lowered := f.now
	lifetime(time.Minute)
	f.restart()
	f.now = f.now.Add(time.Hour)
	retired := func() time.Time {
		t.Helper()
		rotation, err := f.RotateKey(f.ctx, f.storage, role.DefaultKey, true)
		if err != nil {
			t.Fatal(err)
		}
		return rotation.Retired.NotAfter
	}
	if until := retired(); until.Before(lowered.Add(24*time.Hour)) || until.After(lowered.Add(24*time.Hour+2*time.Second)) {
		t.Errorf("not after %s, want 24h after %s", until, lowered)
	}
	f.now = lowered.Add(25 * time.Hour)
	if until := retired(); !until.Equal(f.now.Add(time.Minute)) {
		t.Errorf("then not after %s", until)
	}
	// A clock that was years ahead then does not keep keys for years.
	lifetime(2 * time.Hour)
	right := f.now
	f.now = f.now.Add(5 * 365 * 24 * time.Hour)
	lifetime(time.Hour)
	f.now = right
	if until := retired(); until.After(f.now.Add(config.MaxStatusListLifetime)) {
		t.Errorf("with a clock that was ahead, not after %s", until)
	}
}

// Deleting a key reads the roles that refer to it, and neither reads the others nor
// pushes them out of memory.
func TestDeleteKeyReadsItsRolesOnly(t *testing.T) {
	f := newFixture(t)
	for i := range 40 {
		f.mustRole(fmt.Sprint("jwt", i), role.JWT, unchanged)
	}
	f.keyAndRole("k", "a", unchanged)
	f.keyAndRole("k", "b", unchanged)
	if _, err := f.Tidy(f.ctx, f.storage); err != nil {
		t.Fatal(err)
	}
	count := func() int64 {
		reads, _ := f.storage.Count(func() { f.DeleteKey(f.ctx, f.storage, "k") })
		return reads
	}
	if n := count(); n > 3 { // the key, what refers to it, and one role
		t.Errorf("%d reads to refuse", n)
	}
	for _, name := range []string{"a", "b"} {
		if _, err := f.DeleteRole(f.ctx, f.storage, name); err != nil {
			t.Fatal(err)
		}
	}
	if n := count(); n > 3 {
		t.Errorf("%d reads to delete", n)
	}
	if reads, _ := f.storage.Count(func() { f.issue("jwt0") }); reads > 2 {
		t.Errorf("%d reads to issue with a role that was in memory", reads)
	}
}

// A role that was stored before there were references is found all the same, and
// gets its reference in time.
func TestRolesFromBeforeReferences(t *testing.T) {
	f := newFixture(t)
	f.keyAndRole("k", "a", unchanged)
	f.keyAndRole("free", "z", unchanged)
	if _, err := f.DeleteRole(f.ctx, f.storage, "z"); err != nil {
		t.Fatal(err)
	}
	f.mustRole("bearer", role.Bearer, unchanged)
	f.forgetReferences()
	_, err := f.DeleteKey(f.ctx, f.storage, "k")
	wantMistake(t, "without a reference", err, "name")

	// A role that cannot be read may name any key, until it is known that it has no
	// reference.
	f.damage("role/broken")
	_, err = f.DeleteKey(f.ctx, f.storage, "free")
	wantMistake(t, "with a role that cannot be read", err, "name")
	if err == nil || !strings.Contains(err.Error(), "broken") {
		t.Errorf("the role is not named: %v", err)
	}

	// What cannot be gone over at once goes on from there.
	f.storage.Before(storetest.Fail("keyuse/", storetest.Put))
	if err := f.tidyReferences(f.ctx, f.storage); !errors.Is(err, storetest.ErrInjected) {
		t.Errorf("gone over, %v", err)
	}
	f.storage.Heal()
	f.restart()
	ended, end := context.WithCancel(f.ctx)
	end()
	if err := f.tidyReferences(ended, f.storage); err != nil && !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	if all, err := f.allRefer(f.ctx, f.storage); all || err != nil {
		t.Errorf("done before all roles were gone over: %v, %v", all, err)
	}
	if err := f.tidyReferences(f.ctx, f.storage); err != nil {
		t.Fatal(err)
	}
	if roles, err := f.Keys.Uses(f.ctx, f.storage, "k"); err != nil || !slices.Equal(roles, []string{"a"}) {
		t.Errorf("%v refer to the key, %v", roles, err)
	}
	if reads, writes := f.storage.Count(func() { f.tidyReferences(f.ctx, f.storage) }); reads+writes != 0 {
		t.Errorf("%d reads and %d writes when all is done", reads, writes)
	}
	f.restart()
	if reads, writes := f.storage.Count(func() { f.tidyReferences(f.ctx, f.storage) }); reads > 1 || writes != 0 {
		t.Errorf("%d reads and %d writes after a restart", reads, writes)
	}
	if deleted, err := f.DeleteKey(f.ctx, f.storage, "free"); !deleted || err != nil {
		t.Errorf("the role that cannot be read still blocks: %v, %v", deleted, err)
	}
	_, err = f.DeleteKey(f.ctx, f.storage, "k")
	wantMistake(t, "with a reference", err, "name")
}

// A role that became unreadable blocks the key that it refers to, and no other.
func TestUnreadableRoleBlocksItsKeyOnly(t *testing.T) {
	f := newFixture(t)
	f.keyAndRole("k", "a", unchanged)
	f.keyAndRole("free", "z", unchanged)
	if _, err := f.DeleteRole(f.ctx, f.storage, "z"); err != nil {
		t.Fatal(err)
	}
	if _, err := f.Tidy(f.ctx, f.storage); err != nil {
		t.Fatal(err)
	}
	f.damage("role/a")
	_, err := f.DeleteKey(f.ctx, f.storage, "k")
	wantMistake(t, "its key", err, "name")
	if deleted, err := f.DeleteKey(f.ctx, f.storage, "free"); !deleted || err != nil {
		t.Errorf("another key: %v, %v", deleted, err)
	}
	// Nor does it keep a period from being set.
	day := 24 * time.Hour
	if _, _, err := f.WriteKey(f.ctx, f.storage, "k", keyring.Settings{RotationPeriod: &day}); err != nil {
		t.Error(err)
	}
	if err := f.storage.Delete(f.ctx, "role/a"); err != nil {
		t.Fatal(err)
	}
	if deleted, err := f.DeleteKey(f.ctx, f.storage, "k"); !deleted || err != nil {
		t.Errorf("with a reference of a role that is gone: %v, %v", deleted, err)
	}
	if roles, err := f.Keys.Uses(f.ctx, f.storage, "k"); len(roles) != 0 || err != nil {
		t.Errorf("%v still refer to it, %v", roles, err)
	}
}

// References follow the roles.
func TestReferencesFollowRoles(t *testing.T) {
	f := newFixture(t)
	f.keyAndRole("first", "a", unchanged)
	f.keyAndRole("second", "b", unchanged)
	uses := func(key string, want ...string) {
		t.Helper()
		if roles, err := f.Keys.Uses(f.ctx, f.storage, key); err != nil || !slices.Equal(roles, want) {
			t.Errorf("%v refer to %s, %v; want %v", roles, key, err, want)
		}
	}
	uses("first", "a")
	f.mustRole("a", role.JWT, func(r *role.Role) { r.Key = "second" })
	uses("first")
	uses("second", "a", "b")
	// The reference of a role that was written again meanwhile stays.
	if err := f.releaseUnused(f.ctx, f.storage, "second", "a"); err != nil {
		t.Error(err)
	}
	uses("second", "a", "b")
	if deleted, err := f.DeleteRole(f.ctx, f.storage, "a"); !deleted || err != nil {
		t.Errorf("deleted %v, %v", deleted, err)
	}
	if deleted, err := f.DeleteRole(f.ctx, f.storage, "a"); deleted || err != nil {
		t.Errorf("deleted again: %v, %v", deleted, err)
	}
	uses("second", "b")
}

// Whoever is first, a role never names a key that is gone.
func TestKeyIsNotDeletedUnderARole(t *testing.T) {
	f := newFixture(t)
	f.mustRole("jwt", role.JWT, unchanged)
	if _, err := f.Tidy(f.ctx, f.storage); err != nil {
		t.Fatal(err)
	}
	both, none := 0, 0
	for i := range 200 {
		if _, _, err := f.Keys.Write(f.ctx, f.storage, "k", keyring.Settings{}); err != nil {
			t.Fatal(err)
		}
		f.mustRole("jwt", role.JWT, func(r *role.Role) { r.Key = role.DefaultKey })
		var acts sync.WaitGroup
		var written, deleted error
		acts.Go(func() { _, written = f.writeRole("jwt", role.JWT, func(r *role.Role) { r.Key = "k" }) })
		acts.Go(func() {
			if i%2 == 0 {
				runtime.Gosched()
			}
			_, deleted = f.DeleteKey(f.ctx, f.storage, "k")
		})
		acts.Wait()
		switch {
		case written == nil && deleted == nil:
			both++
		case written != nil && deleted != nil:
			none++
		}
		f.issue("jwt")
	}
	if both > 0 || none > 0 {
		t.Errorf("of 200 times, both had their way %d times, and neither %d times", both, none)
	}
}

// The life of tokens and the period of the key that signs them have to suit each
// other, whichever is set last.
func TestLifeAndPeriodSuitEachOther(t *testing.T) {
	f := newFixture(t)
	short, long := time.Hour, 7*24*time.Hour
	f.keyAndRole("k", "jwt", func(r *role.Role) { r.TTL = 20 * 24 * time.Hour })
	set := func(period time.Duration) error {
		_, _, err := f.WriteKey(f.ctx, f.storage, "k", keyring.Settings{RotationPeriod: &period})
		return err
	}
	wantMistake(t, "a period that a role does not suit", set(short), "rotation_period")
	if err := set(long); err != nil {
		t.Error(err)
	}
	f.mustRole("jwt", role.JWT, func(r *role.Role) { r.TTL = time.Hour })
	if err := set(short); err != nil {
		t.Errorf("after the role was given a shorter ttl: %v", err)
	}
	_, err := f.writeRole("jwt", role.JWT, func(r *role.Role) { r.TTL = 20 * 24 * time.Hour })
	wantMistake(t, "a ttl that the period does not suit", err, "ttl")
	_, err = f.writeRole("new", role.JWT, func(r *role.Role) { r.Key = "k"; r.TTL = 0 })
	if err != nil {
		t.Errorf("the mount's default of 24h: %v", err)
	}
	// The mount's ceiling counts too.
	if _, _, err := f.Config.Change(f.ctx, f.storage, func(c *config.Config) { c.MaxTTL = time.Hour }); err != nil {
		t.Fatal(err)
	}
	f.mustRole("new", role.JWT, func(r *role.Role) { r.Key = "k"; r.TTL = 20 * 24 * time.Hour })
	// A role that did not suit before can still be narrowed.
	if _, _, err := f.Config.Change(f.ctx, f.storage, func(c *config.Config) { c.MaxTTL = 0 }); err != nil {
		t.Fatal(err)
	}
	f.mustRole("new", role.JWT, func(r *role.Role) { r.Key = "k"; r.TTL = 19 * 24 * time.Hour })
}

// Verifiers may not have a key that a role was given just now, unless they cannot
// have fetched any.
func TestYoungKey(t *testing.T) {
	f := newFixture(t)
	if done := f.mustRole("first", role.JWT, unchanged); done.Young != nil {
		t.Error("warns of the first key of the mount")
	}
	if done := f.mustRole("second", role.JWT, unchanged); done.Young == nil {
		t.Error("does not warn of a key of this moment")
	}
	if done := f.mustRole("second", role.JWT, unchanged); done.Young != nil {
		t.Error("warns of a key that the role had before")
	}
	if _, _, err := f.Keys.Write(f.ctx, f.storage, "k", keyring.Settings{}); err != nil {
		t.Fatal(err)
	}
	f.now = f.now.Add(4 * time.Minute)
	if done := f.mustRole("second", role.JWT, func(r *role.Role) { r.Key = "k" }); done.Young == nil || *done.Young != 4*time.Minute {
		t.Errorf("warns of %v", done.Young)
	}
	f.now = f.now.Add(time.Minute)
	if done := f.mustRole("first", role.JWT, func(r *role.Role) { r.Key = "k" }); done.Young != nil {
		t.Errorf("warns of a key that is %s old", done.Young)
	}
	if done := f.mustRole("bearer", role.Bearer, unchanged); done.Young != nil {
		t.Error("warns of a role without a key")
	}
}

// Nobody can have fetched a key set for the first role that signs, whoever made the
// key; after an emergency somebody can.
func TestYoungKeyOfTheFirstRole(t *testing.T) {
	for name, test := range map[string]struct {
		before func(f *fixture) error
		warns  bool
	}{
		"made before": {func(f *fixture) error { return nil }, false},
		"another key": {func(f *fixture) error {
			_, _, err := f.Keys.Write(f.ctx, f.storage, "k", keyring.Settings{})
			return err
		}, true},
		"after an emergency": {func(f *fixture) error {
			_, err := f.Keys.EmergencyRotate(f.ctx, f.storage, role.DefaultKey)
			return err
		}, true},
		"references unread": {func(f *fixture) error {
			f.storage.Before(storetest.Fail("keyuse/", storetest.List))
			return nil
		}, true},
	} {
		f := newFixture(t)
		f.mustRole("bearer", role.Bearer, unchanged) // makes the key
		if err := test.before(f); err != nil {
			t.Fatal(err)
		}
		if done := f.mustRole("jwt", role.JWT, unchanged); (done.Young != nil) != test.warns {
			t.Errorf("%s: warns of %v", name, done.Young)
		}
	}
}

// An emergency rotation while a token is being issued leaves no token that is dead
// on arrival.
func TestEmergencyDuringIssue(t *testing.T) {
	f := newFixture(t)
	f.mustRole("jwt", role.JWT, unchanged)
	f.issue("jwt") // so that the key's horizon is written
	rotate := 1
	f.storage.After(func(op storetest.Op, key string) error {
		if op == storetest.Put && strings.HasPrefix(key, "list/") && rotate > 0 {
			rotate--
			if _, err := f.Keys.EmergencyRotate(f.ctx, f.storage, role.DefaultKey); err != nil {
				t.Error(err)
			}
		}
		return nil
	})
	for rotate > 0 {
		issued := f.issue("jwt")
		answer, err := f.Tokens.Introspect(f.ctx, f.storage, token.Introspection{Token: issued.Token})
		if err != nil || !answer.Active && rotate == 0 {
			t.Fatalf("a token issued during an emergency rotation: %+v, %v", answer, err)
		}
	}
}

// A request that is refused for its length uses up no place in a status list.
func TestRefusedTokenUsesNoIndex(t *testing.T) {
	f := newFixture(t)
	f.mustRole("jwt", role.JWT, unchanged)
	ref := f.issue("jwt").Ref
	f.mustRole("long", role.JWT, func(r *role.Role) {
		r.Audiences = nil
		for i := range 20 { // each character takes six bytes in JSON
			r.Audiences = append(r.Audiences, fmt.Sprint(i, strings.Repeat("<", 509)))
		}
	})
	before, err := logical.CollectKeysWithPrefix(f.ctx, f.storage, "list/")
	if err != nil {
		t.Fatal(err)
	}
	entry, err := f.storage.Get(f.ctx, "list/"+ref.List)
	if err != nil {
		t.Fatal(err)
	}
	_, writes := f.storage.Count(func() {
		for range 100 {
			_, err := f.Tokens.Issue(f.ctx, f.storage, token.Request{Role: "long", Caller: template.Caller{DisplayName: "root"}})
			if err == nil || !strings.Contains(err.Error(), "bytes long") {
				t.Fatalf("not refused for its length: %v", err)
			}
		}
	})
	after, err := f.storage.Get(f.ctx, "list/"+ref.List)
	if err != nil || string(after.Value) != string(entry.Value) || writes != 0 || len(before) != 1 {
		t.Errorf("%d writes; the list is %s, before it was %s; %v", writes, after.Value, entry.Value, err)
	}
}
