package tokens

import (
	"context"
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/vault/sdk/framework"
	"github.com/hashicorp/vault/sdk/helper/consts"
	"github.com/hashicorp/vault/sdk/logical"

	"github.com/vault-tokens/vault-plugin-secrets-tokens/backend/store/storetest"
)

// The budget of storage operations decides the engine's speed: each is a call
// to Vault's process, and each write a commit on every node.
func TestStorageBudget(t *testing.T) {
	t.Run("nothing configured", func(t *testing.T) {
		m := newMount(t)
		m.must(logical.CreateOperation, "roles/a", map[string]any{"token_type": "bearer"})
		m.must(logical.ReadOperation, "creds/a", nil)
		reads := m.storage.Reads.Load()
		m.active(m.must(logical.ReadOperation, "creds/a", nil).Data["token"].(string))
		m.do(logical.ReadOperation, ".well-known/openid-configuration", nil)
		m.do(logical.ReadOperation, "status/0000000000000000000000", nil)
		m.do(logical.ReadOperation, "status/0000000000000000000001", nil)
		if n := m.storage.Reads.Load() - reads; n > 1 {
			t.Errorf("%d reads, want at most the one that loads the status lists", n)
		}
	})
	for _, kind := range []string{"api_key", "bearer", "jwt"} {
		t.Run(kind, func(t *testing.T) {
			m := newMount(t).withRoles()
			warm := m.must(logical.ReadOperation, "creds/"+kind, nil)
			m.active(warm.Data["token"].(string))
			m.must(logical.ReadOperation, "jwks", nil)
			opaque := kind != "jwt"

			count := func(what string, reads, writes int64, do func()) {
				t.Helper()
				if r, w := m.storage.Count(do); r != reads || w != writes {
					t.Errorf("%s: %d reads and %d writes, want %d and %d", what, r, w, reads, writes)
				}
			}
			choose := func(ifOpaque, ifJWT int64) int64 {
				if opaque {
					return ifOpaque
				}
				return ifJWT
			}

			var issued *logical.Response
			count("creds", 0, choose(1, 0), func() { issued = m.must(logical.ReadOperation, "creds/"+kind, nil) })
			token := issued.Data["token"].(string)
			count("introspect, in memory", 0, 0, func() { m.active(token) })
			if opaque {
				m.backend.engine.Invalidate("token/" + token[len(token)-50:len(token)-49] + "/" + issued.Data["token_id"].(string))
				count("introspect, not in memory", 1, 0, func() { m.active(token) })
				count("renew", 1, 1, func() { m.renew(issued.Secret) })
			}
			count("revoke", 0, choose(2, 1), func() { m.revoke(issued.Secret) })
			count("introspect, revoked", choose(1, 0), 0, func() {
				if m.active(token) {
					t.Error("active after revoke")
				}
			})
			count("revoke again", 0, 0, func() { m.revoke(issued.Secret) })
			count("jwks", 0, 0, func() { m.must(logical.ReadOperation, "jwks", nil) })

			expired := m.must(logical.ReadOperation, "creds/"+kind, nil)
			m.clock.Advance(expired.Secret.TTL + time.Minute)
			count("revoke, expired", 0, choose(1, 0), func() { m.revoke(expired.Secret) })
			// Later than a lease ends by itself: the clock may be ahead.
			late := m.must(logical.ReadOperation, "creds/"+kind, nil)
			m.clock.Advance(late.Secret.TTL + time.Hour)
			count("revoke, expired long ago", 0, choose(2, 1), func() { m.revoke(late.Secret) })
		})
	}
}

func TestRestart(t *testing.T) {
	for _, kind := range []string{"api_key", "jwt"} {
		t.Run(kind, func(t *testing.T) {
			m := newMount(t).withRoles()
			kept := m.must(logical.ReadOperation, "creds/"+kind, nil).Data["token"].(string)
			gone := m.must(logical.ReadOperation, "creds/"+kind, nil)
			if err := m.revoke(gone.Secret); err != nil {
				t.Fatal(err)
			}
			m.restart()
			if !m.active(kept) {
				t.Error("a token issued before is inactive")
			}
			if m.active(gone.Data["token"].(string)) {
				t.Error("a token revoked before is active")
			}
		})
	}
}

func TestTidyRemovesExpiredRecordsOnly(t *testing.T) {
	m := newMount(t).withRoles()
	m.must(logical.UpdateOperation, "roles/bearer", map[string]any{"generate_lease": false})
	for range 20 {
		m.must(logical.UpdateOperation, "creds/bearer", map[string]any{"ttl": "1m"})
	}
	m.must(logical.UpdateOperation, "roles/api_key", map[string]any{"ttl": "48h"})
	kept := m.must(logical.ReadOperation, "creds/api_key", nil)
	keys := func() []string { return m.must(logical.ListOperation, "tokens/", nil).Data["keys"].([]string) }
	m.clock.Advance(2 * time.Minute)
	m.periodic()
	if n := len(keys()); n != 21 {
		t.Errorf("%d records are left, want those that expired just now as well: the clock may be ahead", n)
	}
	m.clock.Advance(24 * time.Hour)
	m.periodic()
	if left := keys(); len(left) != 1 || left[0] != kept.Data["token_id"] {
		t.Errorf("after tidying: %v, want only %v", left, kept.Data["token_id"])
	}
}

func TestPanicIsAnError(t *testing.T) {
	m := newMount(t)
	for _, path := range m.backend.Paths {
		if path.Pattern == "config" {
			path.Operations[logical.ReadOperation] = &framework.PathOperation{
				Callback: func(context.Context, *logical.Request, *framework.FieldData) (*logical.Response, error) {
					panic("on purpose")
				},
			}
		}
	}
	// Routed anew, since patterns are compiled on first use.
	if _, err := m.backend.HandleRequest(context.Background(), &logical.Request{Operation: logical.ReadOperation, Path: "config", Storage: m.storage}); err == nil {
		t.Error("a panic passed for an answer")
	}
}

// A token in a field where none belongs must not come back in the error, which
// stands in the audit log in clear.
func TestMisplacedTokenIsNotRepeated(t *testing.T) {
	m := newMount(t).withRoles()
	for _, kind := range []string{"api_key", "jwt"} {
		token := m.must(logical.ReadOperation, "creds/"+kind, nil).Data["token"].(string)
		for path, data := range map[string]map[string]any{
			"creds/api_key":  {"scopes": token},
			"creds/bearer":   {"audience": token, "metadata": map[string]any{"a": "b"}},
			"creds/jwt":      {token: "x"},
			"creds/" + token: nil,
			"roles/" + token: {"ttl": 1},
			"roles/jwt":      {"bound_cidrs": token},
			"roles/bearer":   {"default_scopes": []any{token}},
			"introspect":     {"token": token, "required_scopes": token + " x"},
			"revoke":         {"token": map[string]any{"token": token}},
		} {
			message := m.refused(logical.UpdateOperation, strings.TrimSuffix(path, "?"), data)
			if strings.Contains(message, token[len(token)-30:]) {
				t.Errorf("%.12s: %s", path, message)
			}
			for _, part := range []string{token[20:40], token[40:60]} {
				if strings.Contains(m.log.String(), part) {
					t.Fatalf("%.12s: a part of the token is in the log", path)
				}
			}
		}
	}
}

func TestFactory(t *testing.T) {
	ctx := context.Background()
	if b, err := Factory(ctx, nil); err == nil {
		t.Errorf("made %v of nothing", b)
	}
	if b, err := Factory(ctx, &logical.BackendConfig{}); err == nil {
		t.Errorf("made %v without Vault's system view", b)
	}
	b, err := Factory(ctx, &logical.BackendConfig{System: &logical.StaticSystemView{}, StorageView: &logical.InmemStorage{}})
	if err != nil {
		t.Fatal(err)
	}
	if b.Type() != logical.TypeLogical || !slices.Equal(b.SpecialPaths().SealWrapStorage, []string{"key/"}) {
		t.Errorf("type %s, special paths %+v", b.Type(), b.SpecialPaths())
	}
}

// Setting a mount up reads nothing: a node that starts with many mounts must
// not wait for the storage of each.
func TestSetUpReadsNothing(t *testing.T) {
	m := newMount(t).withRoles()
	if reads, writes := m.storage.Count(m.restart); reads+writes != 0 {
		t.Errorf("%d reads and %d writes", reads, writes)
	}
}

// Every path has help, each of its operations a summary and declared
// answers. What is forwarded, TestWhoAnswersEachOperation says.
func TestEveryPathIsDescribed(t *testing.T) {
	m := newMount(t)
	for _, path := range m.backend.Paths {
		if path.HelpSynopsis == "" || path.HelpDescription == "" {
			t.Errorf("%s has no help", path.Pattern)
		}
		for operation, handler := range path.Operations {
			properties := handler.Properties()
			if properties.Summary == "" || len(properties.Responses) == 0 {
				t.Errorf("%s %s has no summary or no declared answer", operation, path.Pattern)
			}
		}
		for name, field := range path.Fields {
			if field.Description == "" {
				t.Errorf("%s: field %s has no description", path.Pattern, name)
			}
		}
	}
}

// Background work runs only where the storage may be written.
func TestPeriodicOnStandby(t *testing.T) {
	m := newMount(t).withRoles()
	m.must(logical.ReadOperation, "creds/bearer", nil)
	m.clock.Advance(26 * time.Hour)
	for _, state := range []consts.ReplicationState{
		consts.ReplicationPerformanceStandby, consts.ReplicationPerformanceSecondary, consts.ReplicationDRSecondary,
	} {
		m.system.ReplicationStateVal = state
		m.restart()
		if reads, writes := m.storage.Count(func() {
			for range 62 {
				m.periodic()
			}
		}); reads+writes != 0 {
			t.Errorf("state %d: %d reads and %d writes", state, reads, writes)
		}
	}
	m.system.ReplicationStateVal = 0
	m.restart()
	m.periodic()
	if !strings.Contains(m.log.String(), "token expired") {
		t.Error("the active node removed nothing")
	}
}

// A fault is told of, and the rest of the work is logged all the same.
func TestPeriodicOnFaults(t *testing.T) {
	m := newMount(t).withRoles()
	m.must(logical.UpdateOperation, "keys/default", map[string]any{"rotation_period": "24h"})
	m.must(logical.ReadOperation, "creds/bearer", nil)
	m.clock.Advance(25 * time.Hour)
	m.storage.Before(unread("list/"))
	failed := 0
	for range 62 {
		if err := m.backend.periodic(context.Background(), &logical.Request{Storage: m.storage}); errors.Is(err, storetest.ErrInjected) {
			failed++
		}
	}
	if log := m.log.String(); failed == 0 || strings.Count(log, "token expired") != 1 || strings.Count(log, "key rotated") != 1 {
		t.Errorf("%d runs failed, and the log says\n%s", failed, log)
	}
	m.restart()
	m.storage.Before(unread("config/"))
	if err := m.backend.periodic(context.Background(), &logical.Request{Storage: m.storage}); !errors.Is(err, storetest.ErrInjected) {
		t.Errorf("without the configuration: %v", err)
	}
}

// Who needs no Vault token must not be able to fill the log.
func TestUnauthenticatedRefusalsAreNotLogged(t *testing.T) {
	m := newMount(t).withRoles()
	before := m.log.String()
	for _, path := range []string{"jwks", ".well-known/openid-configuration", ".well-known/oauth-authorization-server", "status/x", "status/" + strings.Repeat("0", 22)} {
		for _, operation := range []logical.Operation{logical.ReadOperation, logical.UpdateOperation, logical.ListOperation, logical.DeleteOperation} {
			writes := m.storage.Writes.Load()
			m.backend.HandleRequest(context.Background(), &logical.Request{
				Operation: operation, Path: path, Storage: m.storage, Data: map[string]any{"nonsense": "x"},
			})
			if m.storage.Writes.Load() != writes {
				t.Errorf("%s %s wrote the storage", operation, path)
			}
		}
	}
	if after := m.log.String(); after != before {
		t.Errorf("the log has got\n%s", after[len(before):])
	}
}
