package tokens

import (
	"context"
	"encoding/json"
	"maps"
	"reflect"
	"strings"
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
		if got := after[name]; !reflect.DeepEqual(got, want) {
			t.Errorf("%s is %v, want %v", name, got, want)
		}
	}
	m.must(logical.PatchOperation, "roles/bearer", map[string]any{"max_ttl": nil, "metadata": nil, "generate_lease": nil, "ttl": nil})
	reset := m.must(logical.ReadOperation, "roles/bearer", nil).Data
	for name, want := range map[string]any{"max_ttl": int64(0), "metadata": map[string]any{}, "generate_lease": true, "ttl": int64(3600)} {
		if got := reset[name]; !reflect.DeepEqual(got, want) {
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

// 0 is the default of the type: not what the mount allows, which for a JWT is a
// month that nothing can shorten.
func TestTTLZeroIsTheDefaultOfTheType(t *testing.T) {
	m := newMount(t).withRoles()
	for kind, want := range map[string]struct{ shown, life int64 }{
		"api_key": {0, 24 * 3600}, // the mount's default
		"bearer":  {3600, 3600},
		"jwt":     {900, 900},
	} {
		for _, zero := range []any{0, "0", "0s"} {
			m.must(logical.UpdateOperation, "roles/"+kind, map[string]any{"ttl": "42m"})
			m.must(logical.UpdateOperation, "roles/"+kind, map[string]any{"ttl": zero})
			if ttl := m.must(logical.ReadOperation, "roles/"+kind, nil).Data["ttl"]; ttl != want.shown {
				t.Errorf("%s: ttl=%v is %v, want %d", kind, zero, ttl, want.shown)
			}
			if life := m.must(logical.ReadOperation, "creds/"+kind, nil).Data["expires_in"]; life != want.life {
				t.Errorf("%s: with ttl=%v a token lives %v, want %d", kind, zero, life, want.life)
			}
		}
		m.must(logical.CreateOperation, "roles/new-"+kind, map[string]any{"token_type": kind, "ttl": 0, "audiences": "https://api.example.com"})
		if ttl := m.must(logical.ReadOperation, "roles/new-"+kind, nil).Data["ttl"]; ttl != want.shown {
			t.Errorf("%s: created with ttl=0 it is %v, want %d", kind, ttl, want.shown)
		}
	}
	m.must(logical.UpdateOperation, "roles/bearer", map[string]any{"ttl": 0, "max_ttl": "10m"})
	if ttl := m.must(logical.ReadOperation, "roles/bearer", nil).Data["ttl"]; ttl != int64(600) {
		t.Errorf("ttl is %v, want the default, cut to max_ttl", ttl)
	}
}

// RFC 7396: a patch changes the members that it names, and null removes one.
func TestPatchMergesObjects(t *testing.T) {
	m := newMount(t).withRoles()
	m.must(logical.UpdateOperation, "roles/jwt", map[string]any{
		"claims":   `{"tenant": "acme", "id": 12345678901234567890, "acl": {"read": true, "write": true, "list": [1, null]}, "old": 1}`,
		"metadata": map[string]any{"team": "shop", "cost": "7"},
	})
	for i, step := range []struct {
		patch            map[string]any
		claims, metadata string
	}{
		{
			map[string]any{"claims": map[string]any{"region": "eu", "acl": map[string]any{"write": nil}, "old": nil}, "metadata": map[string]any{"cost": nil, "owner": "me"}},
			`{"acl":{"list":[1,null],"read":true},"id":12345678901234567890,"region":"eu","tenant":"acme"}`, `{"owner":"me","team":"shop"}`,
		},
		{
			map[string]any{"claims": `{"region": {"a": {"b": null, "c": 1}}, "acl": null}`, "metadata": []any{"team=ops", "x=y"}}, // as the command line sends it
			`{"id":12345678901234567890,"region":{"a":{"c":1}},"tenant":"acme"}`, `{"owner":"me","team":"ops","x":"y"}`,
		},
		{
			map[string]any{"claims": map[string]any{}, "metadata": map[string]any{}},
			`{"id":12345678901234567890,"region":{"a":{"c":1}},"tenant":"acme"}`, `{"owner":"me","team":"ops","x":"y"}`,
		},
		{map[string]any{"claims": nil, "metadata": nil}, `{}`, `{}`},
	} {
		m.must(logical.PatchOperation, "roles/jwt", step.patch)
		m.restart()
		shown := m.must(logical.ReadOperation, "roles/jwt", nil).Data
		for name, want := range map[string]string{"claims": step.claims, "metadata": step.metadata} {
			if got, err := json.Marshal(shown[name]); err != nil || string(got) != want {
				t.Errorf("step %d: %s is %s, want %s", i, name, got, want)
			}
		}
	}
	m.must(logical.UpdateOperation, "roles/jwt", map[string]any{"metadata": map[string]any{"a": "b"}, "claims": map[string]any{"a": nil}})
	m.must(logical.UpdateOperation, "roles/jwt", map[string]any{"metadata": map[string]any{"c": "d"}})
	shown := m.must(logical.ReadOperation, "roles/jwt", nil).Data
	if !reflect.DeepEqual(shown["metadata"], map[string]any{"c": "d"}) || !reflect.DeepEqual(shown["claims"], map[string]any{"a": nil}) {
		t.Errorf("a write does not replace the whole: %v %v", shown["metadata"], shown["claims"])
	}
	m.refused(logical.UpdateOperation, "roles/jwt", map[string]any{"metadata": map[string]any{"a": nil}})
	m.refused(logical.PatchOperation, "roles/jwt", map[string]any{"metadata": map[string]any{"a": 1}})
	m.refused(logical.PatchOperation, "roles/jwt", map[string]any{"claims": map[string]any{"sub": "x"}})
}

// A list that is empty is most likely a variable that was not set.
func TestEmptiedRestrictionsWarn(t *testing.T) {
	m := newMount(t).withRoles()
	m.must(logical.UpdateOperation, "roles/bearer", map[string]any{"bound_cidrs": "10.0.0.0/8", "allowed_metadata": "job"})
	for _, name := range []string{"bound_cidrs", "audiences", "allowed_metadata", "default_scopes", "allowed_scopes"} {
		resp := m.must(logical.UpdateOperation, "roles/bearer", map[string]any{name: ""})
		if warnings := warningsOf(resp); len(warnings) != 1 || !strings.HasPrefix(warnings[0], name+" is empty now: ") {
			t.Errorf("%s: warnings are %q", name, warnings)
		}
		if resp := m.must(logical.PatchOperation, "roles/bearer", map[string]any{name: nil}); resp != nil {
			t.Errorf("%s: it was empty before, and the warnings are %q", name, resp.Warnings)
		}
	}
	if resp := m.must(logical.CreateOperation, "roles/new", map[string]any{"token_type": "bearer", "bound_cidrs": ""}); resp != nil {
		t.Errorf("a role that never had any: %q", resp.Warnings)
	}
}

func TestUnreadableRole(t *testing.T) {
	m := newMount(t).withRoles()
	m.put("role/bearer", `{"name": "bearer", "token_type": "oauth"}`)
	for _, path := range []string{"roles/bearer", "creds/bearer"} {
		if resp, err := m.do(logical.ReadOperation, path, nil); err == nil {
			t.Errorf("%s is answered without a role: %v", path, resp)
		}
	}
	m.must(logical.ReadOperation, "creds/api_key", nil) // others go on
	m.must(logical.ReadOperation, "creds/jwt", nil)
	found, exists, err := m.backend.HandleExistenceCheck(context.Background(), &logical.Request{Operation: logical.UpdateOperation, Path: "roles/bearer", Storage: m.storage})
	if !found || !exists || err != nil {
		t.Errorf("existence check: %v, %v, %v; want a change, which a policy may hold back", found, exists, err)
	}
	m.refused(logical.UpdateOperation, "roles/bearer", map[string]any{"ttl": "5m"}) // keeps what cannot be read
	m.refused(logical.PatchOperation, "roles/bearer", map[string]any{"ttl": "5m"})
	resp := m.must(logical.UpdateOperation, "roles/bearer", map[string]any{"token_type": "bearer", "ttl": "5m"})
	if warnings := warningsOf(resp); len(warnings) != 1 || !strings.Contains(warnings[0], "could not be decoded") {
		t.Errorf("warnings are %q", warnings)
	}
	if life := m.must(logical.ReadOperation, "creds/bearer", nil).Data["expires_in"]; life != int64(300) {
		t.Errorf("a token of the new role lives %v", life)
	}
	m.put("role/api_key", `{"ttl": "soon"`)
	m.must(logical.DeleteOperation, "roles/api_key", nil)
	if resp := m.must(logical.ReadOperation, "roles/api_key", nil); resp != nil {
		t.Errorf("deleted, and there is %v", resp)
	}
}

func TestClaimsInTextAreOneObject(t *testing.T) {
	m := newMount(t).withRoles()
	for _, text := range []string{`{"a":1}}`, `{"a":1}]garbage`, `{"a":1}}{"tenant":"x"}`, `{"a":1} 2`, `{"a":1,"a":2}`, `{"a":{"b":1,"b":2}}`, `[]`, `null`, ``} {
		if message := m.refused(logical.UpdateOperation, "roles/jwt", map[string]any{"claims": text}); !strings.HasPrefix(message, "claims: ") {
			t.Errorf("%s: %s", text, message)
		}
	}
	m.must(logical.UpdateOperation, "roles/jwt", map[string]any{"claims": " {\"a\": {\"b\": 1}}\n"})
}

func TestRoles(t *testing.T) {
	all := func(change map[string]any) map[string]any {
		shown := map[string]any{
			"allowed_scopes": []string{}, "default_scopes": []string{}, "ttl": int64(0), "max_ttl": int64(0), "audiences": []string{},
			"subject": "", "claims": map[string]any{}, "claims_template": "", "key": "", "not_before_leeway": int64(0), "prefix": "",
			"max_tokens": 0, "bound_cidrs": []string{}, "metadata": map[string]any{}, "generate_lease": true,
			"allowed_metadata": []string{}, "require_cnf": false, "track": false,
		}
		maps.Copy(shown, change)
		return shown
	}
	m := newMount(t)
	m.answers([]row{
		{operation: logical.ListOperation, path: "roles/", want: map[string]any{}},
		{operation: logical.ReadOperation, path: "roles/a"},
		{operation: logical.DeleteOperation, path: "roles/a"},

		// What a role of each type has by itself.
		{operation: logical.CreateOperation, path: "roles/a", data: map[string]any{"token_type": "api_key"}},
		{operation: logical.ReadOperation, path: "roles/a", want: all(map[string]any{"token_type": "api_key", "prefix": "vtk"})},
		{operation: logical.CreateOperation, path: "roles/B", data: map[string]any{"token_type": "bearer"}},
		{operation: logical.ReadOperation, path: "roles/B", want: all(map[string]any{"token_type": "bearer", "prefix": "vtb", "ttl": int64(3600)})},
		{operation: logical.CreateOperation, path: "roles/j", data: map[string]any{"token_type": "jwt", "audiences": "api", "claims": map[string]any{"tier": "gold", "n": json.Number("12345678901234567890")}}},
		{operation: logical.ReadOperation, path: "roles/j", want: all(map[string]any{
			"token_type": "jwt", "ttl": int64(900), "not_before_leeway": int64(30), "key": "default", "audiences": []string{"api"},
			"claims": map[string]any{"tier": "gold", "n": json.Number("12345678901234567890")},
		})},
		{operation: logical.ListOperation, path: "roles/", want: map[string]any{"keys": []string{"B", "a", "j"}}},

		{operation: logical.CreateOperation, path: "roles/n", data: map[string]any{"token_type": "bearer", "bound_cidrs": "10.1.2.3/8,192.0.2.7", "metadata": map[string]any{"team": "payments"}}},
		{operation: logical.ReadOperation, path: "roles/n", want: all(map[string]any{
			"token_type": "bearer", "prefix": "vtb", "ttl": int64(3600),
			"bound_cidrs": []string{"10.0.0.0/8", "192.0.2.7/32"}, "metadata": map[string]any{"team": "payments"},
		})},

		// A maximum that is lower than a role's time is told of.
		{operation: logical.UpdateOperation, path: "roles/a", data: map[string]any{"max_ttl": "100d"}, warning: "the mount's max_lease_ttl"},
		{operation: logical.UpdateOperation, path: "config", data: map[string]any{"max_ttl": "10m"}},
		{operation: logical.UpdateOperation, path: "roles/B", data: map[string]any{"max_tokens": 5}, warning: "ttl is 1h0m0s, but tokens are capped by max_ttl in config: 10m0s"},

		{operation: logical.CreateOperation, path: "roles/new", data: nil, refused: "token_type"},
		{operation: logical.CreateOperation, path: "roles/new", data: map[string]any{"token_type": "oauth"}, refused: "token_type"},
		{operation: logical.CreateOperation, path: "roles/new", data: map[string]any{"token_type": "jwt"}, refused: "audiences"},
		{operation: logical.CreateOperation, path: "roles/new", data: map[string]any{"token_type": "jwt", "audiences": "a", "key": "never"}, refused: "key"},
		{operation: logical.CreateOperation, path: "roles/a/b", data: map[string]any{"token_type": "bearer"}, refused: "name"},
		{operation: logical.ReadOperation, path: "roles/a/b", refused: "name"},
		{operation: logical.DeleteOperation, path: "roles/a/b", refused: "name"},
		{operation: logical.UpdateOperation, path: "roles/a", data: map[string]any{"token_type": "bearer"}, refused: "token_type"},
		{operation: logical.UpdateOperation, path: "roles/a", data: map[string]any{"claims": map[string]any{"a": 1}}, refused: "claims"},
		{operation: logical.UpdateOperation, path: "roles/a", data: map[string]any{"bound_cidrs": "10.0.0.0/33"}, refused: "bound_cidrs"},
		{operation: logical.UpdateOperation, path: "roles/a", data: map[string]any{"metadata": nil}, refused: "metadata"},
		{operation: logical.PatchOperation, path: "roles/new", data: map[string]any{"ttl": 60}, refused: "name"},
		{operation: logical.PatchOperation, path: "roles/a", data: map[string]any{"token_type": nil}, refused: "token_type"},

		{operation: logical.UpdateOperation, path: "roles/n", data: map[string]any{"token_type": "bearer", "max_ttl": "1m", "ttl": "1m"}},
		{operation: logical.DeleteOperation, path: "roles/n"},
		{operation: logical.ReadOperation, path: "roles/n"},
		{operation: logical.ListOperation, path: "roles/", want: map[string]any{"keys": []string{"B", "a", "j"}}},
	})
}

func TestRolesOnFaults(t *testing.T) {
	m := newMount(t).withRoles()
	change := map[string]any{"ttl": "5m"}
	m.fails(logical.ListOperation, "roles/", nil, unread("role/"))
	m.fails(logical.ReadOperation, "roles/jwt", nil, unread("role/"))
	m.fails(logical.UpdateOperation, "roles/jwt", change, unread("role/"), unread("config/"), unread("key/"), unwritten("role/"))
	m.fails(logical.PatchOperation, "roles/bearer", change, unread("role/"), unread("config/"), unwritten("role/"))
	m.fails(logical.CreateOperation, "roles/new", map[string]any{"token_type": "bearer"}, unread("role/"), unread("config/"), unwritten("role/"))
	m.fails(logical.DeleteOperation, "roles/new", nil, unread("role/"), unwritten("role/"))
	if log := m.log.String(); strings.Count(log, "role deleted") != 1 || strings.Count(log, "role written: role=new") != 1 {
		t.Errorf("the log tells of what failed:\n%s", log)
	}
}

// Vault asks whether a role exists, to tell a create from an update.
func TestRoleExists(t *testing.T) {
	m := newMount(t).withRoles()
	for path, want := range map[string]bool{"roles/jwt": true, "roles/JWT": false, "roles/never": false, "roles/a/b": false} {
		_, exists, err := m.backend.HandleExistenceCheck(context.Background(), &logical.Request{
			Operation: logical.CreateOperation, Path: path, Storage: m.storage, Data: map[string]any{"ttl": "not a time"},
		})
		if err != nil || exists != want {
			t.Errorf("%s exists: %v, %v", path, exists, err)
		}
	}
	m.restart()
	m.storage.Before(unread("role/"))
	if _, exists, err := m.backend.HandleExistenceCheck(context.Background(), &logical.Request{
		Operation: logical.CreateOperation, Path: "roles/jwt", Storage: m.storage,
	}); err == nil {
		t.Errorf("exists: %v, although nobody knows", exists)
	}
}
