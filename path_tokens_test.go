package tokens

import (
	"context"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/vault/sdk/logical"

	"github.com/vault-tokens/vault-plugin-secrets-tokens/backend/store/storetest"
)

func TestListPages(t *testing.T) {
	m := newMount(t).withRoles()
	want := map[string]bool{}
	for range 100 {
		want[m.must(logical.ReadOperation, "creds/bearer", nil).Data["token_id"].(string)] = true
	}
	after := ""
	for page := 0; ; page++ {
		resp := m.must(logical.ListOperation, "tokens/", map[string]any{"after": after, "limit": "7"})
		ids := resp.Data["keys"].([]string)
		for _, id := range ids {
			if !want[id] {
				t.Fatalf("page %d: %s is unknown or listed twice", page, id)
			}
			delete(want, id)
			after = id
		}
		if len(resp.Warnings) == 0 {
			break
		}
		if len(ids) != 7 {
			t.Fatalf("page %d has %d ids", page, len(ids))
		}
	}
	if len(want) != 0 {
		t.Errorf("%d ids were never listed", len(want))
	}
}

// A token can be found and revoked as soon as it is stored, which is before
// its issue has returned.
func TestRevokedWhileIssued(t *testing.T) {
	m := newMount(t).withRoles()
	revoked := make(chan struct{})
	m.storage.After(func(op storetest.Op, key string) error {
		if op != storetest.Put || !strings.HasPrefix(key, "token/") {
			return nil
		}
		id := key[strings.LastIndexByte(key, '/')+1:]
		go func() {
			defer close(revoked)
			m.backend.HandleRequest(context.Background(), &logical.Request{Operation: logical.DeleteOperation, Path: "tokens/" + id, Storage: m.storage})
		}()
		select {
		case <-revoked: // before the issue returns, if nothing holds it back
		case <-time.After(100 * time.Millisecond):
		}
		return nil
	})
	token := m.must(logical.ReadOperation, "creds/bearer", nil).Data["token"].(string)
	<-revoked
	if m.active(token) {
		t.Error("active after its revocation was acknowledged")
	}
}

func TestTokens(t *testing.T) {
	m := newMount(t).withRoles()
	m.must(logical.UpdateOperation, "roles/api_key", map[string]any{"bound_cidrs": "10.0.0.0/8", "metadata": map[string]any{"team": "payments"}})
	issued := m.must(logical.ReadOperation, "creds/api_key", nil).Data
	id, token := issued["token_id"].(string), issued["token"].(string)
	signed := m.must(logical.ReadOperation, "creds/jwt", nil).Data["token_id"].(string)
	shown := map[string]any{
		"subject": "entity-1", "client_id": "entity-1", "entity_id": "entity-1", "display_name": "approle-billing", "bound_cidrs": []string{"10.0.0.0/8"},
	}
	for _, name := range []string{"token_id", "token_type", "role", "scopes", "scope", "audience", "issued_at", "expires_at", "metadata"} {
		shown[name] = issued[name]
	}
	const nothing = "nothing was revoked"
	m.answers([]row{
		{operation: logical.ListOperation, path: "tokens/", want: map[string]any{"keys": []string{id}}},
		{operation: logical.ReadOperation, path: "tokens/" + id, want: shown},
		{operation: logical.ReadOperation, path: "tokens/" + signed}, // of which there is no record
		{operation: logical.ReadOperation, path: "tokens/" + strings.Repeat("0", 22)},
		{operation: logical.ReadOperation, path: "tokens/" + token, refused: "id"},
		{operation: logical.ReadOperation, path: "tokens/x", refused: "id"},
		{operation: logical.ReadOperation, path: "tokens/a/b", refused: "id"},
		{operation: logical.DeleteOperation, path: "tokens/" + token, refused: "id"},
		{operation: logical.DeleteOperation, path: "tokens/" + signed, warning: nothing},
		{operation: logical.DeleteOperation, path: "tokens/" + strings.Repeat("0", 22), warning: nothing},
		{operation: logical.ListOperation, path: "tokens/", data: map[string]any{"limit": 0}, refused: "limit"},
		{operation: logical.ListOperation, path: "tokens/", data: map[string]any{"limit": 1001}, refused: "limit"},
		{operation: logical.ListOperation, path: "tokens/", data: map[string]any{"limit": "many"}, refused: "limit"},
		{operation: logical.ListOperation, path: "tokens/", data: map[string]any{"after": token}, refused: "after"},
		{operation: logical.ListOperation, path: "tokens/", data: map[string]any{"before": id}, refused: "before"},
		{operation: logical.ListOperation, path: "tokens/", data: map[string]any{"after": id, "limit": "1000"}, want: map[string]any{}},
		{operation: logical.DeleteOperation, path: "tokens/" + id},
		{operation: logical.DeleteOperation, path: "tokens/" + id, warning: nothing},
		{operation: logical.ReadOperation, path: "tokens/" + id},
		{operation: logical.ListOperation, path: "tokens/", want: map[string]any{}},
		{operation: logical.UpdateOperation, path: "introspect", data: map[string]any{"token": token}, want: map[string]any{"active": false}},
	})
	expired := m.must(logical.ReadOperation, "creds/bearer", nil).Data["token_id"].(string)
	m.clock.Advance(time.Hour)
	m.answers([]row{{operation: logical.ReadOperation, path: "tokens/" + expired}})
}

func TestTokensOnFaults(t *testing.T) {
	m := newMount(t).withRoles()
	id := m.must(logical.ReadOperation, "creds/api_key", nil).Data["token_id"].(string)
	m.fails(logical.ListOperation, "tokens/", nil, unread("token/"))
	m.fails(logical.ReadOperation, "tokens/"+id, nil, unread("token/"))
	m.fails(logical.DeleteOperation, "tokens/"+id, nil, unwritten("token/"), storetest.Fail("token/", storetest.Get, storetest.Delete))
	if n := strings.Count(m.log.String(), "token revoked: token_id="+id); n != 1 {
		t.Errorf("the log tells of the revocation %d times", n)
	}
}
