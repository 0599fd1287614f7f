package tokens

import (
	"sync"
	"testing"

	"github.com/hashicorp/vault/sdk/logical"
)

// Whatever the storage does when a token is revoked, its holder must never be
// told that a revocation held which did not.
func TestFailedWrites(t *testing.T) {
	for _, kind := range []string{"api_key", "jwt"} {
		t.Run(kind, func(t *testing.T) {
			m := newMount(t).withRoles()
			issued := m.must(logical.ReadOperation, "creds/"+kind, nil)
			token := issued.Data["token"].(string)

			m.storage.Before(unwritten(""))
			if m.revoke(issued.Secret) == nil {
				t.Error("revoke succeeded on a storage that fails")
			}
			if kind == "api_key" {
				if resp, err := m.do(logical.ReadOperation, "creds/"+kind, nil); err == nil {
					t.Errorf("issued on a storage that fails: %v", resp.Data["token_id"])
				}
				if _, err := m.renew(issued.Secret); err == nil {
					t.Error("renewed on a storage that fails")
				}
			}
			m.storage.Heal()
			if !m.active(token) {
				t.Error("inactive, although nothing was revoked")
			}
			if err := m.revoke(issued.Secret); err != nil {
				t.Error(err)
			}
			if m.active(token) {
				t.Error("active after revoke")
			}
		})
	}
}

// A renewal and a revocation of one token that run at once must never leave it
// alive.
func TestRenewDoesNotResurrect(t *testing.T) {
	m := newMount(t).withRoles()
	for range 50 {
		issued := m.must(logical.ReadOperation, "creds/bearer", nil)
		secret := *issued.Secret
		var wg sync.WaitGroup
		wg.Go(func() { m.renew(&secret) })
		wg.Go(func() { m.revoke(issued.Secret) })
		wg.Go(func() { m.active(issued.Data["token"].(string)) })
		wg.Wait()
		if m.active(issued.Data["token"].(string)) {
			t.Fatal("active after revoke")
		}
	}
}

func TestRenewalIsHeldAgainstTheRoleAsItIs(t *testing.T) {
	for name, change := range map[string]map[string]any{
		"scopes":            {"allowed_scopes": "orders:write", "default_scopes": ""},
		"audience":          {"audiences": "https://other.example.com"},
		"networks":          {"bound_cidrs": "10.0.0.0/8"},
		"another kind gone": nil,
	} {
		t.Run(name, func(t *testing.T) {
			m := newMount(t).withRoles()
			issued := m.must(logical.ReadOperation, "creds/bearer", nil)
			if change == nil {
				m.must(logical.DeleteOperation, "roles/bearer", nil)
			} else {
				m.must(logical.UpdateOperation, "roles/bearer", change)
			}
			if _, err := m.renew(issued.Secret); err == nil {
				t.Error("renewed")
			}
			if !m.active(issued.Data["token"].(string)) {
				t.Error("what was issued should stay")
			}
		})
	}
	m := newMount(t).withRoles()
	m.must(logical.UpdateOperation, "roles/bearer", map[string]any{"bound_cidrs": "10.1.0.0/16"})
	issued := m.must(logical.ReadOperation, "creds/bearer", nil)
	m.must(logical.UpdateOperation, "roles/bearer", map[string]any{"bound_cidrs": "10.0.0.0/8"})
	if _, err := m.renew(issued.Secret); err != nil {
		t.Errorf("a role that allows more refuses to renew: %v", err)
	}
}
