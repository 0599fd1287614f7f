package token

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/vault/sdk/logical"

	"github.com/vault-tokens/vault-plugin-secrets-tokens/backend/config"
	"github.com/vault-tokens/vault-plugin-secrets-tokens/backend/cutoff"
	"github.com/vault-tokens/vault-plugin-secrets-tokens/backend/keyring"
	"github.com/vault-tokens/vault-plugin-secrets-tokens/backend/role"
	"github.com/vault-tokens/vault-plugin-secrets-tokens/backend/statuslist"
	"github.com/vault-tokens/vault-plugin-secrets-tokens/backend/store/storetest"
	"github.com/vault-tokens/vault-plugin-secrets-tokens/backend/template"
	"github.com/vault-tokens/vault-plugin-secrets-tokens/backend/usererror"
)

var caller = template.Caller{EntityID: "entity-1", DisplayName: "approle-billing"}

// fixture is the tokens of a mount on a storage that can fail, at a time that
// the test sets, with one role of each type, named like its type.
type fixture struct {
	*Tokens
	t       *testing.T
	ctx     context.Context
	storage *storetest.Storage
	now     time.Time
	system  logical.StaticSystemView
	random  io.Reader
	maxAge  time.Duration // of what is cached; 0 on the node that writes
}

func newFixture(t *testing.T) *fixture {
	t.Helper()
	f := &fixture{
		t: t, ctx: context.Background(), storage: &storetest.Storage{}, now: time.Now().UTC().Truncate(time.Second), random: rand.Reader,
		system: logical.StaticSystemView{DefaultLeaseTTLVal: 24 * time.Hour, MaxLeaseTTLVal: 32 * 24 * time.Hour},
	}
	f.restart()
	f.configure(func(c *config.Config) { c.Issuer = issuer })
	if _, _, err := f.keys.Write(f.ctx, f.storage, role.DefaultKey, keyring.Settings{}); err != nil {
		t.Fatal(err)
	}
	for _, tokenType := range role.TokenTypes() {
		f.role(role.New(string(tokenType), tokenType), func(r *role.Role) {
			r.AllowedScopes, r.DefaultScopes, r.Audiences = []string{"orders:*"}, []string{"orders:read"}, []string{"api", "web"}
		})
	}
	return f
}

// restart gives the fixture new tokens, and all that they rest on, on the same
// storage.
func (f *fixture) restart() {
	clock := func() time.Time { return f.now }
	maxAge := func() time.Duration { return f.maxAge }
	f.Tokens = New(Dependencies{
		Config: config.NewStore(), Roles: role.NewStore(), Keys: keyring.New(clock), Lists: statuslist.New(clock, f.random, maxAge),
		Cutoffs: cutoff.New(clock, maxAge),
		System:  f.system, Clock: clock, Random: f.random, MaxAge: maxAge,
	})
}

func (f *fixture) configure(change func(*config.Config)) {
	f.t.Helper()
	if _, _, err := f.config.Change(f.ctx, f.storage, change); err != nil {
		f.t.Fatal(err)
	}
}

// role stores what change makes of a role.
func (f *fixture) role(r *role.Role, change func(*role.Role)) {
	f.t.Helper()
	r = r.Clone()
	change(r)
	ceilings, err := f.config.Get(f.ctx, f.storage)
	if err != nil {
		f.t.Fatal(err)
	}
	if err := errors.Join(r.Validate(ceilings), f.roles.Put(f.ctx, f.storage, r.Name, r)); err != nil {
		f.t.Fatal(err)
	}
}

// change stores what change makes of the role of this name.
func (f *fixture) change(name string, change func(*role.Role)) {
	f.t.Helper()
	r, err := f.roles.Get(f.ctx, f.storage, name)
	if err != nil || r == nil {
		f.t.Fatalf("role %s: %v, %v", name, r, err)
	}
	f.role(r, change)
}

func (f *fixture) issue(name string) *Issued {
	f.t.Helper()
	issued, err := f.Issue(f.ctx, f.storage, Request{Role: name, Caller: caller})
	if err != nil {
		f.t.Fatal(err)
	}
	return issued
}

// issueAgo issues a token in the past. Vault's own function computes a renewal
// by the time of day, so that it is the issue that has to move.
func (f *fixture) issueAgo(name string, age time.Duration) *Issued {
	f.t.Helper()
	f.now = f.now.Add(-age)
	defer func() { f.now = f.now.Add(age) }()
	return f.issue(name)
}

func (f *fixture) introspect(question Introspection) *Answer {
	f.t.Helper()
	answer, err := f.Introspect(f.ctx, f.storage, question)
	if err != nil {
		f.t.Fatal(err)
	}
	return answer
}

func (f *fixture) active(issued *Issued) bool {
	f.t.Helper()
	return f.introspect(Introspection{Token: issued.Token}).Active
}

// revoke does what the end of the token's lease does.
func (f *fixture) revoke(issued *Issued) (*Ended, error) {
	lease := Lease{ID: issued.ID, TokenType: issued.TokenType, Role: issued.Role, Ref: issued.Ref, ExpiresAt: issued.ExpiresAt, Tracked: issued.Tracked}
	if issued.TokenType.Opaque() {
		return f.Revoke(f.ctx, f.storage, lease)
	}
	return f.RevokeJWT(f.ctx, f.storage, lease)
}

// cancelled is the context of a caller that is gone.
func cancelled() context.Context {
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	return ctx
}

// wantMistake wants a caller's mistake in a field, or none if field is empty.
func wantMistake(t *testing.T, what string, err error, field string) {
	t.Helper()
	var mistake *usererror.Error
	switch {
	case field == "" && err != nil:
		t.Errorf("%s: %v", what, err)
	case field != "" && (!errors.As(err, &mistake) || mistake.Field != field):
		t.Errorf("%s: %v, want a mistake in %s", what, err, field)
	}
}

func TestGet(t *testing.T) {
	f := newFixture(t)
	issued := f.issue("bearer")
	for _, when := range []string{"at once", "after a restart"} {
		record, err := f.Get(f.ctx, f.storage, issued.ID)
		if err != nil || record == nil || record.ID != issued.ID || !record.ExpiresAt.Equal(issued.ExpiresAt) {
			t.Errorf("%s: %+v, %v", when, record, err)
		}
		f.restart()
	}
	for _, id := range []string{"", "x", strings.Repeat("0", 22), issued.ID + "/", "../" + issued.ID, issued.Token.Reveal()} {
		if record, err := f.Get(f.ctx, f.storage, id); record != nil || err != nil {
			t.Errorf("%q is %v, %v", id, record, err)
		}
	}
	f.now = issued.ExpiresAt
	if record, err := f.Get(f.ctx, f.storage, issued.ID); record != nil || err != nil {
		t.Errorf("after its expiry: %v, %v", record, err)
	}
}

// A token that is renewed between being seen as expired and being locked lives.
func TestTidyDuringRenewal(t *testing.T) {
	f := newFixture(t)
	issued := f.issue("bearer")
	key := f.records.Key(issued.ID)
	f.now = issued.ExpiresAt.Add(margin)
	f.storage.After(func(op storetest.Op, read string) error {
		if op == storetest.Get && read == key {
			f.storage.Heal()
			later := f.now
			f.now = issued.ExpiresAt.Add(-time.Second) // the renewal was in time
			if _, err := f.Renew(f.ctx, f.storage, issued.ID, 0); err != nil {
				t.Error(err)
			}
			f.now = later
		}
		return nil
	})
	if done, err := f.Tidy(f.ctx, f.storage, margin); err != nil || len(done.Expired) != 0 {
		t.Errorf("removed %v, %v", done.Expired, err)
	}
	if f.now = issued.ExpiresAt; !f.active(issued) {
		t.Error("inactive after a renewal in time")
	}
}

func TestInvalidate(t *testing.T) {
	f := newFixture(t)
	issued := f.issue("bearer")
	for key, ours := range map[string]bool{
		"token/a/b": true, "cap/role/id": true, "tidy/tokens": true, "tidy/x": false, "role/bearer": false, "list/a": false, "key/a": false, "config/config": false,
	} {
		if got := f.Invalidate(key); got != ours {
			t.Errorf("Invalidate(%q) = %v", key, got)
		}
	}
	key := recordPrefix + shardOf(issued.ID) + "/" + issued.ID
	if err := f.storage.Delete(f.ctx, key); err != nil { // as another node does
		t.Fatal(err)
	}
	f.Invalidate(key)
	if f.active(issued) {
		t.Error("active after its record went on another node")
	}
}

// Nothing that can be printed of a token, or is stored of it, is its secret.
func TestSecretIsNowhere(t *testing.T) {
	f := newFixture(t)
	for _, name := range []string{"api_key", "bearer", "jwt"} {
		issued := f.issue(name)
		text := issued.Token.Reveal()
		part := text[len(text)-40 : len(text)-10]
		for _, verb := range []string{"%v", "%+v", "%#v", "%s"} {
			if printed := fmt.Sprintf(verb, issued) + fmt.Sprintf(verb, *issued); strings.Contains(printed, part) {
				t.Errorf("%s shows a %s under %s", printed, name, verb)
			}
		}
		keys, err := logical.CollectKeys(f.ctx, f.storage)
		if err != nil {
			t.Fatal(err)
		}
		for _, key := range keys {
			entry, err := f.storage.Get(f.ctx, key)
			if err != nil || strings.Contains(string(entry.Value)+key, part) {
				t.Errorf("%s holds a part of a %s; %v", key, name, err)
			}
		}
	}
}

const (
	issuer = "https://vault.example.com/v1/tokens"
	margin = 24 * time.Hour
)
