package engine

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/vault-tokens/vault-plugin-secrets-tokens/test/suite"
	"github.com/vault-tokens/vault-plugin-secrets-tokens/test/vaulttest"
)

// post sends a body to one of the doors for OAuth 2.0 clients, with a Vault token as
// such clients send it.
func (s *session) post(path, vaultToken, contentType, body string) (*http.Response, string) {
	s.T.Helper()
	req, err := http.NewRequestWithContext(s.Ctx, http.MethodPost, s.Addr+"/v1/"+s.Mount+"/oauth2/"+path, strings.NewReader(body))
	if err != nil {
		s.T.Fatal(err)
	}
	req.Header.Set("Content-Type", contentType)
	req.Header.Set("Authorization", "Bearer "+vaultToken)
	resp, err := s.Anonymous().HTTP.Do(req)
	if err != nil {
		s.T.Fatal(err)
	}
	defer resp.Body.Close()
	raw, err := io.ReadAll(resp.Body)
	if err != nil {
		s.T.Fatal(err)
	}
	return resp, string(raw)
}

// form is post of a form, and holds what is the same in every answer of the engine.
func (s *session) form(path, vaultToken, body string, status int) string {
	s.T.Helper()
	resp, raw := s.post(path, vaultToken, "application/x-www-form-urlencoded", body)
	want := map[string]string{"Cache-Control": "no-store", "Pragma": "no-cache", "Content-Type": "application/json"}
	if raw == "" {
		want["Content-Type"] = ""
	}
	for name, value := range want {
		if got := resp.Header.Get(name); got != value {
			s.T.Errorf("%s: %s is %q, want %q", path, name, got, value)
		}
	}
	if resp.StatusCode != status {
		s.T.Fatalf("%s: %d, want %d: %s", path, resp.StatusCode, status, raw)
	}
	return raw
}

// oauth2Session is a server whose audit log is set up, with a role of each kind.
func oauth2Session(t *testing.T) *session {
	t.Helper()
	s := own(t, 3*time.Minute, vaulttest.Options{Audit: true, RawStorage: true, Raft: true})
	s.SetUpAudit()
	for _, k := range vaulttest.TokenTypes {
		s.Role(k.Name, k.RoleBody().With(fields{"metadata": fields{"team": "shop"}}))
	}
	return s
}

const dead = `{"active":false}`

// TestOAuth2 asks and revokes as a client does that knows OAuth 2.0 and not Vault:
// by forms, with raw bodies in return.
func TestOAuth2(t *testing.T) {
	s := oauth2Session(t)
	for _, k := range vaulttest.TokenTypes {
		token := s.Issue(k.Name, nil)
		d := token.Data
		t.Run(k.Name, func(t *testing.T) {
			s := s.sub(t)
			question := url.Values{"token": {d.Token}}
			var body map[string]any
			suite.Decode(t, []byte(s.form("introspect", s.API, question.Encode(), 200)), &body)
			for name, want := range map[string]any{
				"active": true, "token_type": "Bearer", "scope": d.Scope, "client_id": s.Entity, "sub": s.Entity, "jti": d.TokenID,
				"token_id": d.TokenID, "role": k.Name, "iss": s.Issuer(s.Mount), "aud": []any{d.Audience[0], d.Audience[1]}, "metadata": map[string]any{"team": "shop"},
			} {
				if !reflect.DeepEqual(body[name], want) {
					t.Errorf("%s is %v, want %v", name, body[name], want)
				}
			}
			for _, name := range []string{"username", "data", "request_id", "lease_id", "http_status_code", "scope_failed"} {
				if body[name] != nil {
					t.Errorf("the answer has %s: %v", name, body[name])
				}
			}
			// What a check was failed by is in the audit log only.
			for _, check := range []string{"required_scopes=admin", "audience=other"} {
				if got := s.form("introspect", s.API, question.Encode()+"&"+check, 200); got != dead {
					t.Errorf("%s: %s", check, got)
				}
			}
			if got := s.form("introspect", s.API, question.Encode()+"&required_scopes=orders:read&required_scopes=stock:read&token_type_hint=access_token&client_id=x&client_id=y&nonsense=", 200); got == dead {
				t.Error("scopes of two parameters, and unknown parameters: inactive")
			}
			for range 2 {
				if got := s.form("revoke", s.App, question.Encode()+"&token_type_hint=refresh_token&nonsense=1", 200); got != "" {
					t.Errorf("revocation answers %q", got)
				}
			}
			if got := s.form("introspect", s.API, question.Encode(), 200); got != dead {
				t.Errorf("after its revocation: %s", got)
			}
		})
	}
	t.Run("audit log", func(t *testing.T) { s.sub(t).checkOAuth2Audit() })
	t.Run("mistakes", func(t *testing.T) { s.sub(t).testOAuth2Mistakes() })
	t.Run("fault", func(t *testing.T) { s.sub(t).testOAuth2Fault() })
	if err := s.VerifyFiles(); err != nil {
		t.Error(err)
	}
}

// checkOAuth2Audit looks for what the log shows of each kind beside the raw body.
func (s *session) checkOAuth2Audit() {
	s.T.Helper()
	entries := readAudit(s.T, s.AuditFile)
	for _, k := range vaulttest.TokenTypes {
		for what, is := range map[string]func(data map[string]any, path string) bool{
			"an active token": func(data map[string]any, path string) bool {
				return path == "tokens/oauth2/introspect" && data["active"] == true && data["token_type"] == k.Name && data["exp"] != nil
			},
			"a failed check": func(data map[string]any, path string) bool {
				return path == "tokens/oauth2/introspect" && data["active"] == false && data["audience_failed"] == true
			},
			"a revocation": func(data map[string]any, path string) bool {
				return path == "tokens/oauth2/revoke" && data["token_type"] == k.Name
			},
		} {
			entry := findEntry(entries, func(e auditEntry) bool {
				return e.Type == "response" && e.Response.Data["role"] == k.Name && is(e.Response.Data, e.Request.Path)
			})
			if entry == nil {
				s.T.Errorf("no audit entry shows %s of %s", what, k.Name)
				continue
			}
			if id := entry.Response.Data["token_id"]; id == nil || isHashed(id) {
				s.T.Errorf("%s of %s: token_id is %v", what, k.Name, id)
			}
			wantHashed(s.T, what, entry.Request.Data, "token")
			wantHashed(s.T, what, entry.Response.Data, "http_raw_body")
		}
	}
}

func (s *session) testOAuth2Mistakes() {
	s.T.Helper()
	token := s.Issue("bearer", nil)
	text := token.Data.Token
	for name, body := range map[string]string{
		"no body":          "",
		"no token":         "token_type_hint=access_token",
		"empty token":      "token=",
		"token twice":      "token=" + text + "&token=" + text,
		"an empty first":   "token=&token=" + text,
		"token in a query": "", // see below
	} {
		for path, vaultToken := range map[string]string{"introspect": s.API, "revoke": s.App} {
			if name == "token in a query" {
				path += "?token=vtb_x"
			}
			var answer map[string]string
			raw := s.form(path, vaultToken, body, 400)
			suite.Decode(s.T, []byte(raw), &answer)
			if len(answer) != 2 || answer["error"] != "invalid_request" || !strings.HasPrefix(answer["error_description"], "token: ") || strings.Contains(raw, text) {
				s.T.Errorf("%s, %s: %s", path, name, raw)
			}
		}
	}
	for _, body := range []string{`{"token":"` + text + `","nonsense":null}`, ` {"token":"` + text + `"}`} {
		if resp, raw := s.post("introspect", s.API, "application/json", body); resp.StatusCode != 200 || !strings.Contains(raw, `"active":true`) {
			s.T.Errorf("JSON: %d %s", resp.StatusCode, raw)
		}
	}
	for vaultToken, path := range map[string]string{"": "introspect", "hvs.nobody": "revoke", s.App: "introspect", s.API: "revoke"} {
		if resp, raw := s.post(path, vaultToken, "application/x-www-form-urlencoded", "token="+text); resp.StatusCode != 403 || !strings.Contains(raw, "permission denied") {
			s.T.Errorf("%s without a policy: %d %s", path, resp.StatusCode, raw)
		}
	}
	s.WantActive(token)
	entries := readAudit(s.T, s.AuditFile)
	if findEntry(entries, func(e auditEntry) bool {
		return e.Type == "response" && e.Request.Path == "tokens/oauth2/revoke" && isHashed(e.Response.Data["error"]) && e.Response.Data["http_status_code"] == 400.0
	}) == nil {
		s.T.Error("no audit entry shows a refused revocation")
	}
}

// testOAuth2Fault makes a record unreadable, which is nobody's mistake and no answer.
func (s *session) testOAuth2Fault() {
	s.T.Helper()
	token := s.Issue("bearer", nil)
	key := s.findRaw("sys/raw/logical/", token.Data.TokenID)
	s.Must("PUT", "sys/raw/"+key, fields{"value": "{"})
	if _, err := s.Root().Must(s.Ctx, "PUT", "sys/plugins/reload/backend", fields{"plugin": vaulttest.PluginName}); err != nil {
		s.T.Fatal(err) // drops what the plugin has in memory
	}
	resp, raw := s.post("introspect", s.API, "application/x-www-form-urlencoded", "token="+token.Data.Token)
	var answer map[string]any
	suite.Decode(s.T, []byte(raw), &answer)
	if resp.StatusCode != 503 || resp.Header.Get("Retry-After") != "5" || answer["error"] != "temporarily_unavailable" || answer["active"] != nil {
		s.T.Errorf("%d, Retry-After %q, %s", resp.StatusCode, resp.Header.Get("Retry-After"), raw)
	}
	batch := s.introspectBatch(fields{"token": token.Data.Token}, fields{"token": "x"})
	if batch[0]["error"] == nil || batch[0]["active"] != nil || batch[1]["active"] != false {
		s.T.Errorf("in a batch: %v", batch)
	}
	s.form("revoke", s.App, "token="+token.Data.Token, 503)
}

// findRaw is the key in Vault's storage that ends with a name.
func (s *session) findRaw(folder, name string) string {
	s.T.Helper()
	resp, err := s.Root().Do(s.Ctx, "LIST", folder, nil)
	if err != nil {
		s.T.Fatal(err)
	}
	keys, _ := resp.Data()["keys"].([]any)
	for _, key := range keys {
		switch path := folder + key.(string); {
		case strings.HasSuffix(path, name):
			return strings.TrimPrefix(path, "sys/raw/")
		case strings.HasSuffix(path, "/"):
			if found := s.findRaw(path, name); found != "" {
				return found
			}
		}
	}
	return ""
}

// introspectBatch asks as the API.
func (s *session) introspectBatch(items ...fields) []map[string]any {
	s.T.Helper()
	resp, err := s.Client(s.API).Must(s.Ctx, "POST", s.Mount+"/introspect", fields{"batch_input": items})
	if err != nil {
		s.T.Fatal(err)
	}
	var body struct {
		Data struct {
			Results []map[string]any `json:"batch_results"`
		} `json:"data"`
	}
	suite.Decode(s.T, resp.Raw, &body)
	if len(body.Data.Results) != len(items) || len(resp.Data()) != 1 {
		s.T.Fatalf("%d results of %d items: %s", len(body.Data.Results), len(items), clip(string(resp.Raw)))
	}
	return body.Data.Results
}

// TestBatchIsAudited asks about tokens of all kinds at once, beside mistakes, and
// reads what the audit log shows of each.
func TestBatchIsAudited(t *testing.T) {
	s := own(t, 2*time.Minute, vaulttest.Options{Audit: true})
	s.SetUpAudit()
	var items []fields
	var want []map[string]any // in clear in the log
	for _, k := range vaulttest.TokenTypes {
		s.Role(k.Name, k.RoleBody())
		d := s.Issue(k.Name, nil).Data
		items = append(items,
			fields{"token": d.Token, "client_ip": "192.0.2.7", "reference": "live " + k.Name},
			fields{"token": d.Token, "audience": "other"},
			fields{"token": d.Token, "client_ip": d.Token},
			fields{"token": d.Token[:len(d.Token)-1]},
		)
		want = append(want,
			map[string]any{"active": true, "token_id": d.TokenID, "role": k.Name, "token_type": k.Name, "scope": d.Scope},
			map[string]any{"active": false, "token_id": d.TokenID, "role": k.Name, "audience_failed": true},
			map[string]any{},
			map[string]any{"active": false},
		)
	}
	results := s.introspectBatch(items...)
	entry := findEntry(readAudit(t, s.AuditFile), func(e auditEntry) bool {
		return e.Type == "response" && e.Request.Path == "tokens/introspect"
	})
	if entry == nil {
		t.Fatal("no audit entry shows the batch")
	}
	asked, answered := entry.Request.Data["batch_input"].([]any), entry.Response.Data["batch_results"].([]any)
	for i, result := range results {
		in, out := asked[i].(map[string]any), answered[i].(map[string]any)
		name := fmt.Sprint("item ", i)
		wantClear(t, name, out, want[i])
		wantHashed(t, name, in, "token")
		for _, field := range []string{"client_ip", "reference", "audience"} {
			if items[i][field] != nil {
				wantHashed(t, name, in, field)
			}
		}
		if problem, _ := result["error"].(string); (problem != "") != (len(want[i]) == 0) || problem != "" && (!strings.HasPrefix(problem, "client_ip: ") || !isHashed(out["error"]) || out["active"] != nil) {
			t.Errorf("%s: answered %v, audited %v", name, result, out)
		}
		if bytes.Contains([]byte(fmt.Sprint(result)), []byte(items[i]["token"].(string))) {
			t.Errorf("%s: the answer repeats the token", name)
		}
	}
	if !slices.ContainsFunc(results, func(r map[string]any) bool { return r["reference"] == "live jwt" }) {
		t.Error("no result has its reference")
	}
	if err := s.VerifyFiles(); err != nil {
		t.Error(err)
	}
}

// TestOAuth2ByLibrary has a library that others wrote (openid-client, on top of
// oauth4webapi) find the doors by discovery, ask and revoke.
func TestOAuth2ByLibrary(t *testing.T) {
	s := common(t, 2*time.Minute)
	n := startNode(t)
	ask := func(op, vaultToken, token string, parameters fields, result any) error {
		return n.call(s.Ctx, op, fields{"server": s.Issuer(s.Mount), "vaultToken": vaultToken, "token": token, "parameters": parameters}, result)
	}
	for _, k := range vaulttest.TokenTypes {
		role := "library-" + k.Name
		s.Role(role, k.RoleBody())
		d := s.Issue(role, nil).Data
		introspect := func(parameters fields) (body map[string]any) {
			t.Helper()
			if err := ask("introspect", s.API, d.Token, parameters, &body); err != nil {
				t.Fatalf("%s: %v", k.Name, err)
			}
			return body
		}
		if body := introspect(fields{"token_type_hint": "access_token"}); body["active"] != true || body["jti"] != d.TokenID || body["scope"] != d.Scope {
			t.Errorf("%s: the library reads %v", k.Name, body)
		}
		inactive := map[string]any{"active": false}
		if body := introspect(fields{"audience": "https://other.example.com"}); !reflect.DeepEqual(body, inactive) {
			t.Errorf("%s, for another API: the library reads %v", k.Name, body)
		}
		var refused *nodeError
		if err := ask("introspect", s.API, "", nil, nil); !errors.As(err, &refused) {
			t.Errorf("%s, without a token: %v", k.Name, err)
		}
		if err := ask("revoke", s.API, d.Token, nil, nil); !errors.As(err, &refused) {
			t.Errorf("%s, revoked without a policy: %v", k.Name, err)
		}
		for range 2 {
			if err := ask("revoke", s.App, d.Token, nil, nil); err != nil {
				t.Errorf("%s: %v", k.Name, err)
			}
		}
		if body := introspect(nil); !reflect.DeepEqual(body, inactive) {
			t.Errorf("%s, revoked: the library reads %v", k.Name, body)
		}
	}
}
