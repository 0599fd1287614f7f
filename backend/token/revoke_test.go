package token

import (
	"testing"

	"github.com/vault-tokens/vault-plugin-secrets-tokens/backend/store/storetest"
)

func TestRevoke(t *testing.T) {
	for _, name := range []string{"api_key", "bearer", "jwt"} {
		t.Run(name, func(t *testing.T) {
			f := newFixture(t)
			issued, kept := f.issue(name), f.issue(name)
			if _, err := f.roles.Remove(f.ctx, f.storage, name); err != nil { // which revoking does not need
				t.Fatal(err)
			}
			ended, err := f.revoke(issued)
			if err != nil || ended == nil || *ended != (Ended{issued.ID, issued.TokenType, name, false}) {
				t.Errorf("revoked %+v, %v", ended, err)
			}
			for _, when := range []string{"at once", "after a restart"} {
				if f.active(issued) || !f.active(kept) {
					t.Errorf("%s: active are %v and %v, want the second alone", when, f.active(issued), f.active(kept))
				}
				if ended, err := f.revoke(issued); ended != nil || err != nil {
					t.Errorf("%s: revoked again: %v, %v", when, ended, err)
				}
				f.restart()
			}
			f.now = kept.ExpiresAt
			ended, err = f.revoke(kept)
			if err != nil || ended == nil || *ended != (Ended{kept.ID, kept.TokenType, name, true}) {
				t.Errorf("expired %+v, %v", ended, err)
			}
		})
	}
	f := newFixture(t)
	for _, id := range []string{"", "x", "../config/config"} {
		if _, writes := f.storage.Count(func() {
			if ended, err := f.RevokeOpaque(f.ctx, f.storage, id); ended != nil || err != nil {
				t.Errorf("revoked %q: %v, %v", id, ended, err)
			}
		}); writes != 0 {
			t.Errorf("%q: %d writes", id, writes)
		}
	}
}

// Revocation by possession takes the token alone, of any kind.
func TestRevokePossessed(t *testing.T) {
	f := newFixture(t)
	for _, name := range []string{"api_key", "bearer", "jwt"} {
		issued := f.issue(name)
		ended, err := f.RevokePossessed(f.ctx, f.storage, issued.Token)
		if err != nil || ended == nil || *ended != (Ended{issued.ID, issued.TokenType, name, false}) || f.active(issued) {
			t.Errorf("%s: revoked %+v, %v", name, ended, err)
		}
	}
}

// A revocation that failed is not acknowledged, and one that is tried again
// holds; a record that cannot be read must go all the same.
func TestRevokeOnFaults(t *testing.T) {
	for _, name := range []string{"bearer", "jwt"} {
		for fault, test := range map[string]struct {
			inject func(f *fixture)
			gone   bool // all the same
		}{
			"write refused": {func(f *fixture) { f.storage.Before(storetest.Fail("", storetest.Put, storetest.Delete)) }, false},
			"reply lost":    {func(f *fixture) { f.storage.After(storetest.Fail("", storetest.Put, storetest.Delete)) }, false},
			"caller gone":   {func(f *fixture) { f.ctx = cancelled() }, false},
			"record unread": {func(f *fixture) { f.restart(); f.storage.Before(storetest.Fail(recordPrefix, storetest.Get)) }, true},
		} {
			t.Run(name+"/"+fault, func(t *testing.T) {
				f := newFixture(t)
				issued := f.issue(name)
				ctx := f.ctx
				test.inject(f)
				if _, err := f.revoke(issued); (err == nil) != test.gone {
					t.Errorf("got %v", err)
				}
				f.storage.Heal()
				f.ctx = ctx
				if _, err := f.revoke(issued); err != nil || f.active(issued) {
					t.Errorf("tried again: %v, active %v", err, f.active(issued))
				}
				if f.restart(); f.active(issued) {
					t.Error("active after a restart")
				}
			})
		}
	}
	f := newFixture(t)
	issued := f.issue("bearer")
	entry, err := f.storage.Get(f.ctx, f.records.Key(issued.ID))
	if err != nil {
		t.Fatal(err)
	}
	entry.Value = []byte("{")
	if err := f.storage.Put(f.ctx, entry); err != nil {
		t.Fatal(err)
	}
	f.restart()
	if answer, err := f.Introspect(f.ctx, f.storage, Introspection{Token: issued.Token}); err == nil {
		t.Errorf("a record that cannot be decoded answers %+v", answer)
	}
	if ended, err := f.revoke(issued); err != nil || ended == nil || ended.ID != issued.ID {
		t.Errorf("revoked %v, %v", ended, err)
	}
	if f.active(issued) {
		t.Error("active after its revocation")
	}
	// Expired, a JWT needs nothing, whatever the storage says.
	signed := f.issue("jwt")
	f.now = signed.ExpiresAt
	f.restart()
	f.storage.Before(storetest.Fail("", storetest.Get, storetest.List, storetest.Put, storetest.Delete))
	if ended, err := f.revoke(signed); ended != nil || err != nil {
		t.Errorf("revoked an expired JWT: %v, %v", ended, err)
	}
}
