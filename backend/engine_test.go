package backend

import (
	"context"
	"crypto/rand"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/vault/sdk/logical"

	"github.com/vault-tokens/vault-plugin-secrets-tokens/backend/config"
	"github.com/vault-tokens/vault-plugin-secrets-tokens/backend/role"
	"github.com/vault-tokens/vault-plugin-secrets-tokens/backend/store/storetest"
	"github.com/vault-tokens/vault-plugin-secrets-tokens/backend/template"
	"github.com/vault-tokens/vault-plugin-secrets-tokens/backend/token"
	"github.com/vault-tokens/vault-plugin-secrets-tokens/backend/usererror"
)

// fixture is one mount on a storage that can fail, at a time that the test
// sets. It has an issuer and nothing else.
type fixture struct {
	*Engine
	t       *testing.T
	ctx     context.Context
	storage *storetest.Storage
	now     time.Time
}

func newFixture(t *testing.T) *fixture {
	t.Helper()
	f := &fixture{t: t, ctx: context.Background(), storage: &storetest.Storage{}, now: time.Now().UTC().Truncate(time.Second)}
	f.restart()
	if _, _, err := f.Config.Change(f.ctx, f.storage, func(c *config.Config) { c.Issuer = "https://vault.example.com/v1/tokens" }); err != nil {
		t.Fatal(err)
	}
	return f
}

// restart gives the fixture a new engine on the same storage.
func (f *fixture) restart() {
	system := logical.StaticSystemView{DefaultLeaseTTLVal: 24 * time.Hour, MaxLeaseTTLVal: 32 * 24 * time.Hour}
	f.Engine = NewEngine(system, func() time.Time { return f.now }, rand.Reader)
}

// writeRole writes a role of a type as an operator does: made if it is not
// there, then changed.
func (f *fixture) writeRole(name string, tokenType role.TokenType, change func(*role.Role)) (*RoleChange, error) {
	return f.ChangeRole(f.ctx, f.storage, name,
		func() (*role.Role, error) { return role.New(name, tokenType), nil },
		func(r *role.Role, _ bool) error {
			if tokenType == role.JWT {
				r.Audiences = []string{"api"}
			}
			change(r)
			return nil
		})
}

func (f *fixture) mustRole(name string, tokenType role.TokenType, change func(*role.Role)) *RoleChange {
	f.t.Helper()
	done, err := f.writeRole(name, tokenType, change)
	if err != nil {
		f.t.Fatal(err)
	}
	return done
}

func (f *fixture) issue(name string) *token.Issued {
	f.t.Helper()
	issued, err := f.Tokens.Issue(f.ctx, f.storage, token.Request{Role: name, Caller: template.Caller{DisplayName: "root"}})
	if err != nil {
		f.t.Fatal(err)
	}
	return issued
}

func unchanged(*role.Role) {}

func wantMistake(t *testing.T, what string, err error, field string) {
	t.Helper()
	var mistake *usererror.Error
	if !errors.As(err, &mistake) || mistake.Field != field {
		t.Errorf("%s: %v, want a mistake in %s", what, err, field)
	}
}

// What another node wrote is seen once the storage says which key changed.
func TestInvalidate(t *testing.T) {
	f := newFixture(t)
	f.mustRole("jwt", role.JWT, unchanged)
	f.mustRole("bearer", role.Bearer, unchanged)
	opaque, signed := f.issue("bearer"), f.issue("jwt")
	active := func(issued *token.Issued) bool {
		t.Helper()
		answer, err := f.Tokens.Introspect(f.ctx, f.storage, token.Introspection{Token: issued.Token})
		if err != nil {
			t.Fatal(err)
		}
		return answer.Active
	}
	if !active(opaque) || !active(signed) {
		t.Fatal("a new token is inactive")
	}
	here := f.Engine
	for _, test := range []struct {
		name   string
		change func() error // on the other node
		seen   func() bool  // here
	}{
		{"configuration", func() error {
			_, _, err := f.Config.Change(f.ctx, f.storage, func(c *config.Config) { c.MaxTTL = time.Minute })
			return err
		}, func() bool { c, _ := f.Config.Get(f.ctx, f.storage); return c.MaxTTL == time.Minute }},
		{"role", func() error { _, err := f.Roles.Remove(f.ctx, f.storage, "bearer"); return err }, func() bool {
			r, _ := f.Roles.Get(f.ctx, f.storage, "bearer")
			return r == nil
		}},
		{"record", func() error { _, err := f.Tokens.Revoke(f.ctx, f.storage, token.Lease{ID: opaque.ID}); return err }, func() bool { return !active(opaque) }},
		{"status list", func() error {
			_, err := f.Lists.Revoke(f.ctx, f.storage, signed.Ref, signed.ID, signed.ExpiresAt)
			return err
		}, func() bool { return !active(signed) }},
		{"key", func() error { _, err := f.Keys.EmergencyRotate(f.ctx, f.storage, "default"); return err }, func() bool {
			key, _ := f.Keys.Get(f.ctx, f.storage, "default")
			return key.Versions[0].Number == 3
		}},
	} {
		var changed []string
		f.storage.After(func(op storetest.Op, key string) error {
			if op == storetest.Put || op == storetest.Delete {
				changed = append(changed, key)
			}
			return nil
		})
		f.restart()
		if err := test.change(); err != nil {
			t.Fatal(err)
		}
		f.storage.Heal()
		f.Engine = here
		if test.seen() {
			t.Errorf("%s: seen without an invalidation; the test shows nothing", test.name)
		}
		for _, key := range changed {
			f.Invalidate(key)
		}
		if !test.seen() {
			t.Errorf("%s: not seen after %v changed", test.name, changed)
		}
	}
	f.Invalidate("unknown/key") // of a later version
}

func TestStatusList(t *testing.T) {
	f := newFixture(t)
	f.mustRole("jwt", role.JWT, unchanged)
	ref := f.issue("jwt").Ref
	read := func() string {
		t.Helper()
		body, maxAge, err := f.StatusList(f.ctx, f.storage, ref.List)
		if err != nil || maxAge != 5*time.Second {
			t.Fatalf("for %s, %v", maxAge, err)
		}
		return string(body)
	}
	first := read()
	if strings.Count(first, ".") != 2 {
		t.Errorf("published %q", first)
	}
	if reads, writes := f.storage.Count(func() { read() }); reads+writes != 0 {
		t.Errorf("%d reads and %d writes for a list in memory", reads, writes)
	}
	if _, err := f.RotateKey(f.ctx, f.storage, "default", true); err != nil {
		t.Fatal(err)
	}
	if read() == first {
		t.Error("still signed with a key that has retired")
	}
	if body, _, err := f.StatusList(f.ctx, f.storage, strings.Repeat("0", 22)); body != nil || err != nil {
		t.Errorf("an unknown list is %q, %v", body, err)
	}
	for _, prefix := range []string{"config/", "list/", "key/"} {
		f.restart()
		f.storage.Before(storetest.Fail(prefix, storetest.Get, storetest.List))
		if body, _, err := f.StatusList(f.ctx, f.storage, ref.List); err == nil || body != nil {
			t.Errorf("published %q, %v, with %s unread", body, err, prefix)
		}
		f.storage.Heal()
	}
}
