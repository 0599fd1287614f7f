package backend

import (
	"errors"
	"slices"
	"testing"
	"time"

	"github.com/vault-tokens/vault-plugin-secrets-tokens/backend/role"
	"github.com/vault-tokens/vault-plugin-secrets-tokens/backend/store/storetest"
)

// A reference that a failed deletion left is removed, and no other.
func TestStaleReferencesAreTidied(t *testing.T) {
	f := newFixture(t)
	for _, name := range []string{"gone", "kept", "damaged", "moved"} {
		f.mustRole(name, role.JWT, unchanged)
	}
	f.keyAndRole("k-2", "another", unchanged)
	if err := f.Keys.Refer(f.ctx, f.storage, "k-2", "moved"); err != nil {
		t.Fatal(err)
	}
	f.damage("role/damaged")
	f.storage.Before(storetest.Fail("keyuse/", storetest.Delete))
	if deleted, err := f.DeleteRole(f.ctx, f.storage, "gone"); !deleted || !errors.Is(err, storetest.ErrInjected) {
		t.Fatalf("deleted %v, %v", deleted, err)
	}
	if err := f.tidyStale(f.ctx, f.storage); !errors.Is(err, storetest.ErrInjected) {
		t.Errorf("got %v", err)
	}
	f.storage.Heal()
	want := func(when, key string, roles ...string) {
		t.Helper()
		got, err := f.Keys.Uses(f.ctx, f.storage, key)
		if slices.Sort(got); err != nil || !slices.Equal(got, roles) {
			t.Errorf("%s: %v refer to %s, %v, want %v", when, got, key, err, roles)
		}
	}
	want("before", role.DefaultKey, "damaged", "gone", "kept", "moved")
	if err := f.tidyStale(f.ctx, f.storage); err != nil {
		t.Fatal(err)
	}
	want("after", role.DefaultKey, "damaged", "kept", "moved")
	want("after", "k-2", "another")
	if reads, writes := f.storage.Count(func() { f.tidyStale(f.ctx, f.storage) }); reads+writes != 0 {
		t.Errorf("%d reads and %d writes within the day", reads, writes)
	}
	if _, err := f.DeleteRole(f.ctx, f.storage, "kept"); err != nil {
		t.Fatal(err)
	}
	if err := f.Keys.Refer(f.ctx, f.storage, role.DefaultKey, "kept"); err != nil {
		t.Fatal(err)
	}
	f.now = f.now.Add(24 * time.Hour)
	if _, err := f.Tidy(f.ctx, f.storage); err != nil {
		t.Fatal(err)
	}
	want("a day later", role.DefaultKey, "damaged", "moved")
}

// Whoever deletes a key is told whether it is gone, whatever stays beside it.
func TestKeyIsDeletedThoughItsReferenceStays(t *testing.T) {
	for prefix, deleted := range map[string]bool{"key/": false, "signed/": true, "keyuse/": true} {
		f := newFixture(t)
		f.keyAndRole("k", "jwt", unchanged)
		f.mustRole("jwt", role.JWT, func(r *role.Role) { r.Key = role.DefaultKey })
		if err := f.Keys.Refer(f.ctx, f.storage, "k", "jwt"); err != nil {
			t.Fatal(err)
		}
		f.storage.Before(storetest.Fail(prefix, storetest.Delete))
		if got, err := f.DeleteKey(f.ctx, f.storage, "k"); got != deleted || !errors.Is(err, storetest.ErrInjected) {
			t.Errorf("%s cannot be deleted: deleted %v, %v", prefix, got, err)
		}
		f.storage.Heal()
		if key, err := f.Keys.Get(f.ctx, f.storage, "k"); (key == nil) != deleted || err != nil {
			t.Errorf("%s cannot be deleted: there is %v, %v", prefix, key, err)
		}
	}
}
