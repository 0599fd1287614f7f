package tokens

import (
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/vault/sdk/logical"
)

func TestJWTIssueWritesOncePerBlock(t *testing.T) {
	m := newMount(t).withRoles()
	m.must(logical.ReadOperation, "creds/jwt", nil)
	before := m.storage.Writes.Load()
	for range 5000 {
		m.must(logical.ReadOperation, "creds/jwt", nil)
	}
	if writes := m.storage.Writes.Load() - before; writes != 1 {
		t.Errorf("5000 JWTs took %d writes, want 1", writes)
	}
}

func TestMaxTokens(t *testing.T) {
	m := newMount(t).withRoles()
	m.must(logical.UpdateOperation, "roles/bearer", map[string]any{"max_tokens": 2})
	first := m.must(logical.ReadOperation, "creds/bearer", nil)
	m.must(logical.ReadOperation, "creds/bearer", nil)
	m.refused(logical.ReadOperation, "creds/bearer", nil)

	m.restart()
	m.refused(logical.ReadOperation, "creds/bearer", nil)
	if err := m.revoke(first.Secret); err != nil {
		t.Fatal(err)
	}
	m.must(logical.ReadOperation, "creds/bearer", nil)
	m.refused(logical.ReadOperation, "creds/bearer", nil)

	m.clock.Advance(time.Hour)
	m.must(logical.ReadOperation, "creds/bearer", nil)
}

func TestSizesAreBounded(t *testing.T) {
	m := newMount(t).withRoles()
	metadata := map[string]any{}
	for i := range 12 {
		metadata[strings.Repeat("k", i+1)] = strings.Repeat("<", 500)
	}
	scopes := []any{}
	for i := range 20 {
		scopes = append(scopes, "orders:"+strings.Repeat("s", 230+i))
	}
	for _, kind := range []string{"api_key", "jwt"} {
		m.refused(logical.UpdateOperation, "creds/"+kind, map[string]any{"metadata": metadata})
		m.refused(logical.UpdateOperation, "creds/"+kind, map[string]any{"scopes": scopes})
	}
	deep := strings.Repeat(`{"a":`, 40) + "1" + strings.Repeat("}", 40)
	m.refused(logical.UpdateOperation, "roles/jwt", map[string]any{"claims": deep})
}

func TestSubjects(t *testing.T) {
	m := newMount(t).withRoles()
	m.must(logical.UpdateOperation, "roles/bearer", map[string]any{"subject": "svc:{{identity.entity.name}}"})
	token := m.must(logical.ReadOperation, "creds/bearer", nil).Data["token"].(string)
	if sub := m.must(logical.UpdateOperation, "introspect", map[string]any{"token": token}).Data["sub"]; sub != "svc:billing" {
		t.Errorf("subject is %v", sub)
	}
	for _, bad := range []string{"a\nb", "a\u009bb", "a\u202eb", "a\u2028b", "\xff"} {
		m.refused(logical.UpdateOperation, "roles/bearer", map[string]any{"subject": bad})
	}
	m.must(logical.UpdateOperation, "roles/bearer", map[string]any{"subject": strings.Repeat("x", 600)})
	m.refused(logical.ReadOperation, "creds/bearer", nil)
}
