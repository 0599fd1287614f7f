package backend

import (
	"context"
	"errors"
	"reflect"
	"sync"
	"testing"
	"time"

	"github.com/vault-tokens/vault-plugin-secrets-tokens/backend/config"
	"github.com/vault-tokens/vault-plugin-secrets-tokens/backend/keyring"
	"github.com/vault-tokens/vault-plugin-secrets-tokens/backend/role"
	"github.com/vault-tokens/vault-plugin-secrets-tokens/backend/store/storetest"
)

func TestChangeRole(t *testing.T) {
	f := newFixture(t)
	done := f.mustRole("bearer", role.Bearer, func(r *role.Role) { r.TTL = time.Minute })
	if !done.Created || done.NewKey != nil || done.Role.TTL != time.Minute || done.Ceilings.Issuer == "" {
		t.Errorf("created %+v", done)
	}
	done = f.mustRole("bearer", role.Bearer, func(r *role.Role) { r.MaxTTL = time.Hour })
	if done.Created || done.Role.TTL != time.Minute || done.Role.MaxTTL != time.Hour {
		t.Errorf("changed %+v of %+v", done, done.Role)
	}
	f.restart()
	if r, err := f.Roles.Get(f.ctx, f.storage, "bearer"); err != nil || !reflect.DeepEqual(r, done.Role) {
		t.Errorf("stored %+v, %v, want %+v", r, err, done.Role)
	}
}

// A change that is refused, by whomever, leaves the role as it was, in memory
// too.
func TestChangeRoleIsRefused(t *testing.T) {
	f := newFixture(t)
	f.mustRole("a", role.Bearer, unchanged)
	before, err := f.Roles.Get(f.ctx, f.storage, "a")
	if err != nil {
		t.Fatal(err)
	}
	want := *before
	on := errors.New("on purpose")
	keep := func(*role.Role, bool) error { return nil }
	none := func() (*role.Role, error) { return nil, on }
	if _, err := f.ChangeRole(f.ctx, f.storage, "b", none, keep); !errors.Is(err, on) {
		t.Errorf("create refused: %v", err)
	}
	if _, err := f.ChangeRole(f.ctx, f.storage, "a", none, func(r *role.Role, _ bool) error { r.TTL = time.Minute; return on }); !errors.Is(err, on) {
		t.Errorf("change refused: %v", err)
	}
	_, err = f.writeRole("a", role.Bearer, func(r *role.Role) { r.TTL = -1 })
	wantMistake(t, "invalid", err, "ttl")
	_, err = f.writeRole("a", role.Bearer, func(r *role.Role) { r.AllowedScopes = []string{"*"}; r.Prefix = "" })
	wantMistake(t, "half of it invalid", err, "prefix")
	if _, _, err := f.Config.Change(f.ctx, f.storage, func(c *config.Config) { c.AllowedScopes = []string{"orders:*"} }); err != nil {
		t.Fatal(err)
	}
	_, err = f.writeRole("a", role.Bearer, func(r *role.Role) { r.AllowedScopes = []string{"*"} })
	wantMistake(t, "above the ceiling", err, "allowed_scopes")
	for _, when := range []string{"in memory", "stored"} {
		r, err := f.Roles.Get(f.ctx, f.storage, "a")
		if err != nil || !reflect.DeepEqual(*r, want) {
			t.Errorf("%s: %+v, %v, want %+v", when, r, err, want)
		}
		f.restart()
	}
	if r, err := f.Roles.Get(f.ctx, f.storage, "b"); r != nil || err != nil {
		t.Errorf("a role that was refused is %+v, %v", r, err)
	}
}

// Without an issuer, the default key is made for the first role that signs with it,
// and no other.
func TestKeyOfARole(t *testing.T) {
	f := newFixture(t)
	f.setIssuer("")
	f.mustRole("bearer", role.Bearer, unchanged)
	if names, err := f.Keys.List(f.ctx, f.storage); err != nil || len(names) != 0 {
		t.Errorf("keys %v, %v, without a role that signs", names, err)
	}
	_, err := f.writeRole("jwt", role.JWT, func(r *role.Role) { r.Key = "team" })
	wantMistake(t, "a key that does not exist", err, "key")
	if done := f.mustRole("jwt", role.JWT, unchanged); done.NewKey == nil || done.NewKey.Name != role.DefaultKey {
		t.Errorf("made %v", done.NewKey)
	}
	if done := f.mustRole("second", role.JWT, unchanged); done.NewKey != nil {
		t.Errorf("made %v once more", done.NewKey)
	}
	if _, _, err := f.Keys.Write(f.ctx, f.storage, "team", keyring.Settings{AllowedRoles: &[]string{"team-*"}}); err != nil {
		t.Fatal(err)
	}
	_, err = f.writeRole("jwt", role.JWT, func(r *role.Role) { r.Key = "team" })
	wantMistake(t, "a key that does not allow the role", err, "key")
	f.mustRole("team-a", role.JWT, func(r *role.Role) { r.Key = "team" })
}

// With an issuer, a role of any kind has the key made that signs status lists; an
// opaque one is no user of it.
func TestListKeyOfARole(t *testing.T) {
	for _, kind := range []role.TokenType{role.APIKey, role.Bearer, role.JWT} {
		f := newFixture(t)
		if kind == role.JWT {
			if _, _, err := f.Keys.Write(f.ctx, f.storage, "team", keyring.Settings{}); err != nil {
				t.Fatal(err)
			}
		}
		change := func(r *role.Role) {
			if kind == role.JWT {
				r.Key = "team"
			}
		}
		done := f.mustRole("r", kind, change)
		if made := done.ListKey.New; made == nil || made.Name != role.DefaultKey || done.ListKey.Unseen != (kind == role.JWT) {
			t.Errorf("%s: made %+v", kind, done.ListKey)
		}
		if users, err := f.Keys.Uses(f.ctx, f.storage, role.DefaultKey); len(users) != 0 || err != nil {
			t.Errorf("%s: %v refer to the key, %v", kind, users, err)
		}
		if done := f.mustRole("r", kind, change); done.ListKey.New != nil {
			t.Errorf("%s: made once more", kind)
		}
	}
}

// A role is stored whatever becomes of the key for lists, and the next write makes
// the key if the first could not.
func TestListKeyOnFaults(t *testing.T) {
	for name, test := range map[string]struct {
		inject func(*storetest.Storage)
		made   bool
	}{
		"key unread":    {func(s *storetest.Storage) { s.Before(storetest.Fail("key/", storetest.Get)) }, false},
		"keys unlisted": {func(s *storetest.Storage) { s.Before(storetest.Fail("key/", storetest.List)) }, false},
		"key refused":   {func(s *storetest.Storage) { s.Before(storetest.Fail("key/", storetest.Put)) }, false},
		"reply of key":  {func(s *storetest.Storage) { s.After(storetest.Fail("key/", storetest.Put)) }, true},
	} {
		t.Run(name, func(t *testing.T) {
			f := newFixture(t)
			test.inject(f.storage)
			done, err := f.writeRole("bearer", role.Bearer, unchanged)
			if !errors.Is(err, storetest.ErrInjected) || !done.Stored {
				t.Errorf("stored %v, %v", done.Stored, err)
			}
			f.storage.Heal()
			if key, err := f.Keys.Get(f.ctx, f.storage, role.DefaultKey); (key != nil) != test.made || err != nil {
				t.Errorf("there is %v, %v", key, err)
			}
			f.mustRole("bearer", role.Bearer, unchanged)
			if key, err := f.Keys.Get(f.ctx, f.storage, role.DefaultKey); key == nil || err != nil {
				t.Errorf("after the next write there is %v, %v", key, err)
			}
		})
	}
}

// A key that cannot be used is left as it is, and keeps no role from being written.
func TestListKeyThatCannotBeUsed(t *testing.T) {
	f := newFixture(t)
	f.mustRole("bearer", role.Bearer, unchanged)
	f.damage("key/" + role.DefaultKey)
	f.restart()
	_, writes := f.storage.Count(func() {
		if done := f.mustRole("bearer", role.Bearer, unchanged); done.ListKey.New != nil || done.ListKey.Problem == nil {
			t.Errorf("got %+v", done.ListKey)
		}
	})
	if writes != 1 { // of the role
		t.Errorf("%d writes", writes)
	}
	if done := f.mustRole("other", role.Bearer, unchanged); done.ListKey.Problem == nil {
		t.Error("says that lists are signed")
	}
}

func TestChangeRoleOnFaults(t *testing.T) {
	for name, test := range map[string]struct {
		inject       func(*storetest.Storage)
		cancel       bool
		role, newKey bool // there afterwards
	}{
		"role unread":   {func(s *storetest.Storage) { s.Before(storetest.Fail("role/", storetest.Get)) }, false, false, false},
		"config unread": {func(s *storetest.Storage) { s.Before(storetest.Fail("config/", storetest.Get)) }, false, false, false},
		"keys unread":   {func(s *storetest.Storage) { s.Before(storetest.Fail("key/", storetest.List)) }, false, false, false},
		"key refused":   {func(s *storetest.Storage) { s.Before(storetest.Fail("key/", storetest.Put)) }, false, false, false},
		"reply of key":  {func(s *storetest.Storage) { s.After(storetest.Fail("key/", storetest.Put)) }, false, false, true},
		"role refused":  {func(s *storetest.Storage) { s.Before(storetest.Fail("role/", storetest.Put)) }, false, false, true},
		"reply of role": {func(s *storetest.Storage) { s.After(storetest.Fail("role/", storetest.Put)) }, false, true, true},
		"caller gone":   {func(*storetest.Storage) {}, true, false, false},
	} {
		t.Run(name, func(t *testing.T) {
			f := newFixture(t)
			f.restart()
			test.inject(f.storage)
			ctx, cancel := context.WithCancel(f.ctx)
			defer cancel()
			if test.cancel {
				cancel()
			}
			kept := f.ctx
			f.ctx = ctx
			done, err := f.writeRole("jwt", role.JWT, unchanged)
			f.ctx = kept
			if err == nil {
				t.Errorf("wrote %+v", done)
			}
			if name == "role refused" && (done == nil || done.NewKey == nil) {
				t.Error("nobody is told of the key that was made")
			}
			f.storage.Heal()
			r, errRole := f.Roles.Get(f.ctx, f.storage, "jwt")
			key, errKey := f.Keys.Get(f.ctx, f.storage, role.DefaultKey)
			if (r != nil) != test.role || (key != nil) != test.newKey || errors.Join(errRole, errKey) != nil {
				t.Errorf("there are role %v and key %v; %v, %v", r, key, errRole, errKey)
			}
			f.mustRole("jwt", role.JWT, unchanged)
			f.issue("jwt")
		})
	}
}

// Two operators who change different fields at once both have their way.
func TestConcurrentChanges(t *testing.T) {
	f := newFixture(t)
	f.mustRole("a", role.Bearer, unchanged)
	changes := []func(*role.Role){
		func(r *role.Role) { r.TTL = time.Minute },
		func(r *role.Role) { r.MaxTTL = time.Hour },
		func(r *role.Role) { r.Prefix = "acme" },
		func(r *role.Role) { r.MaxTokens = 7 },
	}
	var operators sync.WaitGroup
	for _, change := range changes {
		operators.Go(func() {
			if _, err := f.writeRole("a", role.Bearer, change); err != nil {
				t.Error(err)
			}
		})
	}
	operators.Wait()
	r, err := f.Roles.Get(f.ctx, f.storage, "a")
	if err != nil || r.TTL != time.Minute || r.MaxTTL != time.Hour || r.Prefix != "acme" || r.MaxTokens != 7 {
		t.Errorf("got %+v, %v", r, err)
	}
}
