package token

import (
	"net/netip"
	"testing"
	"time"

	"github.com/vault-tokens/vault-plugin-secrets-tokens/backend/config"
	"github.com/vault-tokens/vault-plugin-secrets-tokens/backend/role"
	"github.com/vault-tokens/vault-plugin-secrets-tokens/backend/store/storetest"
)

func TestRenew(t *testing.T) {
	for _, test := range []struct {
		age, increment, want time.Duration
	}{
		{0, 0, time.Hour}, // the role's ttl
		{30 * time.Minute, 0, time.Hour},
		{30 * time.Minute, time.Minute, time.Minute}, // a shorter life, too
		{10 * time.Minute, 70 * time.Minute, 70 * time.Minute},
		{50 * time.Minute, 0, 40 * time.Minute}, // up to max_ttl since issue
		{50 * time.Minute, 24 * time.Hour, 40 * time.Minute},
	} {
		f := newFixture(t)
		f.change("bearer", func(r *role.Role) { r.MaxTTL = 90 * time.Minute })
		issued := f.issueAgo("bearer", test.age)
		var renewed *Renewed
		var err error
		reads, writes := f.storage.Count(func() { renewed, err = f.Renew(f.ctx, f.storage, issued.ID, test.increment) })
		if err != nil {
			t.Fatal(err)
		}
		want := int64(1)
		if renewed.Record.ExpiresAt.After(issued.ExpiresAt.Add(10 * time.Minute)) { // the list has to last longer
			want++
		}
		if reads != 1 || writes != want {
			t.Errorf("%d reads and %d writes, want 1 and %d", reads, writes, want)
		}
		if late := test.want - renewed.TTL; late < 0 || late > time.Minute || renewed.MaxTTL != 90*time.Minute {
			t.Errorf("a token of %s by %s: for %s of %s, want %s", test.age, test.increment, renewed.TTL, renewed.MaxTTL, test.want)
		}
		expires := f.now.Add(renewed.TTL)
		if got := f.introspect(Introspection{Token: issued.Token}); !got.Active || !got.ExpiresAt.Equal(expires) || !renewed.Record.ExpiresAt.Equal(expires) {
			t.Errorf("introspection says active %v until %s, want %s, as the lease", got.Active, got.ExpiresAt, expires)
		}
		f.now = expires
		if f.active(issued) {
			t.Error("active after the life that it was renewed to")
		}
	}
}

func TestRenewIsRefused(t *testing.T) {
	for name, test := range map[string]struct {
		change func(f *fixture, issued *Issued)
		field  string // empty: not refused
	}{
		"nothing changed": {func(*fixture, *Issued) {}, ""},
		"revoked":         {func(f *fixture, i *Issued) { f.revoke(i) }, "lease_id"},
		"expired":         {func(f *fixture, i *Issued) { f.now = i.ExpiresAt }, "lease_id"},
		"at max_ttl": {func(f *fixture, _ *Issued) {
			f.change("bearer", func(r *role.Role) { r.TTL, r.MaxTTL = time.Minute, 10*time.Minute })
		}, "lease_id"},
		"at the ceiling":       {func(f *fixture, _ *Issued) { f.configure(func(c *config.Config) { c.MaxTTL = 10 * time.Minute }) }, "lease_id"},
		"role is gone":         {func(f *fixture, _ *Issued) { f.roles.Remove(f.ctx, f.storage, "bearer") }, "role"},
		"role of another type": {func(f *fixture, _ *Issued) { f.role(role.New("bearer", role.APIKey), func(*role.Role) {}) }, "role"},
		"scope is lost": {func(f *fixture, _ *Issued) {
			f.change("bearer", func(r *role.Role) { r.AllowedScopes, r.DefaultScopes = nil, nil })
		}, "scopes"},
		"scope above the ceiling": {func(f *fixture, _ *Issued) { f.configure(func(c *config.Config) { c.AllowedScopes = nil }) }, "scopes"},
		"audience is lost":        {func(f *fixture, _ *Issued) { f.change("bearer", func(r *role.Role) { r.Audiences = []string{"api"} }) }, "audience"},
		"one more audience": {func(f *fixture, _ *Issued) {
			f.change("bearer", func(r *role.Role) { r.Audiences = []string{"api", "web", "x"} })
		}, ""},
		"networks where were none": {func(f *fixture, _ *Issued) {
			f.change("bearer", func(r *role.Role) { r.BoundCIDRs = []netip.Prefix{netip.MustParsePrefix("0.0.0.0/0")} })
		}, "bound_cidrs"},
	} {
		t.Run(name, func(t *testing.T) {
			f := newFixture(t)
			issued := f.issueAgo("bearer", 20*time.Minute)
			test.change(f, issued)
			before := f.storage.Writes.Load()
			_, err := f.Renew(f.ctx, f.storage, issued.ID, 0)
			wantMistake(t, "renew", err, test.field)
			if test.field != "" && f.storage.Writes.Load() != before {
				t.Error("a refusal wrote the storage")
			}
		})
	}
}

func TestRenewWithinNetworks(t *testing.T) {
	for bound, ok := range map[string]bool{
		"":              true, // bound to nothing any more: the token stays as it is
		"10.0.0.0/8":    true,
		"10.1.0.0/16":   true,
		"10.1.2.0/24":   false,
		"10.2.0.0/16":   false,
		"2001:db8::/32": false,
	} {
		f := newFixture(t)
		f.change("bearer", func(r *role.Role) { r.BoundCIDRs = []netip.Prefix{netip.MustParsePrefix("10.1.0.0/16")} })
		issued := f.issue("bearer")
		f.change("bearer", func(r *role.Role) {
			if r.BoundCIDRs = nil; bound != "" {
				r.BoundCIDRs = []netip.Prefix{netip.MustParsePrefix(bound)}
			}
		})
		renewed, err := f.Renew(f.ctx, f.storage, issued.ID, 0)
		if field := map[bool]string{true: "", false: "bound_cidrs"}[ok]; err != nil || !ok {
			wantMistake(t, bound, err, field)
		} else if len(renewed.Record.BoundCIDRs) != 1 || renewed.Record.BoundCIDRs[0].String() != "10.1.0.0/16" {
			t.Errorf("%q: the token is bound to %v now", bound, renewed.Record.BoundCIDRs)
		}
	}
}

// A renewal that failed may have taken place, or not; what introspection says
// is what is stored.
func TestRenewOnFaults(t *testing.T) {
	for name, test := range map[string]struct {
		inject  func(f *fixture)
		renewed bool
	}{
		"write refused": {func(f *fixture) { f.storage.Before(storetest.Fail(recordPrefix, storetest.Put)) }, false},
		"reply lost":    {func(f *fixture) { f.storage.After(storetest.Fail(recordPrefix, storetest.Put)) }, true},
		"read refused":  {func(f *fixture) { f.storage.Before(storetest.Fail(recordPrefix, storetest.Get)) }, false},
		"role unread":   {func(f *fixture) { f.restart(); f.storage.Before(storetest.Fail("role/", storetest.Get)) }, false},
		"caller gone":   {func(f *fixture) { f.ctx = cancelled() }, false},
	} {
		t.Run(name, func(t *testing.T) {
			f := newFixture(t)
			issued := f.issue("bearer")
			f.now = f.now.Add(time.Minute)
			ctx := f.ctx
			test.inject(f)
			if _, err := f.Renew(f.ctx, f.storage, issued.ID, 0); err == nil {
				t.Error("no error")
			}
			f.storage.Heal()
			f.ctx = ctx
			want := issued.ExpiresAt
			if test.renewed {
				want = want.Add(time.Minute)
			}
			if got := f.introspect(Introspection{Token: issued.Token}); !got.ExpiresAt.Equal(want) {
				t.Errorf("lives until %s, want %s", got.ExpiresAt, want)
			}
		})
	}
}
