package tokens

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/vault/sdk/logical"

	"github.com/vault-tokens/vault-plugin-secrets-tokens/backend/store/storetest"
)

// idle waits for the work in the background, and returns tidy/status.
func (m *mount) idle() map[string]any {
	m.t.Helper()
	for deadline := time.Now().Add(20 * time.Second); time.Now().Before(deadline); {
		if status := m.must(logical.ReadOperation, "tidy/status", nil).Data; status["state"] != "running" {
			return status
		}
	}
	status, err := m.backend.engine.Tokens.TidyStatus(context.Background(), m.storage)
	m.t.Fatalf("tidying does not end: %+v, %v", status, err)
	return nil
}

// records returns how many records are stored, of live tokens and others.
func (m *mount) records() int {
	m.t.Helper()
	keys, err := logical.CollectKeysWithPrefix(context.Background(), m.storage, "token/")
	if err != nil {
		m.t.Fatal(err)
	}
	return len(keys)
}

func TestEntitiesRevoke(t *testing.T) {
	m := newMount(t).withRoles()
	var issued []string
	for _, kind := range []string{"api_key", "bearer", "jwt"} {
		issued = append(issued, m.must(logical.ReadOperation, "creds/"+kind, nil).Data["token"].(string))
	}
	m.active(issued[0])
	m.answers([]row{
		{operation: logical.ReadOperation, path: "entities/entity-1"},
		{operation: logical.ReadOperation, path: "entities/a.b", refused: "id"},
		{operation: logical.ReadOperation, path: "entities/a/b", refused: "id"},
		{operation: logical.UpdateOperation, path: "entities/a.b/revoke", refused: "id"},
		{operation: logical.UpdateOperation, path: "entities/" + strings.Repeat("x", 65) + "/revoke", refused: "id"},
		{operation: logical.UpdateOperation, path: "entities/entity-1/revoke", data: map[string]any{"before": "x"}, refused: "before"},
	})
	at := rfc3339(m.clock.Now())
	var resp *logical.Response
	m.storage.Before(func(op storetest.Op, key string) error { // all but the cut-off is done later
		if op == storetest.Put && !slices.ContainsFunc([]string{"cutoff/entity/entity-1.", "tidy/", "revoked/"}, func(p string) bool { return strings.HasPrefix(key, p) }) {
			t.Errorf("wrote %s", key)
		}
		return nil
	})
	resp = m.must(logical.UpdateOperation, "entities/entity-1/revoke", nil)
	status := m.idle()
	m.storage.Heal()
	if resp.Data["entity_id"] != "entity-1" || resp.Data["revoked_at"] != at || !slices.Equal(resp.Data["untracked_roles"].([]string), []string{"jwt"}) || resp.Data["untracked_count"] != 1 {
		t.Errorf("answered %v", resp.Data)
	}
	if len(resp.Warnings) != 2 || !strings.Contains(resp.Warnings[0], "tidy/status") || !strings.Contains(resp.Warnings[1], "until they expire") {
		t.Errorf("warned %v", resp.Warnings)
	}
	if status["ended"] != 2 || status["state"] != "idle" || status["position"] != 1.0 || status["last_complete_started_at"] != at {
		t.Errorf("tidied %v", status)
	}
	if message := m.refused(logical.ReadOperation, "creds/bearer", nil); !strings.HasPrefix(message, "entity_id: ") || !strings.Contains(message, "ask again") {
		t.Errorf("within the second: %s", message)
	}
	m.clock.Advance(time.Second)
	for _, when := range []string{"at once", "after a restart"} {
		for _, token := range issued {
			if m.active(token) {
				t.Errorf("%s: active", when)
			}
		}
		if !m.active(m.must(logical.ReadOperation, "creds/jwt", nil).Data["token"].(string)) {
			t.Errorf("%s: a new token is inactive", when)
		}
		m.answers([]row{{
			operation: logical.ReadOperation, path: "entities/entity-1",
			want: map[string]any{"entity_id": "entity-1", "revoked_at": at, "tidied": true},
		}})
		m.restart()
	}
	if log := m.log.String(); strings.Count(log, "token revoked") != 2 || !strings.Contains(log, "tokens of an entity revoked") {
		t.Errorf("the log says\n%s", log)
	}
}

// The cut-off is one write, whatever the storage has.
func TestEntitiesRevokeOnFaults(t *testing.T) {
	m := newMount(t).withRoles()
	token := m.must(logical.ReadOperation, "creds/jwt", nil).Data["token"].(string)
	if n := m.fails(logical.UpdateOperation, "entities/entity-1/revoke", nil, unwritten("cutoff/")); n != 2 {
		t.Errorf("succeeded %d times, want also for a caller that hangs up", n)
	}
	m.idle()
	if m.active(token) {
		t.Error("active")
	}
	// What else it says may fail.
	for _, prefix := range []string{"role/", "tidy/", "token/"} {
		for m.must(logical.ReadOperation, "tidy/status", nil).Data["state"] == "running" {
			m.periodic() // which goes on with what a fault has ended in the background
		}
		m.restart()
		m.storage.Before(unread(prefix))
		resp := m.must(logical.UpdateOperation, "entities/entity-1/revoke", nil)
		if prefix == "role/" && (len(resp.Warnings) != 2 || !strings.Contains(resp.Warnings[1], "not all roles")) {
			t.Errorf("warned %v", resp.Warnings)
		}
		m.storage.Heal()
	}
	m.fails(logical.ReadOperation, "entities/entity-1", nil, unread("cutoff/"), unread("tidy/"))
}

func TestUntrackedWarningIsShort(t *testing.T) {
	m := newMount(t).withRoles()
	for n := range 30 {
		m.must(logical.CreateOperation, fmt.Sprintf("roles/jwt-%02d", n), map[string]any{"token_type": "jwt", "audiences": "a"})
	}
	resp := m.must(logical.UpdateOperation, "entities/entity-1/revoke", nil)
	if warning := resp.Warnings[1]; !strings.Contains(warning, "31 JWT roles") || !strings.Contains(warning, ", …)") || strings.Contains(warning, "jwt-20") {
		t.Errorf("warned %s", warning)
	}
	if n := len(resp.Data["untracked_roles"].([]string)); n != 31 {
		t.Errorf("named %d", n)
	}
	m.idle()
}
