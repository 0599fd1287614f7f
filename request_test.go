package tokens

import (
	"strings"
	"testing"

	"github.com/hashicorp/vault/sdk/logical"
)

func TestEmptyIsNotLeftOut(t *testing.T) {
	m := newMount(t).withRoles()
	token := m.must(logical.ReadOperation, "creds/bearer", nil).Data["token"].(string)
	for _, data := range []map[string]any{{"audience": ""}, {"client_ip": ""}} {
		data["token"] = token
		m.refused(logical.UpdateOperation, "introspect", data)
	}
	for _, cnf := range []any{map[string]any{}, []any{}, "", map[string]any{"jkt": strings.Repeat("A", 42) + "\n"}, map[string]any{"jkt": strings.Repeat("A", 43) + "\n"}} {
		m.refused(logical.UpdateOperation, "creds/bearer", map[string]any{"cnf": cnf})
	}
	m.refused(logical.UpdateOperation, "creds/bearer", map[string]any{"metadata": map[string]any{"a": true}})
}
