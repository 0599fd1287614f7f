package audit

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/vault-tokens/vault-plugin-secrets-tokens/internal/tokenwatch"
)

// recorded are entries that Vault 1.21 wrote.
func recorded(t testing.TB) [][]byte {
	t.Helper()
	raw, err := os.ReadFile("testdata/vault-1.21.log")
	if err != nil {
		t.Fatal(err)
	}
	return bytes.Split(bytes.TrimSpace(raw), []byte("\n"))
}

// reference is an entry as encoding/json reads it.
type reference struct {
	Type  string    `json:"type"`
	Time  time.Time `json:"time"`
	Error string    `json:"error"`
	Auth  struct {
		Accessor    string   `json:"accessor"`
		DisplayName string   `json:"display_name"`
		EntityID    string   `json:"entity_id"`
		Policies    []string `json:"policies"`
	} `json:"auth"`
	Request struct {
		ID            string         `json:"id"`
		Operation     string         `json:"operation"`
		MountPoint    string         `json:"mount_point"`
		MountType     string         `json:"mount_type"`
		Path          string         `json:"path"`
		RemoteAddress string         `json:"remote_address"`
		Data          map[string]any `json:"data"`
	} `json:"request"`
	Response struct {
		Data   map[string]any `json:"data"`
		Secret struct {
			LeaseID string `json:"lease_id"`
		} `json:"secret"`
	} `json:"response"`
}

func TestRecordedEntries(t *testing.T) {
	p := NewParser()
	kinds := make(map[tokenwatch.Kind]int)
	for _, line := range recorded(t) {
		var e tokenwatch.Event
		if err := p.Parse(line, &e); err != nil {
			t.Errorf("%v: %s", err, line)
			continue
		}
		kinds[e.Kind]++
		var want reference
		if err := json.Unmarshal(line, &want); err != nil {
			t.Fatal(err)
		}
		if e.Kind == tokenwatch.KindOtherMounts {
			continue
		}
		data := want.Response.Data
		text := func(key string) string { s, _ := data[key].(string); return s }
		same := map[string][2]any{
			"time":     {e.Time, want.Time},
			"phase":    {string(e.Phase), want.Type},
			"id":       {e.RequestID, want.Request.ID},
			"path":     {e.Path, want.Request.Path},
			"accessor": {e.Accessor, want.Auth.Accessor},
			"entity":   {e.EntityID, want.Auth.EntityID},
			"display":  {e.DisplayName, want.Auth.DisplayName},
			"address":  {e.RemoteAddress, want.Request.RemoteAddress},
			"error":    {e.Error, want.Error},
		}
		if e.Kind == tokenwatch.KindIntrospect || e.Kind == tokenwatch.KindIssue {
			if want.Response.Data != nil && !e.Failed() {
				same["token_id"] = [2]any{e.TokenID, text("token_id")}
				same["token_type"] = [2]any{e.TokenType, text("token_type")}
				same["lease_id"] = [2]any{e.LeaseID, want.Response.Secret.LeaseID}
			}
			active, known := data["active"].(bool)
			if known != (e.Active != nil) || known && active != *e.Active {
				t.Errorf("active of %s", line)
			}
			for name, got := range map[string]bool{"scope_failed": e.ScopeFailed, "audience_failed": e.AudienceFailed, "client_ip_failed": e.ClientIPFailed} {
				failed, _ := data[name].(bool)
				same[name] = [2]any{got, failed}
			}
		}
		for name, pair := range same {
			if pair[0] != pair[1] {
				t.Errorf("%s is %v, want %v, in %s", name, pair[0], pair[1], line)
			}
		}
	}
	for _, kind := range []tokenwatch.Kind{
		tokenwatch.KindIssue, tokenwatch.KindIntrospect, tokenwatch.KindRevoke, tokenwatch.KindTokenRead, tokenwatch.KindRoleWrite, tokenwatch.KindRoleRead, tokenwatch.KindRoleDelete, tokenwatch.KindRoleRevoke, tokenwatch.KindEntityRevoke, tokenwatch.KindTidy, tokenwatch.KindTidyCancel, tokenwatch.KindConfigWrite, tokenwatch.KindConfigRead,
		tokenwatch.KindKeyWrite, tokenwatch.KindKeyRead, tokenwatch.KindKeyRotate, tokenwatch.KindKeyEmergency, tokenwatch.KindKeyDelete, tokenwatch.KindPublicRead,
		tokenwatch.KindLeaseRenew, tokenwatch.KindLeaseRevoke, tokenwatch.KindLeasePrefix, tokenwatch.KindAuditDisable, tokenwatch.KindAuditEnable, tokenwatch.KindMountTune, tokenwatch.KindMountDisable, tokenwatch.KindOtherMounts,
	} {
		if kinds[kind] == 0 {
			t.Errorf("no recorded entry is of kind %s", kind)
		}
	}
}

// Kill switches and tidying, as a real Vault recorded them.
func TestRecordedOperators(t *testing.T) {
	for path, want := range map[string]tokenwatch.Event{
		"roles/watched-api_key/revoke":                         {Kind: tokenwatch.KindRoleRevoke, Name: "watched-api_key", Role: "watched-api_key", StatusLists: 1, DisplayName: "userpass-operator"},
		"roles/bound/revoke":                                   {Kind: tokenwatch.KindRoleRevoke, Name: "bound", Role: "bound", Denied: true, DisplayName: "userpass-outsider"},
		"entities/e5c18e47-57ed-69fa-b130-53bb303f2b76/revoke": {Kind: tokenwatch.KindEntityRevoke, Name: "e5c18e47-57ed-69fa-b130-53bb303f2b76", DisplayName: "userpass-operator"},
		"entities/a@b/revoke":                                  {Kind: tokenwatch.KindEntityRevoke, Name: "a@b", Invalid: true, DisplayName: "userpass-operator"},
		"entities/e5c18e47-57ed-69fa-b130-53bb303f2b76":        {Kind: tokenwatch.KindOther, Name: "e5c18e47-57ed-69fa-b130-53bb303f2b76", DisplayName: "userpass-operator"},
		"tidy":        {Kind: tokenwatch.KindTidy, DisplayName: "userpass-operator"},
		"tidy/cancel": {Kind: tokenwatch.KindTidyCancel, Name: "cancel", DisplayName: "userpass-operator"},
		"tidy/status": {Kind: tokenwatch.KindOther, Name: "status", DisplayName: "userpass-operator"},
	} {
		seen := 0
		for _, e := range eventsOf(t, path) {
			if e.Phase != tokenwatch.PhaseResponse || e.Kind == tokenwatch.KindOtherMounts {
				continue
			}
			seen++
			got := tokenwatch.Event{Kind: e.Kind, Name: e.Name, Role: e.Role, StatusLists: e.StatusLists, Denied: e.Denied, Invalid: e.Invalid, DisplayName: e.DisplayName}
			if got != want {
				t.Errorf("%s: %+v, want %+v", path, got, want)
			}
		}
		if seen != 1 {
			t.Errorf("%s: %d events", path, seen)
		}
	}
	// What a list says of its tokens is not about the request.
	var listed int
	for _, e := range eventsOf(t, "tokens/") {
		if e.Operation != "list" {
			continue
		}
		listed++
		if e.Kind != tokenwatch.KindTokenRead || e.TokenID != "" || e.Role != "" || e.TokenType != "" || e.Failed() {
			t.Errorf("%+v", e)
		}
	}
	if listed != 2 {
		t.Errorf("%d lists", listed)
	}
}

// entry is the shortest that Parse accepts, with parts put in.
func entry(requestPart, rest string) []byte {
	return []byte(`{"request":{"id":"r1","mount_point":"tokens/","mount_type":"vault-plugin-secrets-tokens",` + requestPart + `},` + rest + `"time":"2026-01-02T03:04:05.678Z","type":"response"}`)
}

func TestParse(t *testing.T) {
	for name, test := range map[string]struct {
		line []byte
		ok   func(e *tokenwatch.Event) bool
	}{
		"issue": {entry(`"operation":"read","path":"tokens/creds/a/b"`, `"response":{"data":{"expires_in":60,"token":"hmac-sha256:ab"}},`), func(e *tokenwatch.Event) bool {
			return e.Kind == tokenwatch.KindIssue && e.Role == "a/b" && e.TokenHash == "hmac-sha256:ab" && e.Expires.Equal(time.Date(2026, 1, 2, 3, 5, 5, 0, time.UTC))
		}},
		"a token in clear": {entry(`"data":{"token":"vtk_secret"},"operation":"update","path":"tokens/introspect"`, ""), func(e *tokenwatch.Event) bool {
			return strings.HasPrefix(e.TokenHash, tokenwatch.HashPrefix) && !strings.Contains(fmt.Sprint(*e), "secret") && len(e.TokenHash) == len(tokenwatch.HashPrefix)+64
		}},
		"a mount with slashes": {bytes.ReplaceAll(entry(`"operation":"read","path":"tokens/creds/x"`, ""), []byte("tokens/"), []byte("team/a/")), func(e *tokenwatch.Event) bool {
			return e.Kind == tokenwatch.KindIssue && e.Mount == "team/a/" && e.Role == "x"
		}},
		"namespace": {entry(`"namespace":{"id":"x","path":"ns/"},"operation":"read","path":"ns/tokens/creds/x"`, ""), func(e *tokenwatch.Event) bool {
			return e.Kind == tokenwatch.KindIssue && e.Namespace == "ns" && e.Role == "x"
		}},
		"namespace not in path": {entry(`"namespace":{"id":"x","path":"ns/"},"operation":"read","path":"tokens/creds/x"`, ""), func(e *tokenwatch.Event) bool {
			return e.Kind == tokenwatch.KindIssue && e.Namespace == "ns"
		}},
		"forwarded": {entry(`"operation":"read","path":"tokens/creds/x"`, `"forwarded_from":"node2:8201",`), func(e *tokenwatch.Event) bool { return e.ForwardedFrom == "node2:8201" }},
		"granting_policies begins with an empty object": {entry(`"operation":"read","path":"tokens/creds/x"`, `"auth":{"policies":["root"],"policy_results":{"granting_policies":[{},{"type":""},{"name":"root"}]}},`), func(e *tokenwatch.Event) bool { return e.Root }},
		"denied":                {entry(`"operation":"read","path":"tokens/creds/x"`, `"error":"1 error occurred:\n\t* permission denied\n\n",`), func(e *tokenwatch.Event) bool { return e.Denied && !e.Invalid }},
		"refused by the engine": {entry(`"operation":"read","path":"tokens/creds/x"`, `"response":{"data":{"error":"hmac-sha256:00"}},`), func(e *tokenwatch.Event) bool { return e.Invalid && !e.Denied }},
		"role with comma list and durations": {entry(`"data":{"allowed_scopes":"a, b,","max_ttl":"30d","ttl":90,"max_tokens":null},"operation":"update","path":"tokens/roles/x"`, ""), func(e *tokenwatch.Event) bool {
			s := e.Settings
			return e.Kind == tokenwatch.KindRoleWrite && len(s.AllowedScopes) == 2 && s.AllowedScopes[1] == "b" && *s.MaxTTL == 720*time.Hour && *s.TTL == 90*time.Second && *s.MaxTokens == 0
		}},
		"hashed settings": {entry(`"data":{"allowed_scopes":["hmac-sha256:1"],"max_ttl":"hmac-sha256:2"},"operation":"update","path":"tokens/roles/x"`, ""), func(e *tokenwatch.Event) bool {
			return e.Settings.MaxTTL == nil && len(e.Settings.AllowedScopes) == 1
		}},
		"no such path":  {entry(`"operation":"update","path":"tokens/oauth2/token"`, ""), func(e *tokenwatch.Event) bool { return e.Kind == tokenwatch.KindOther }},
		"a status list": {entry(`"operation":"read","path":"tokens/status/x"`, ""), func(e *tokenwatch.Event) bool { return e.Kind == tokenwatch.KindPublicRead }},
		"figures":       {entry(`"operation":"read","path":"tokens/status"`, ""), func(e *tokenwatch.Event) bool { return e.Kind == tokenwatch.KindOther }},
		"kill switch of a role": {entry(`"operation":"update","path":"tokens/roles/x/revoke"`, `"response":{"data":{"revoked_at":"hmac-sha256:1","status_lists":3,"tokens":7}},`), func(e *tokenwatch.Event) bool {
			return e.Kind == tokenwatch.KindRoleRevoke && e.Role == "x" && e.Name == "x" && e.StatusLists == 3 && !e.Failed()
		}},
		"kill switch of an entity": {entry(`"operation":"update","path":"tokens/entities/1-2/revoke"`, ""), func(e *tokenwatch.Event) bool {
			return e.Kind == tokenwatch.KindEntityRevoke && e.Name == "1-2" && e.Role == "" && e.EntityID == ""
		}},
		"an entity":       {entry(`"operation":"read","path":"tokens/entities/1-2"`, ""), func(e *tokenwatch.Event) bool { return e.Kind == tokenwatch.KindOther }},
		"no kill switch":  {entry(`"operation":"read","path":"tokens/roles/x/revoke"`, ""), func(e *tokenwatch.Event) bool { return e.Kind == tokenwatch.KindRoleRead }},
		"no such role":    {entry(`"operation":"update","path":"tokens/roles/x/y/revoke"`, ""), func(e *tokenwatch.Event) bool { return e.Kind == tokenwatch.KindRoleWrite && e.Role == "x/y/revoke" }},
		"no role":         {entry(`"operation":"update","path":"tokens/roles//revoke"`, ""), func(e *tokenwatch.Event) bool { return e.Kind == tokenwatch.KindRoleWrite }},
		"a role's lists":  {entry(`"operation":"read","path":"tokens/roles/x"`, `"response":{"data":{"status_lists":3}},`), func(e *tokenwatch.Event) bool { return e.Kind == tokenwatch.KindRoleRead && e.StatusLists == 0 }},
		"tidy":            {entry(`"operation":"update","path":"tokens/tidy"`, ""), func(e *tokenwatch.Event) bool { return e.Kind == tokenwatch.KindTidy }},
		"tidy/cancel":     {entry(`"operation":"update","path":"tokens/tidy/cancel"`, ""), func(e *tokenwatch.Event) bool { return e.Kind == tokenwatch.KindTidyCancel }},
		"tidy/status":     {entry(`"operation":"read","path":"tokens/tidy/status"`, ""), func(e *tokenwatch.Event) bool { return e.Kind == tokenwatch.KindOther }},
		"emergency path":  {entry(`"operation":"update","path":"tokens/keys/k/rotate-emergency"`, ""), func(e *tokenwatch.Event) bool { return e.Kind == tokenwatch.KindKeyEmergency && e.Name == "k" }},
		"emergency flag":  {entry(`"data":{"emergency":true},"operation":"update","path":"tokens/keys/k/rotate"`, ""), func(e *tokenwatch.Event) bool { return e.Kind == tokenwatch.KindKeyEmergency && e.Name == "k" }},
		"escaped strings": {entry(`"operation":"read","path":"tokens/creds/\u0061\"\\"`, ""), func(e *tokenwatch.Event) bool { return e.Role == `a"\` }},
		"white space":     {[]byte(" {\t\"type\" : \"response\" , \"time\":\"2026-01-01T00:00:00+01:00\" , \"request\" : { } , \"x\" : [ ] } \r"), func(e *tokenwatch.Event) bool { return e.Time.Hour() == 23 }},
		"lease in the path": {[]byte(`{"request":{"mount_type":"system","mount_point":"sys/","operation":"update","path":"sys/leases/revoke/tokens/creds/x/abc"},"time":"2026-01-01T00:00:00Z","type":"response"}`), func(e *tokenwatch.Event) bool {
			return e.Kind == tokenwatch.KindLeaseRevoke && e.LeaseID == "tokens/creds/x/abc"
		}},
		"lease in the body": {[]byte(`{"request":{"data":{"lease_id":"hmac-sha256:1"},"mount_type":"system","mount_point":"sys/","operation":"update","path":"sys/leases/revoke"},"time":"2026-01-01T00:00:00Z","type":"response"}`), func(e *tokenwatch.Event) bool {
			return e.Kind == tokenwatch.KindLeaseRevoke && e.LeaseHash == "hmac-sha256:1" && e.LeaseID == ""
		}},
		"audit device": {[]byte(`{"request":{"mount_type":"system","mount_point":"sys/","operation":"delete","path":"sys/audit/file"},"time":"2026-01-01T00:00:00Z","type":"request"}`), func(e *tokenwatch.Event) bool {
			return e.Kind == tokenwatch.KindAuditDisable && e.Name == "file"
		}},
		"null auth": {entry(`"operation":"read","path":"tokens/creds/x"`, `"auth":null,`), func(e *tokenwatch.Event) bool { return e.Kind == tokenwatch.KindIssue }},
		"deep data": {entry(`"data":{"x":`+strings.Repeat("[", 100)+strings.Repeat("]", 100)+`},"operation":"read","path":"tokens/creds/x"`, ""), func(e *tokenwatch.Event) bool { return e.Kind == tokenwatch.KindIssue }},
	} {
		var e tokenwatch.Event
		if err := NewParser().Parse(test.line, &e); err != nil {
			t.Errorf("%s: %v: %s", name, err, test.line)
		} else if !test.ok(&e) {
			t.Errorf("%s: %+v", name, e)
		}
	}
}

func TestMalformed(t *testing.T) {
	whole := string(recorded(t)[0])
	lines := []string{
		"", "x", "{", "{}", "[]", "null", `""`, "\x00", strings.Repeat("[", 1<<20), `{"type":"response"}`, `{"type":"request","time":"2026-01-01T00:00:00Z"`,
		`{"type":"other","time":"2026-01-01T00:00:00Z"}`, `{"type":"response","time":"yesterday"}`,
		`{"time":"2026-01-01T00:00:00Z","type":"response"} {}`,
		`{"a":` + strings.Repeat(`{"a":`, 1000) + `1` + strings.Repeat("}", 1000) + `,"time":"2026-01-01T00:00:00Z","type":"response"}`,
		// Two entries, the first of which was cut off by a crash: the second must
		// not make them look like one.
		whole[:len(whole)/2] + whole,
		whole[:len(whole)/2] + `{"request":{"path":"x"},"time":"2026-01-01T00:00:00Z","type":"request"}`,
	}
	for i := range len(whole) {
		lines = append(lines, whole[:i])
	}
	p := NewParser()
	for _, line := range lines {
		var e tokenwatch.Event
		if err := p.Parse([]byte(line), &e); err == nil {
			t.Errorf("accepted: %.200s", line)
		}
	}
}

func TestInterner(t *testing.T) {
	var in interner
	for i := range 100_000 { // far more than there are places
		want := fmt.Sprint("name", i%7000)
		if got := in.get([]byte(want)); got != want {
			t.Fatalf("%q for %q", got, want)
		}
	}
	long := strings.Repeat("x", maxInternedLength+1)
	if in.get([]byte(long)) != long || in.get(nil) != "" {
		t.Error("long or empty strings")
	}
	b := []byte("changes later")
	kept := in.get(b)
	b[0] = 'X'
	if kept != "changes later" {
		t.Error("the string is a part of the line")
	}
}

// FuzzParse holds Parse against encoding/json: what that takes for an entry is
// read in the same way, and nothing makes Parse fail badly.
func FuzzParse(f *testing.F) {
	for _, line := range recorded(f) {
		f.Add(line)
	}
	f.Add([]byte(`{"time":"2026-01-01T00:00:00Z","type":"request"}`))
	f.Fuzz(func(t *testing.T, line []byte) {
		var e tokenwatch.Event
		err := NewParser().Parse(line, &e)
		var want reference
		if json.Unmarshal(line, &want) != nil || ambiguous(line) {
			return
		}
		if want.Time.IsZero() || want.Type != "request" && want.Type != "response" {
			return // whether it is one depends on letter case and the like
		}
		if err != nil {
			if err == errTooDeep {
				return
			}
			t.Fatalf("%v: %s", err, line)
		}
		if !e.Time.Equal(want.Time) || string(e.Phase) != want.Type {
			t.Errorf("time or type of %s", line)
		}
		if e.Kind != tokenwatch.KindOtherMounts && (e.Path != want.Request.Path || e.RequestID != want.Request.ID || e.RemoteAddress != want.Request.RemoteAddress || e.EntityID != want.Auth.EntityID || e.Error != want.Error) {
			t.Errorf("%+v\nof %s", e, line)
		}
	})
}

// ambiguous says that encoding/json and Parse may differ rightly: keys that are
// written twice, with escapes, or in other letter case, and invalid UTF-8.
func ambiguous(line []byte) bool {
	if bytes.ContainsRune(line, '\uFFFD') || !json.Valid(line) || bytes.Contains(line, []byte(`\u`)) || strings.ToValidUTF8(string(line), "") != string(line) {
		return true
	}
	for _, key := range []string{"type", "time", "error", "auth", "request", "response", "entity_id", "id", "path", "remote_address"} {
		lower := bytes.ToLower(line)
		quoted := []byte(`"` + key + `"`)
		if bytes.Count(lower, quoted) != bytes.Count(line, quoted) || key != "id" && key != "path" && key != "error" && bytes.Count(line, quoted) > 1 {
			return true
		}
	}
	return bytes.Count(line, []byte(`"path"`)) > 1 || bytes.Count(line, []byte(`"id"`)) > 2 || bytes.Count(line, []byte(`"error"`)) > 1
}

func BenchmarkParse(b *testing.B) {
	lines := recorded(b)
	size := 0
	for _, line := range lines {
		size += len(line)
	}
	b.SetBytes(int64(size / len(lines)))
	b.ReportAllocs()
	p := NewParser()
	var e tokenwatch.Event
	for i := 0; b.Loop(); i++ {
		if err := p.Parse(lines[i%len(lines)], &e); err != nil {
			b.Fatal(err)
		}
	}
}
