package tokens

import (
	"reflect"
	"testing"

	"github.com/hashicorp/vault/sdk/framework"
	"github.com/hashicorp/vault/sdk/logical"
)

func TestPartialWriteKeepsTheRest(t *testing.T) {
	m := newMount(t).withRoles()
	m.must(logical.UpdateOperation, "roles/bearer", map[string]any{"max_ttl": "2h", "metadata": map[string]any{"team": "payments"}, "generate_lease": false})
	before := m.must(logical.ReadOperation, "roles/bearer", nil).Data
	m.must(logical.UpdateOperation, "roles/bearer", map[string]any{"ttl": "5m"})
	after := m.must(logical.ReadOperation, "roles/bearer", nil).Data
	before["ttl"] = int64(300)
	for name, want := range before {
		if got := after[name]; !deepEqual(got, want) {
			t.Errorf("%s is %v, want %v", name, got, want)
		}
	}
	m.must(logical.PatchOperation, "roles/bearer", map[string]any{"max_ttl": nil, "metadata": nil, "generate_lease": nil, "ttl": nil})
	reset := m.must(logical.ReadOperation, "roles/bearer", nil).Data
	for name, want := range map[string]any{"max_ttl": int64(0), "metadata": map[string]any{}, "generate_lease": true, "ttl": int64(3600)} {
		if got := reset[name]; !deepEqual(got, want) {
			t.Errorf("after reset %s is %v, want %v", name, got, want)
		}
	}
}

func TestRolesAreOneTable(t *testing.T) {
	m := newMount(t).withRoles()
	shown := m.must(logical.ReadOperation, "roles/jwt", nil).Data
	declared := map[string]*framework.FieldSchema{}
	for _, path := range m.backend.pathRoles() {
		for name, field := range path.Fields {
			declared[name] = field
		}
	}
	for name := range declared {
		if _, ok := shown[name]; !ok && name != "name" {
			t.Errorf("field %s can be written but is not shown", name)
		}
	}
}

func deepEqual(a, b any) bool { return reflect.DeepEqual(a, b) }

func TestTTLChangesOnlyWhenNamed(t *testing.T) {
	m := newMount(t).withRoles()
	m.refused(logical.UpdateOperation, "roles/bearer", map[string]any{"max_ttl": "10m"})
	m.must(logical.UpdateOperation, "roles/bearer", map[string]any{"max_ttl": "10m", "ttl": "5m"})
	m.must(logical.PatchOperation, "roles/bearer", map[string]any{"ttl": nil})
	if ttl := m.must(logical.ReadOperation, "roles/bearer", nil).Data["ttl"]; ttl != int64(600) {
		t.Errorf("reset to %v, want the default, cut to max_ttl", ttl)
	}
	m.must(logical.CreateOperation, "roles/short", map[string]any{"token_type": "bearer", "max_ttl": "10m"})
}
