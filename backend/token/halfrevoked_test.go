package token

import (
	"errors"
	"testing"

	"github.com/vault-tokens/vault-plugin-secrets-tokens/backend/role"
	"github.com/vault-tokens/vault-plugin-secrets-tokens/backend/statuslist"
	"github.com/vault-tokens/vault-plugin-secrets-tokens/backend/store/storetest"
)

// A revocation by id that cannot read the record once does not know the token's bit:
// it must not be acknowledged with a bit that says valid, and a JWT that is active.
func TestRevocationByIDOnAReadFaultIsNotAcknowledgedByHalf(t *testing.T) {
	f := newFixture(t)
	f.change("jwt", func(r *role.Role) { r.Track = true })
	for _, name := range []string{"api_key", "jwt"} {
		issued := f.issue(name)
		f.restart()
		f.storage.Before(storetest.Fail(recordPrefix, storetest.Get))
		_, err := f.Revoke(f.ctx, f.storage, Lease{ID: issued.ID})
		f.storage.Heal()
		if err != nil {
			_, err = f.Revoke(f.ctx, f.storage, Lease{ID: issued.ID}) // the caller's retry
		}
		if err != nil {
			t.Fatal(err)
		}
		f.restart()
		_, status, err := f.lists.Status(f.ctx, f.storage, issued.Ref)
		if err != nil || status != statuslist.Revoked {
			t.Errorf("%s: acknowledged, and its bit is %v, %v", name, status, err)
		}
		if f.active(issued) {
			t.Errorf("%s: acknowledged, and active", name)
		}
	}
}

// The retry of a revocation whose write failed writes it, for a token without record
// too: it is revoked in memory only.
func TestRetriedRevocationWithoutRecordIsStored(t *testing.T) {
	f := newFixture(t)
	f.change("jwt", func(r *role.Role) { r.Track = true })
	issued := f.issue("jwt")
	if err := f.records.Delete(f.ctx, f.storage, issued.ID); err != nil {
		t.Fatal(err)
	}
	f.storage.Before(storetest.Fail("revoked/", storetest.Put))
	if _, err := f.revoke(issued); !errors.Is(err, storetest.ErrInjected) {
		t.Fatal(err)
	}
	f.storage.Heal()
	if _, err := f.revoke(issued); err != nil {
		t.Fatal(err)
	}
	f.restart()
	if f.active(issued) {
		t.Error("acknowledged, and active after a restart")
	}
}
