package tokens

import (
	"testing"

	"github.com/hashicorp/vault/sdk/logical"
)

func TestConfig(t *testing.T) {
	shown := func(issuer string, scopes []string, maxTTL, ttl, lifetime int64) map[string]any {
		return map[string]any{
			"issuer": issuer, "allowed_scopes": scopes, "max_ttl": maxTTL, "status_list_ttl": ttl, "status_list_lifetime": lifetime,
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
