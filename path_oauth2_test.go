package tokens

import (
	"context"
	"encoding/json"
	"errors"
	"maps"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/hashicorp/vault/sdk/helper/consts"
	"github.com/hashicorp/vault/sdk/logical"

	"github.com/vault-tokens/vault-plugin-secrets-tokens/backend/store/storetest"
)

// oauth2 sends a request to one of the OAuth 2.0 doors, and holds what is the same
// in every answer. It returns the body, nil if that is empty, and what else is in
// the answer for the audit log.
func (m *mount) oauth2(path string, status int, data map[string]any) (body, audited map[string]any) {
	m.t.Helper()
	resp, err := m.do(logical.UpdateOperation, "oauth2/"+path, data)
	if err != nil || resp.IsError() || resp.Data[logical.HTTPStatusCode] != status {
		m.t.Fatalf("%s: %v %+v, want %d", path, err, resp, status)
	}
	audited = maps.Clone(resp.Data)
	raw := audited[logical.HTTPRawBody].([]byte)
	contentType := ""
	if len(raw) > 0 {
		contentType = "application/json"
		if err := json.Unmarshal(raw, &body); err != nil {
			m.t.Fatalf("%s: %v in %s", path, err, raw)
		}
	}
	for name, want := range map[string]any{
		logical.HTTPContentType: contentType, logical.HTTPCacheControlHeader: "no-store", logical.HTTPPragmaHeader: "no-cache",
	} {
		if audited[name] != want {
			m.t.Errorf("%s: %s is %v, want %v", path, name, audited[name], want)
		}
	}
	maps.DeleteFunc(audited, func(name string, _ any) bool { return strings.HasPrefix(name, "http_") })
	if retry := resp.Headers["Retry-After"]; slices.Equal(retry, []string{"5"}) != (status == 503) {
		m.t.Errorf("%s: Retry-After is %v with a %d", path, retry, status)
	}
	return body, audited
}

func TestOAuth2Introspect(t *testing.T) {
	m := newMount(t).withRoles()
	inactive := map[string]any{"active": false}
	for _, kind := range []string{"api_key", "bearer", "jwt"} {
		m.must(logical.UpdateOperation, "roles/"+kind, map[string]any{"bound_cidrs": "10.0.0.0/8", "metadata": map[string]any{"team": "payments"}})
		for tokenType, cnf := range map[string]map[string]any{
			"Bearer": {"x5t#S256": strings.Repeat("A", 43)},
			"DPoP":   {"jkt": strings.Repeat("A", 43)},
		} {
			issued := m.must(logical.UpdateOperation, "creds/"+kind, map[string]any{"cnf": cnf}).Data
			ask := func(more map[string]any) map[string]any {
				question := map[string]any{"token": issued["token"], "client_ip": "10.1.2.3"}
				maps.Copy(question, more)
				return question
			}
			now := float64(m.clock.Now().Unix())
			want := map[string]any{
				"active": true, "token_type": tokenType, "scope": "orders:read", "client_id": "entity-1", "sub": "entity-1",
				"iat": now, "exp": now + float64(issued["expires_in"].(int64)), "iss": testIssuer, "aud": []any{"https://api.example.com"},
				"jti": issued["token_id"], "token_id": issued["token_id"], "role": kind, "cnf": cnf, "metadata": map[string]any{"team": "payments"},
			}
			if kind == "jwt" {
				want["nbf"] = now - 30
			}
			status := m.must(logical.UpdateOperation, "introspect", ask(nil)).Data["status"].(map[string]any)["status_list"].(map[string]any)
			want["status"] = map[string]any{"status_list": map[string]any{"idx": float64(status["idx"].(int)), "uri": status["uri"]}}
			body, audited := m.oauth2("introspect", 200, ask(map[string]any{"required_scopes": "orders:read", "audience": "https://api.example.com"}))
			if !reflect.DeepEqual(body, want) {
				t.Errorf("%s: answered\n%v, want\n%v", kind, body, want)
			}
			if audited["active"] != true || audited["token_id"] != issued["token_id"] || audited["token_type"] != kind || audited["role"] != kind {
				t.Errorf("%s: audited %v", kind, audited)
			}
			for check, more := range map[string]map[string]any{
				"scope_failed": {"required_scopes": "admin"}, "audience_failed": {"audience": "other"}, "client_ip_failed": {"client_ip": "192.0.2.7"},
			} {
				body, audited := m.oauth2("introspect", 200, ask(more))
				if !reflect.DeepEqual(body, inactive) {
					t.Errorf("%s, %s: answered %v", kind, check, body)
				}
				if audited["active"] != false || audited[check] != true || audited["token_id"] != issued["token_id"] {
					t.Errorf("%s, %s: audited %v", kind, check, audited)
				}
			}
			m.must(logical.UpdateOperation, "revoke", map[string]any{"token": issued["token"]})
			for _, dead := range []any{issued["token"], "nonsense"} {
				if body, audited := m.oauth2("introspect", 200, ask(map[string]any{"token": dead})); !reflect.DeepEqual(body, inactive) || !reflect.DeepEqual(audited, inactive) {
					t.Errorf("%s, dead: answered %v, audited %v", kind, body, audited)
				}
			}
		}
	}
}

func TestOAuth2Revoke(t *testing.T) {
	m := newMount(t).withRoles()
	for _, kind := range []string{"api_key", "bearer", "jwt"} {
		issued := m.must(logical.ReadOperation, "creds/"+kind, nil).Data
		kept := m.must(logical.ReadOperation, "creds/"+kind, nil).Data["token"].(string)
		for i, want := range []map[string]any{{"token_id": issued["token_id"], "role": kind, "token_type": kind}, {}} {
			body, audited := m.oauth2("revoke", 200, map[string]any{"token": issued["token"], "token_type_hint": "refresh_token"})
			if body != nil || !reflect.DeepEqual(audited, want) {
				t.Errorf("%s, time %d: answered %v, audited %v, want %v", kind, i, body, audited, want)
			}
		}
		if body, audited := m.oauth2("revoke", 200, map[string]any{"token": "nonsense"}); body != nil || len(audited) > 0 {
			t.Errorf("%s, unknown: answered %v, audited %v", kind, body, audited)
		}
		if m.active(issued["token"].(string)) || !m.active(kept) {
			t.Errorf("%s: not the one token has been revoked", kind)
		}
	}
}

// Mistakes are errors of RFC 6749 §5.2, unknown parameters none.
func TestOAuth2Requests(t *testing.T) {
	m := newMount(t).withRoles()
	token := m.must(logical.ReadOperation, "creds/bearer", nil).Data["token"].(string)
	mistakes := map[string]map[string]any{
		"no token":           {},
		"empty token":        {"token": ""},
		"null token":         {"token": nil},
		"two tokens":         {"token": token + "," + token},
		"an empty one first": {"token": "," + token},
		"list of tokens":     {"token": []any{token}},
		"two hints":          {"token": token, "token_type_hint": "a,b"},
	}
	introspections := maps.Clone(mistakes)
	maps.Copy(introspections, map[string]map[string]any{
		"empty scopes":     {"token": token, "required_scopes": ""},
		"quotes in scopes": {"token": token, "required_scopes": `"\é`},
		"token for scope":  {"token": token, "required_scopes": token + "*"},
		"empty client_ip":  {"token": token, "client_ip": ""},
		"two client_ips":   {"token": token, "client_ip": "192.0.2.7,192.0.2.7"},
		"two audiences":    {"token": token, "audience": "a,b"},
	})
	for path, tests := range map[string]map[string]map[string]any{"introspect": introspections, "revoke": mistakes} {
		for name, data := range tests {
			body, audited := m.oauth2(path, 400, data)
			description, _ := body["error_description"].(string)
			if len(body) != 2 || body["error"] != "invalid_request" || audited["error"] != description {
				t.Errorf("%s, %s: answered %v, audited %v", path, name, body, audited)
			}
			if description == "" || strings.ContainsFunc(description, func(r rune) bool { return r < ' ' || r > '~' || r == '"' || r == '\\' }) || strings.Contains(description, token[10:30]) {
				t.Errorf("%s, %s: described as %q", path, name, description)
			}
		}
	}
	if n := m.backend.counts.refused.read()["oauth2"]; n != int64(len(introspections)+len(mistakes)) {
		t.Errorf("%d refused requests are counted", n)
	}
	if !m.active(token) {
		t.Error("a mistake has revoked the token")
	}
	unknown := map[string]any{"token": token, "token_type_hint": "access_token", "client_id": "x", "batch_input": []any{}, "nonsense": nil, token: map[string]any{}}
	if body, _ := m.oauth2("introspect", 200, unknown); body["active"] != true {
		t.Errorf("with unknown parameters: %v", body)
	}
	m.oauth2("revoke", 200, unknown)
	if m.active(token) {
		t.Error("active after its revocation")
	}
}

// A fault is a 503, which says neither that a token is inactive nor that it was
// revoked.
func TestOAuth2OnFaults(t *testing.T) {
	m := newMount(t).withRoles()
	for kind, faults := range map[string]map[string][]storetest.Hook{
		"bearer": {"introspect": {unread("token/"), unread("config/")}, "revoke": {unread("token/"), unwritten("revoked/"), unwritten("token/")}},
		"jwt":    {"introspect": {unread("key/"), unread("list/"), unread("revoked/")}, "revoke": {unread("key/"), unwritten("revoked/")}},
	} {
		token := m.must(logical.ReadOperation, "creds/"+kind, nil).Data["token"].(string)
		for _, path := range []string{"introspect", "revoke"} {
			for i, fault := range faults[path] {
				m.restart()
				m.storage.Before(fault)
				body, audited := m.oauth2(path, 503, map[string]any{"token": token})
				m.storage.Heal()
				if n := m.backend.counts.failed.read()["oauth2"]; n != int64(1) {
					t.Errorf("%s of %s, fault %d: %v failed requests are counted", path, kind, i, n)
				}
				if body["error"] != "temporarily_unavailable" || body["active"] != nil || audited["error"] == nil {
					t.Errorf("%s of %s, fault %d: answered %v, audited %v", path, kind, i, body, audited)
				}
			}
			m.oauth2(path, 200, map[string]any{"token": token})
		}
		if m.active(token) {
			t.Errorf("%s: active after its revocation was acknowledged", kind)
		}
	}
	if n := strings.Count(m.log.String(), "request not answered: path=oauth2/"); n != 10 {
		t.Errorf("%d faults in the log, want 10", n)
	}
}

func TestOAuth2IsForwarded(t *testing.T) {
	m := newMount(t).withRoles()
	token := m.must(logical.ReadOperation, "creds/bearer", nil).Data["token"]
	for _, state := range []consts.ReplicationState{consts.ReplicationPerformanceStandby, consts.ReplicationPerformanceSecondary} {
		m.system.ReplicationStateVal = state
		m.restart()
		for _, path := range []string{"oauth2/introspect", "oauth2/revoke"} {
			resp, err := m.backend.HandleRequest(context.Background(), &logical.Request{
				Operation: logical.UpdateOperation, Path: path, Storage: m.storage, Data: map[string]any{"token": token},
			})
			if !errors.Is(err, logical.ErrReadOnly) {
				t.Errorf("%s: answered with %v, %v", path, resp, err)
			}
		}
	}
}
