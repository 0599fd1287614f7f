package tokens

import (
	"context"
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/hashicorp/vault/sdk/logical"

	"github.com/vault-tokens/vault-plugin-secrets-tokens/backend/store/storetest"
)

func TestConfig(t *testing.T) {
	shown := func(issuer string, scopes []string, maxTTL, ttl, lifetime int64) map[string]any {
		return map[string]any{
			"issuer": issuer, "allowed_scopes": scopes, "allowed_audiences": []string{"*"}, "max_ttl": maxTTL, "status_list_ttl": ttl, "status_list_lifetime": lifetime,
			"standby_introspection": "forward",
		}
	}
	write := func(data, want map[string]any) []row {
		return []row{
			{operation: logical.UpdateOperation, path: "config", data: data},
			{operation: logical.ReadOperation, path: "config", want: want},
		}
	}
	m := newMount(t)
	rows := []row{{operation: logical.ReadOperation, path: "config", want: shown("", []string{"*"}, 0, 5, 3600)}}
	rows = append(rows, write(map[string]any{"issuer": testIssuer + "/"}, shown(testIssuer, []string{"*"}, 0, 5, 3600))...)
	rows = append(rows, write(map[string]any{"max_ttl": "30d", "allowed_scopes": "orders:*,invoices:read"}, shown(testIssuer, []string{"orders:*", "invoices:read"}, 2592000, 5, 3600))...)
	rows = append(rows, write(map[string]any{"status_list_ttl": "1m", "status_list_lifetime": 7200}, shown(testIssuer, []string{"orders:*", "invoices:read"}, 2592000, 60, 7200))...)
	for field, value := range map[string]any{
		"issuer": "http://vault.example.com", "allowed_scopes": "a b", "max_ttl": -1, "status_list_ttl": 0, "status_list_lifetime": "25h", "nonsense": 1,
	} {
		rows = append(rows, row{operation: logical.UpdateOperation, path: "config", data: map[string]any{field: value}, refused: field})
	}
	rows = append(
		rows,
		row{operation: logical.UpdateOperation, path: "config", data: map[string]any{"max_ttl": 60, "issuer": "x"}, refused: "issuer"},
		row{operation: logical.ReadOperation, path: "config", want: shown(testIssuer, []string{"orders:*", "invoices:read"}, 2592000, 60, 7200)},
		row{operation: logical.UpdateOperation, path: "config", data: map[string]any{"issuer": "https://other.example.com"}, warning: testIssuer},
		row{operation: logical.UpdateOperation, path: "config", data: map[string]any{"issuer": "https://other.example.com/"}},
	)
	m.answers(rows)
	m.restart()
	m.answers([]row{{operation: logical.ReadOperation, path: "config", want: shown("https://other.example.com", []string{"orders:*", "invoices:read"}, 2592000, 60, 7200)}})
}

func TestConfigOnFaults(t *testing.T) {
	m := newMount(t).withRoles()
	m.fails(logical.ReadOperation, "config", nil, unread("config/"))
	m.fails(logical.UpdateOperation, "config", map[string]any{"max_ttl": "1h"}, unread("config/"), unwritten("config/"))
}

// The key that signs status lists is there as soon as they have an address, or as
// soon as the configuration is written again.
func TestConfigMakesTheListKey(t *testing.T) {
	m := newMount(t)
	keys := func(want ...string) {
		t.Helper()
		resp := m.must(logical.ListOperation, "keys/", nil)
		if got, _ := resp.Data["keys"].([]string); !slices.Equal(got, want) {
			t.Errorf("keys are %v, want %v", got, want)
		}
	}
	m.answers([]row{{operation: logical.UpdateOperation, path: "config", data: map[string]any{"max_ttl": "1h"}}})
	keys()
	m.answers([]row{{operation: logical.UpdateOperation, path: "config", data: map[string]any{"issuer": testIssuer}}})
	keys("default")
	m.answers([]row{{operation: logical.UpdateOperation, path: "config", data: map[string]any{"max_ttl": "2h"}}})
	if n := strings.Count(m.log.String(), "key created: key=default"); n != 1 {
		t.Errorf("logged %d times", n)
	}
	m.must(logical.DeleteOperation, "keys/default", nil)
	m.must(logical.CreateOperation, "keys/other", nil)
	m.answers([]row{{operation: logical.UpdateOperation, path: "config", data: map[string]any{"max_ttl": "1h"}, warning: "may refuse the lists for up to 5m0s"}})
	keys("default", "other")

	m.put("key/default", "{")
	m.answers([]row{{operation: logical.UpdateOperation, path: "config", data: map[string]any{"max_ttl": "3h"}, warning: "replace the key by writing keys/default"}})
	if m.stored("key/default") != "{" {
		t.Error("a key that cannot be read was overwritten")
	}
	if c := m.must(logical.ReadOperation, "config", nil).Data; c["max_ttl"] != int64(3*3600) {
		t.Errorf("written is %v", c)
	}
}

// A key that could not be made is made when the write is repeated.
func TestConfigOnFaultsOfTheListKey(t *testing.T) {
	for _, hook := range []storetest.Hook{unread("key/"), unwritten("key/")} {
		m := newMount(t)
		m.fails(logical.UpdateOperation, "config", map[string]any{"issuer": testIssuer}, hook)
		if len(m.published()) != 2 {
			t.Errorf("published are %v", m.published())
		}
	}
}

// put writes a storage entry behind the engine's back, as another version of it
// or a fault might.
func (m *mount) put(key, value string) {
	m.t.Helper()
	if err := m.storage.Put(context.Background(), &logical.StorageEntry{Key: key, Value: []byte(value)}); err != nil {
		m.t.Fatal(err)
	}
	m.backend.engine.Invalidate(key)
}

// stored reads what the storage has at a key.
func (m *mount) stored(key string) string {
	m.t.Helper()
	entry, err := m.storage.Get(context.Background(), key)
	if err != nil || entry == nil {
		m.t.Fatal(key, err)
	}
	return string(entry.Value)
}

var wholeConfig = map[string]any{
	"issuer": testIssuer, "allowed_scopes": "orders:*", "allowed_audiences": "https://*", "max_ttl": "1h",
	"status_list_ttl": "5s", "status_list_lifetime": "1h", "standby_introspection": "forward",
}

func TestUnreadableConfigIsReplacedWhole(t *testing.T) {
	m := newMount(t).withRoles()
	m.put("config/config", `{"allowed_scopes": "*"}`)
	for _, path := range []string{"config", "creds/bearer", ".well-known/openid-configuration"} {
		if resp, err := m.do(logical.ReadOperation, path, nil); err == nil {
			t.Errorf("%s is answered without a configuration: %v", path, resp)
		}
	}
	for name := range wholeConfig {
		partial := maps.Clone(wholeConfig)
		delete(partial, name)
		if message := m.refused(logical.UpdateOperation, "config", partial); !strings.HasPrefix(message, name+": ") {
			t.Errorf("without %s: %s", name, message)
		}
	}
	m.must(logical.UpdateOperation, "config", wholeConfig)
	if c := m.must(logical.ReadOperation, "config", nil).Data; c["max_ttl"] != int64(3600) {
		t.Errorf("replaced by %v", c)
	}
	m.must(logical.ReadOperation, "creds/bearer", nil)
}

// A newer version may have stored a ceiling that this one would drop.
func TestEntriesOfANewerVersionAreNotOverwritten(t *testing.T) {
	m := newMount(t).withRoles()
	for path, key := range map[string]string{"config": "config/config", "roles/bearer": "role/bearer"} {
		newer := strings.Replace(m.stored(key), `"format":1`, `"format":2,"ceiling":"new"`, 1)
		m.put(key, newer)
		whole := wholeConfig
		if path != "config" {
			whole = map[string]any{"token_type": "bearer"}
		}
		for operation, data := range map[logical.Operation]map[string]any{logical.ReadOperation: nil, logical.UpdateOperation: whole} {
			resp, err := m.do(operation, path, data)
			if err == nil || !strings.Contains(err.Error(), "written by a newer version of the plugin") {
				t.Errorf("%s %s: %v, %v", operation, path, resp, err)
			}
		}
		if now := m.stored(key); now != newer {
			t.Errorf("%s was changed to %s", key, now)
		}
	}
}

// An empty list is most likely a variable that was not set.
func TestEmptiedListsOfConfigWarn(t *testing.T) {
	m := newMount(t)
	for _, name := range []string{"allowed_scopes", "allowed_audiences"} {
		for times, want := range []int{1, 0} { // the second write changes nothing
			resp := m.must(logical.UpdateOperation, "config", map[string]any{name: ""})
			if got := len(warningsOf(resp)); got != want {
				t.Errorf("%s, %d: warnings are %q", name, times, warningsOf(resp))
			}
		}
	}
}

func warningsOf(resp *logical.Response) []string {
	if resp == nil {
		return nil
	}
	return resp.Warnings
}

// Who writes roles decides about audiences only as far as the mount does.
func TestAudiencesHaveACeiling(t *testing.T) {
	m := newMount(t).withRoles()
	opaque := m.must(logical.ReadOperation, "creds/bearer", nil)
	m.must(logical.UpdateOperation, "config", map[string]any{"allowed_audiences": "https://*.example.org"})
	named := func(message string) {
		t.Helper()
		if !strings.HasPrefix(message, "audience") || !strings.Contains(message, "allowed_audiences") {
			t.Errorf("refused with %q", message)
		}
	}
	named(m.refused(logical.UpdateOperation, "roles/bearer", map[string]any{"ttl": "5m"}))
	named(m.refused(logical.CreateOperation, "roles/new", map[string]any{"token_type": "jwt", "audiences": "https://api.example.com"}))
	for _, kind := range []string{"api_key", "bearer", "jwt"} {
		named(m.refused(logical.ReadOperation, "creds/"+kind, nil))
		named(m.refused(logical.UpdateOperation, "creds/"+kind, map[string]any{"audience": "https://api.example.com"}))
	}
	if _, err := m.renew(opaque.Secret); err == nil || !strings.Contains(err.Error(), "allowed_audiences") {
		t.Errorf("renewed above the ceiling: %v", err)
	}
	m.must(logical.CreateOperation, "roles/new", map[string]any{"token_type": "jwt", "audiences": "https://api.example.org"})
	m.must(logical.ReadOperation, "creds/new", nil)
	m.must(logical.UpdateOperation, "config", map[string]any{"allowed_audiences": ""})
	m.refused(logical.ReadOperation, "creds/new", nil)
	m.must(logical.CreateOperation, "roles/none", map[string]any{"token_type": "bearer"}) // needs no audience
	m.must(logical.ReadOperation, "creds/none", nil)
}
