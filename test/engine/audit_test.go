package engine

import (
	"bufio"
	"context"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/vault-tokens/vault-plugin-secrets-tokens/test/suite"
	"github.com/vault-tokens/vault-plugin-secrets-tokens/test/vaulttest"
)

// auditEntry is a line of Vault's audit log, as far as the tests read it.
type auditEntry struct {
	Type    string `json:"type"` // request or response
	Error   string `json:"error"`
	Request struct {
		Operation string         `json:"operation"`
		Path      string         `json:"path"`
		Data      map[string]any `json:"data"`
	} `json:"request"`
	Response struct {
		Data map[string]any `json:"data"`
	} `json:"response"`
}

// TestAudit makes full use of the engine on a server that scripts/setup-audit.sh
// has set up, and reads what was written: the facts in clear, and no secret.
// Other tests hold their servers' audit files and logs to the latter as well.
func TestAudit(t *testing.T) {
	s := own(t, 2*time.Minute, vaulttest.Options{LogLevel: "trace"})
	raw := filepath.Join(t.TempDir(), "raw.log")
	s.Must("PUT", "sys/audit/raw", fields{"type": "file", "options": fields{"file_path": raw, "log_raw": "true"}})
	s.SetUpAudit()
	s.SetUpAudit() // may be run again

	used := s.useEverything()

	entries := readAudit(t, s.AuditFile)
	for _, token := range used {
		checkAuditOf(t, entries, token)
	}
	checkAuditedChecks(t, entries)

	// The control: the same search in a log with nothing hidden finds them all.
	found, err := s.Secrets.Find(raw)
	if err != nil {
		t.Fatal(err)
	}
	for _, token := range used {
		if !slices.ContainsFunc(found, func(f string) bool { return strings.Contains(f, token.Data.TokenID) }) {
			t.Errorf("the search does not find %s where it stands in clear, so it proves nothing", token.Data.TokenID)
		}
	}
	if err := s.VerifyFiles(); err != nil {
		t.Error(err)
	}
	s.checkLog(used)
	t.Logf("%d secrets looked for in %d audit entries and the server's log", s.Secrets.Len(), len(entries))
}

// useEverything drives every path of the engine, the refusals included, and
// returns one token of each kind that was narrowed, renewed and revoked.
func (s *session) useEverything() []*issued {
	s.T.Helper()
	s.Must("GET", "tokens/config", nil)
	s.Must("POST", "tokens/keys/signing", fields{"algorithm": "EdDSA"})
	s.Must("GET", "tokens/keys/signing", nil)
	s.Must("LIST", "tokens/keys", nil)
	s.Must("GET", "tokens/jwks", nil)
	var used []*issued
	for _, k := range vaulttest.TokenTypes {
		role := "audited-" + k.Name
		s.Role(role, k.RoleBody().With(fields{"bound_cidrs": "10.0.0.0/8"}))
		s.Must("GET", "tokens/roles/"+role, nil)
		s.Must("PATCH", "tokens/roles/"+role, fields{"max_ttl": "2h"})
		used = append(used, s.useToken(k, role)...)
		s.Must("LIST", "tokens/roles", nil)
		s.Must("DELETE", "tokens/roles/"+role, nil)
	}
	s.Must("DELETE", "tokens/keys/signing", nil)
	return used
}

func (s *session) useToken(k vaulttest.TokenType, role string) []*issued {
	s.T.Helper()
	ip := fields{"client_ip": "10.1.2.3"}
	var used []*issued
	for _, r := range vaulttest.Revokers {
		if r.Opaque && !k.Opaque {
			continue
		}
		token := s.Issue(role, fields{"scopes": "orders:read", "metadata": map[string]string{"job": "nightly"}})
		used = append(used, token)
		text := token.Data.Token
		if data := s.Introspect(text, ip); data["active"] != true {
			s.T.Fatalf("%s is inactive: %v", role, data)
		}
		s.Introspect(text, fields{"client_ip": "192.0.2.1", "required_scopes": "admin", "audience": "https://other.example.com"})
		s.Introspect(text[:len(text)-1], nil)
		if k.Renewable {
			s.Must("PUT", "sys/leases/renew", fields{"lease_id": token.LeaseID})
			s.Must("GET", "tokens/tokens/"+token.Data.TokenID, nil)
			s.Must("LIST", "tokens/tokens", nil)
		}
		s.misplace(token)
		for range 2 {
			if err := r.Revoke(s.Ctx, s.Deployment, token); err != nil {
				s.T.Fatal(err)
			}
			s.WantInactive(text)
		}
	}
	short := s.Issue(role, fields{"ttl": "1s"})
	err := suite.Poll(s.Ctx, 20*time.Second, func() (bool, error) { // Vault ends the lease by itself
		resp, err := s.Root().Do(s.Ctx, "PUT", "sys/leases/lookup", fields{"lease_id": short.LeaseID})
		return err == nil && resp.Status == http.StatusBadRequest, err
	})
	if err != nil {
		s.T.Fatalf("the lease of a 1 s token stays: %v", err)
	}
	return append(used, short)
}

// misplace makes the mistakes of callers who put a token where it does not
// belong. None of the answers may repeat it. (Vault itself writes URLs in clear,
// so a token in a path or a query cannot be hidden.)
func (s *session) misplace(token *issued) {
	s.T.Helper()
	text := token.Data.Token
	for _, mistake := range []struct {
		method, path string
		body         fields
	}{
		{"POST", "introspect", fields{"token": []string{text}}},
		{"POST", "introspect", fields{"token": fields{"value": text}}},
		{"POST", "introspect", fields{"token": text, "client_ip": text}},
		{"POST", "introspect", fields{"token": text, "required_scopes": text}},
		{"POST", "introspect", fields{"token": text, "audience": text}},
		{"POST", "introspect", fields{"token": text, "nonsense": text}},
		{"POST", "introspect", fields{"tokens": []string{text}}},
		{"POST", "introspect", fields{"batch_input": []fields{{"token": []string{text}}, {"token": text, "client_ip": text}, {"token": text, "nonsense": text}, {"token": text, "reference": text}}}},
		{"POST", "introspect", fields{"batch_input": []string{text}}},
		{"POST", "introspect", fields{"batch_input": []fields{{"token": text}}, "token": text}},
		{"POST", "oauth2/introspect", fields{"token": []string{text}}},
		{"POST", "oauth2/introspect", fields{"token": text + "," + text}},
		{"POST", "oauth2/introspect", fields{"token": text, "required_scopes": text + "*", "client_ip": text}},
		{"POST", "oauth2/revoke", fields{"token": text + "," + text, "nonsense": text}},
		{"POST", "revoke", fields{"token": []string{text}}},
		{"POST", "revoke", fields{"token_id": text}},
		{"POST", "creds/" + token.Data.Role, fields{"audience": text}},
		{"POST", "creds/" + token.Data.Role, fields{"metadata": text}},
	} {
		resp, err := s.Root().Do(s.Ctx, mistake.method, "tokens/"+mistake.path, mistake.body)
		if err != nil {
			s.T.Fatal(err)
		}
		if strings.Contains(string(resp.Raw), text) {
			s.T.Errorf("%s %s answers with the token that stood in the wrong place", mistake.method, strings.ReplaceAll(mistake.path, text, "[token]"))
		}
	}
}

func readAudit(t *testing.T, file string) []auditEntry {
	t.Helper()
	f, err := os.Open(file)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	var entries []auditEntry
	lines := bufio.NewScanner(f)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		var e auditEntry
		suite.Decode(t, lines.Bytes(), &e)
		entries = append(entries, e)
	}
	if err := lines.Err(); err != nil {
		t.Fatal(err)
	}
	return entries
}

const hashed = "hmac-sha256:"

// checkAuditOf looks for the entries of one token: its issue, its introspection
// while it was active, and its end.
func checkAuditOf(t *testing.T, entries []auditEntry, token *issued) {
	t.Helper()
	d := token.Data
	issue := findEntry(entries, func(e auditEntry) bool {
		return e.Type == "response" && e.Request.Path == "tokens/creds/"+d.Role && e.Response.Data["token_id"] == d.TokenID
	})
	if issue == nil {
		t.Errorf("no audit entry shows the issue of %s %s", d.TokenType, d.TokenID)
		return
	}
	wantClear(t, "issue", issue.Response.Data, map[string]any{
		"token_type": d.TokenType, "role": d.Role, "scope": d.Scope, "issued_at": d.IssuedAt, "expires_at": d.ExpiresAt,
		"expires_in": float64(d.ExpiresIn), "audience": []any{vaulttest.Audiences[0], vaulttest.Audiences[1]},
	})
	wantHashed(t, "issue", issue.Response.Data, "token")
	if d.ExpiresIn < 5 {
		return // it was issued to expire, not to be used
	}
	active := findEntry(entries, func(e auditEntry) bool {
		return e.Type == "response" && e.Request.Path == "tokens/introspect" && e.Response.Data["active"] == true && e.Response.Data["token_id"] == d.TokenID
	})
	if active == nil {
		t.Errorf("no audit entry shows that %s %s was introspected and active", d.TokenType, d.TokenID)
		return
	}
	wantClear(t, "introspection", active.Response.Data, map[string]any{"token_type": d.TokenType, "role": d.Role, "scope": d.Scope})
	wantHashed(t, "introspection", active.Request.Data, "token", "client_ip")
}

// checkAuditedChecks looks for introspections of live tokens that failed all
// checks, of dead ones, and for refused requests.
func checkAuditedChecks(t *testing.T, entries []auditEntry) {
	t.Helper()
	for what, is := range map[string]func(e auditEntry) bool{
		"an introspection that failed every check": func(e auditEntry) bool {
			d := e.Response.Data
			return d["active"] == false && d["scope_failed"] == true && d["audience_failed"] == true && d["client_ip_failed"] == true && !isHashed(d["token_id"]) && d["token_id"] != nil
		},
		"an introspection of a dead token": func(e auditEntry) bool {
			return e.Request.Path == "tokens/introspect" && len(e.Response.Data) == 1 && e.Response.Data["active"] == false
		},
		"a revocation by possession": func(e auditEntry) bool { return e.Request.Path == "tokens/revoke" && isHashed(e.Request.Data["token"]) },
		"a deletion by id": func(e auditEntry) bool {
			return e.Request.Operation == "delete" && strings.HasPrefix(e.Request.Path, "tokens/tokens/")
		},
		"a written role with its token_type": func(e auditEntry) bool {
			return strings.HasPrefix(e.Request.Path, "tokens/roles/") && e.Request.Data["token_type"] == "bearer"
		},
		"a refusal with its reason": func(e auditEntry) bool { return e.Response.Data["error"] != nil || e.Error != "" },
	} {
		if findEntry(entries, is) == nil {
			t.Errorf("no audit entry shows %s", what)
		}
	}
}

func findEntry(entries []auditEntry, is func(auditEntry) bool) *auditEntry {
	i := slices.IndexFunc(entries, is)
	if i < 0 {
		return nil
	}
	return &entries[i]
}

func isHashed(v any) bool {
	s, ok := v.(string)
	return ok && strings.HasPrefix(s, hashed)
}

func wantClear(t *testing.T, what string, data, want map[string]any) {
	t.Helper()
	for name, value := range want {
		if fmt.Sprint(data[name]) != fmt.Sprint(value) {
			t.Errorf("audit entry of %s: %s is %v, want %v in clear", what, name, data[name], value)
		}
	}
}

func wantHashed(t *testing.T, what string, data map[string]any, names ...string) {
	t.Helper()
	for _, name := range names {
		if !isHashed(data[name]) {
			t.Errorf("audit entry of %s: %s is not hashed", what, name)
		}
	}
}

// checkLog looks for one structured line of each thing that the plugin logs.
func (s *session) checkLog(used []*issued) {
	s.T.Helper()
	raw, err := os.ReadFile(s.LogFile)
	if err != nil {
		s.T.Fatal(err)
	}
	lines := strings.Split(string(raw), "\n")
	logged := func(parts ...string) bool {
		return slices.ContainsFunc(lines, func(line string) bool {
			return !slices.ContainsFunc(parts, func(part string) bool { return !strings.Contains(line, part) })
		})
	}
	for _, token := range used {
		id, role, kind := "token_id="+token.Data.TokenID, "role="+token.Data.Role, "token_type="+token.Data.TokenType
		end := "token revoked:"
		if token.Data.ExpiresIn < 5 {
			end = "token expired:"
		}
		events := []string{"token issued:", end}
		if token.Renewable && token.Data.ExpiresIn >= 5 {
			events = append(events, "token renewed:")
		}
		for _, event := range events {
			if !logged("[INFO]", event, id, role, kind) {
				s.T.Errorf("the log has no line %q of %s %s", event, token.Data.TokenType, token.Data.TokenID)
			}
		}
	}
	for _, parts := range [][]string{
		{"role written:", "role=audited-jwt", "token_type=jwt"},
		{"role deleted:", "role=audited-jwt"},
		{"key created:", "key=signing"},
		{"key deleted:", "key=signing"},
		{"request refused:", "field=client_ip"},
		{"configuration written:", "issuer="},
	} {
		if !logged(append(parts, "[INFO]")...) {
			s.T.Errorf("the log has no line with %q", parts)
		}
	}
	if !logged("[TRACE]") {
		s.T.Error("the log is not at trace level")
	}
}

// TestAuditHidesStringsBeforeTuning makes sure that the readable facts above
// are the work of the script.
func TestAuditHidesStringsBeforeTuning(t *testing.T) {
	s := common(t, time.Minute)
	s.Role("untuned", vaulttest.APIKey.RoleBody())
	token := s.Issue("untuned", nil)
	s.WantActive(token)
	var found *auditEntry
	err := suite.Poll(context.WithoutCancel(s.Ctx), 5*time.Second, func() (bool, error) {
		found = findEntry(readAudit(t, s.AuditFile), func(e auditEntry) bool {
			return e.Type == "response" && e.Request.Path == "tokens/creds/untuned"
		})
		return found != nil, nil
	})
	if err != nil {
		t.Fatal(err)
	}
	wantHashed(t, "issue", found.Response.Data, "token", "token_id", "role", "token_type")
}
