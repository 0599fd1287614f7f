package tokens

import (
	"context"
	"encoding/json"
	"errors"
	"maps"
	"net/http"
	"sync"
	"testing"
	"time"

	"github.com/hashicorp/vault/sdk/logical"

	"github.com/vault-tokens/vault-plugin-secrets-tokens/backend/store/storetest"
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
			// A write that failed may have taken effect. So the token is not called
			// active before that is known.
			if m.active(token) {
				t.Error("active, although its revocation may have taken effect")
			}
			m.restart()
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

// A lease whose data is not what was written must end in an error: Vault then
// keeps it and tries again, and somebody looks.
func TestBrokenLeaseData(t *testing.T) {
	m := newMount(t).withRoles()
	for _, kind := range []string{"api_key", "bearer", "jwt"} {
		issued := m.must(logical.ReadOperation, "creds/"+kind, nil)
		for name := range issued.Secret.InternalData {
			if name == "secret_type" || name == leaseTracked || name == leaseRole && kind != "jwt" {
				continue
			}
			values := []any{nil, 7}
			if name == leaseIndex || name == leaseExpiresAt { // others are any text
				values = append(values, "x")
			}
			for _, broken := range values {
				lease := *issued.Secret
				lease.InternalData = maps.Clone(lease.InternalData)
				lease.InternalData[name] = broken
				if err := m.revoke(&lease); err == nil {
					t.Errorf("%s: revoked although %s is %v", kind, name, broken)
				}
				if kind != "jwt" && name == leaseTokenID {
					if resp, err := m.renew(&lease); err == nil {
						t.Errorf("%s: renewed although %s is %v: %v", kind, name, broken, resp)
					}
				}
			}
		}
		if !m.active(issued.Data["token"].(string)) {
			t.Errorf("%s: inactive, although nothing was revoked", kind)
		}
	}
}

// Revoking needs the lease's data alone, as Vault hands it back after its own
// storage: without the role, the issuer or anything in memory.
func TestRevokeNeedsTheLeaseAlone(t *testing.T) {
	for _, kind := range []string{"api_key", "bearer", "jwt"} {
		m := newMount(t).withRoles()
		issued := m.must(logical.ReadOperation, "creds/"+kind, nil)
		stored, err := json.Marshal(issued.Secret.InternalData)
		if err != nil {
			t.Fatal(err)
		}
		lease := &logical.Secret{}
		if err := json.Unmarshal(stored, &lease.InternalData); err != nil {
			t.Fatal(err)
		}
		m.must(logical.DeleteOperation, "roles/"+kind, nil)
		m.must(logical.UpdateOperation, "config", map[string]any{"issuer": ""})
		m.restart()
		if err := m.revoke(lease); err != nil {
			t.Errorf("%s: %v", kind, err)
		}
		if m.active(issued.Data["token"].(string)) {
			t.Errorf("%s: active after revoke", kind)
		}
		if err := m.revoke(lease); err != nil {
			t.Errorf("%s: revoked again: %v", kind, err)
		}
	}
}

func TestRenew(t *testing.T) {
	m := newMount(t).withRoles()
	m.must(logical.UpdateOperation, "roles/bearer", map[string]any{"max_ttl": "48h"})
	issued := m.must(logical.ReadOperation, "creds/bearer", nil)
	lease := *issued.Secret
	lease.Increment = 2 * time.Hour
	resp, err := m.renew(&lease)
	if err != nil || resp.Secret.TTL != 2*time.Hour || resp.Secret.MaxTTL != 48*time.Hour || len(resp.Data) != 0 {
		t.Fatalf("renewed to %+v, %v", resp, err)
	}
	m.clock.Advance(2*time.Hour - time.Second)
	if !m.active(issued.Data["token"].(string)) {
		t.Error("inactive within the life that it was renewed to")
	}
	m.clock.Advance(time.Second)
	if m.active(issued.Data["token"].(string)) {
		t.Error("active after the life that it was renewed to")
	}
	// Refusals reach Vault as errors with a code: it prints a response with all
	// its fields here.
	for name, secret := range map[string]*logical.Secret{
		"expired": issued.Secret,
		"JWT":     m.must(logical.ReadOperation, "creds/jwt", nil).Secret,
	} {
		resp, err := m.renew(secret)
		var coded logical.HTTPCodedError
		if err == nil && !resp.IsError() {
			t.Errorf("%s: renewed", name)
		}
		if name == "expired" && (!errors.As(err, &coded) || coded.Code() != http.StatusBadRequest) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestLeasesOnFaults(t *testing.T) {
	for _, kind := range []string{"bearer", "jwt"} {
		m := newMount(t).withRoles()
		issued := m.must(logical.ReadOperation, "creds/"+kind, nil)
		m.restart()
		m.storage.Before(unwritten("revoked/"))
		if err := m.revoke(issued.Secret); !errors.Is(err, storetest.ErrInjected) {
			t.Errorf("%s: %v", kind, err)
		}
		m.storage.Heal()
		m.restart() // until then, what may have been written counts as written
		if !m.active(issued.Data["token"].(string)) {
			t.Errorf("%s: inactive, although no revocation was acknowledged", kind)
		}
		if err := m.revoke(issued.Secret); err != nil || m.active(issued.Data["token"].(string)) {
			t.Errorf("%s: revoked at last: %v, active %v", kind, err, m.active(issued.Data["token"].(string)))
		}
	}
	// The bit comes first: without it nothing is removed, and with it the token is
	// inactive, whatever becomes of the record.
	for i, fault := range []storetest.Hook{unwritten("token/"), storetest.Fail("token/", storetest.Get, storetest.Delete)} {
		m := newMount(t).withRoles()
		issued := m.must(logical.ReadOperation, "creds/bearer", nil)
		m.restart()
		m.storage.Before(fault)
		if err := m.revoke(issued.Secret); !errors.Is(err, storetest.ErrInjected) {
			t.Errorf("fault %d: %v", i, err)
		}
		m.storage.Heal()
		for range 2 {
			if m.active(issued.Data["token"].(string)) {
				t.Errorf("fault %d: active, although its bit is set", i)
			}
			m.restart()
		}
		if err := m.revoke(issued.Secret); err != nil {
			t.Errorf("fault %d: revoked again: %v", i, err)
		}
		if left, err := m.storage.List(context.Background(), "token/"); len(left) != 0 || err != nil {
			t.Errorf("fault %d: the record is left: %v, %v", i, left, err)
		}
	}
	m := newMount(t).withRoles()
	issued := m.must(logical.ReadOperation, "creds/bearer", nil)
	for i, fault := range []storetest.Hook{unread("token/"), unread("role/"), unread("config/"), unwritten("token/")} {
		m.restart()
		m.storage.Before(fault)
		if resp, err := m.renew(issued.Secret); !errors.Is(err, storetest.ErrInjected) {
			t.Errorf("fault %d: renewed to %v, %v", i, resp, err)
		}
		m.storage.Heal()
	}
	if _, err := m.renew(issued.Secret); err != nil {
		t.Errorf("renewed at last: %v", err)
	}
}
