package tokens

import (
	"encoding/json"
	"reflect"
	"testing"
	"time"

	"github.com/hashicorp/vault/sdk/logical"
)

func TestDiscovery(t *testing.T) {
	for _, path := range []string{".well-known/openid-configuration", ".well-known/oauth-authorization-server"} {
		m := newMount(t)
		m.answers([]row{{operation: logical.ReadOperation, path: path}}) // nothing without an issuer
		read := func() (metadata map[string]any, tag string) {
			t.Helper()
			body, tag := m.raw(path, "application/json", 4*time.Minute, 5*time.Minute)
			if err := json.Unmarshal([]byte(body), &metadata); err != nil {
				t.Fatal(err)
			}
			return metadata, tag
		}
		want := map[string]any{
			"issuer": testIssuer, "jwks_uri": testIssuer + "/jwks",
			"response_types_supported": []any{}, "grant_types_supported": []any{}, "subject_types_supported": []any{"public"},
			"claims_supported":       []any{"iss", "sub", "aud", "exp", "nbf", "iat", "jti", "client_id", "scope", "status", "cnf"},
			"introspection_endpoint": testIssuer + "/oauth2/introspect", "introspection_endpoint_auth_methods_supported": []any{"Bearer"},
			"revocation_endpoint": testIssuer + "/oauth2/revoke", "revocation_endpoint_auth_methods_supported": []any{"Bearer"},
		}
		m.must(logical.UpdateOperation, "config", map[string]any{"issuer": testIssuer})
		m.must(logical.DeleteOperation, "keys/default", nil)
		if got, _ := read(); !reflect.DeepEqual(got, want) {
			t.Errorf("%s without keys: %v, want %v", path, got, want)
		}
		m.withRoles()
		m.must(logical.CreateOperation, "keys/second", map[string]any{"algorithm": "Ed25519"})
		want["id_token_signing_alg_values_supported"] = []any{"ES256", "Ed25519"}
		got, tag := read()
		if !reflect.DeepEqual(got, want) {
			t.Errorf("%s: %v, want %v", path, got, want)
		}
		m.notModified(path, tag)
		m.must(logical.UpdateOperation, "config", map[string]any{"issuer": "https://other.example.com"})
		if got, other := read(); got["issuer"] != "https://other.example.com" || got["jwks_uri"] != "https://other.example.com/jwks" || other == tag {
			t.Errorf("%s of another issuer: %v", path, got)
		}
		if reads, writes := m.storage.Count(func() { read() }); reads+writes != 0 {
			t.Errorf("%s: %d reads and %d writes", path, reads, writes)
		}
		m.fails(logical.ReadOperation, path, nil, unread("config/"), unread("key/"))
	}
}
