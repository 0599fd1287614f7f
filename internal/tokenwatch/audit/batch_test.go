package audit

import (
	"bytes"
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"github.com/vault-tokens/vault-plugin-secrets-tokens/internal/tokenwatch"
)

// eventsOf reads all recorded entries whose path ends so.
func eventsOf(t *testing.T, path string) []tokenwatch.Event {
	t.Helper()
	p := NewParser()
	var events []tokenwatch.Event
	for _, line := range recorded(t) {
		if !bytes.Contains(line, []byte(`"path":"tokens/`+path+`"`)) {
			continue
		}
		var err error
		if events, err = p.Append(events, line); err != nil {
			t.Fatal(err)
		}
	}
	return events
}

// Each item of a recorded batch is an introspection of its own.
func TestRecordedBatch(t *testing.T) {
	var items []tokenwatch.Event
	for _, e := range eventsOf(t, "introspect") {
		if e.Item > 0 {
			items = append(items, e)
		}
	}
	want := []struct {
		outcome       tokenwatch.Outcome
		role          string
		token, client bool
	}{
		{tokenwatch.OutcomeActive, "api_key", true, true},
		{tokenwatch.OutcomeCheckFailed, "jwt", true, true},
		{tokenwatch.OutcomeInactive, "", true, false},
		{tokenwatch.OutcomeInvalid, "", true, false},  // an unknown field
		{tokenwatch.OutcomeInvalid, "", false, false}, // a batch in a batch
		{tokenwatch.OutcomeActive, "api_key", true, false},
	}
	if len(items) != len(want) {
		t.Fatalf("%d items, want %d", len(items), len(want))
	}
	hashes := map[string]bool{}
	for i, w := range want {
		e := items[i]
		if e.Kind != tokenwatch.KindIntrospect || e.Item != i+1 || e.RequestID != items[0].RequestID || e.Time.IsZero() || e.DisplayName == "" {
			t.Errorf("item %d: %+v", i, e)
		}
		if e.Outcome() != w.outcome || e.Role != w.role || (e.TokenID != "") != (w.role != "") || (e.TokenHash != "") != w.token || (e.ClientIP != "") != w.client {
			t.Errorf("item %d: %s %+v, want %+v", i, e.Outcome(), e, w)
		}
		if (w.outcome == tokenwatch.OutcomeActive) == e.Expires.IsZero() {
			t.Errorf("item %d: expires %v", i, e.Expires)
		}
		hashes[e.TokenHash] = true
	}
	if len(hashes) != 5 { // items 4 and 6 present one token, item 5 none
		t.Errorf("%d different tokens", len(hashes))
	}
}

// Behind a raw body, what the audit log shows beside it is read.
func TestRecordedOAuth2(t *testing.T) {
	var outcomes []tokenwatch.Outcome
	for _, e := range eventsOf(t, "oauth2/introspect") {
		if e.Phase != tokenwatch.PhaseResponse {
			continue
		}
		if e.Kind != tokenwatch.KindIntrospect || e.Item != 0 || e.Name != "" {
			t.Errorf("%+v", e)
		}
		if live := e.Outcome() == tokenwatch.OutcomeActive || e.Outcome() == tokenwatch.OutcomeCheckFailed; live != (e.TokenID != "" && e.Role == "api_key" && e.TokenHash != "") {
			t.Errorf("%+v", e)
		}
		outcomes = append(outcomes, e.Outcome())
	}
	if got := fmt.Sprint(outcomes); got != "[active check_failed inactive invalid]" {
		t.Errorf("introspections: %s", got)
	}
	var revoked []string
	for _, e := range eventsOf(t, "oauth2/revoke") {
		if e.Phase == tokenwatch.PhaseResponse && e.Kind == tokenwatch.KindRevoke && e.TokenHash != "" && !e.Failed() {
			revoked = append(revoked, e.Role)
		}
	}
	if len(revoked) != 2 || revoked[0] != "api_key" || revoked[1] != "" {
		t.Errorf("revocations of roles %q, want one of api_key and one of nothing", revoked)
	}
}

func batchEntry(input, results string) []byte {
	return entry(`"data":{"batch_input":`+input+`},"operation":"update","path":"tokens/introspect"`, `"response":{"data":{"batch_results":`+results+`}},`)
}

func TestBatch(t *testing.T) {
	many := func(n int) string { return "[" + strings.Repeat(`{"active":false},`, n-1) + `{"active":true}]` }
	for name, test := range map[string]struct {
		line   []byte
		events int // -1: an error
	}{
		"none answered":             {batchEntry(`[]`, `[]`), 1},
		"no list":                   {batchEntry(`[]`, `{}`), -1},
		"more answers":              {batchEntry(`[{"token":"hmac-sha256:1"}]`, `[{"active":true},{"active":true},7]`), 3},
		"more questions":            {batchEntry(`[{},{},{"token":"hmac-sha256:1"}]`, `[{"active":true}]`), 1},
		"questions that are none":   {batchEntry(`[7,"x",null]`, many(3)), 3},
		"no questions":              {batchEntry(`"hmac-sha256:1"`, many(3)), 3},
		"as many as there may be":   {batchEntry(`[]`, many(1000)), 1000},
		"more than there may be":    {batchEntry(`[]`, many(1001)), -1},
		"batches in a batch":        {batchEntry(`[{"batch_input":[{},{}]}]`, `[{"batch_results":[{},{}],"active":false}]`), 1},
		"refused as a whole":        {entry(`"data":{"batch_input":[{},{}]},"operation":"update","path":"tokens/introspect"`, `"response":{"data":{"error":"hmac-sha256:1"}},`), 1},
		"a batch of something else": {entry(`"data":{"batch_input":[{},{}]},"operation":"update","path":"tokens/revoke"`, `"response":{"data":{"batch_results":[{},{}]}},`), 1},
	} {
		before := []tokenwatch.Event{{RequestID: "before"}}
		events, err := NewParser().Append(before, test.line)
		if (err != nil) != (test.events < 0) || len(events) != 1+max(test.events, 0) || events[0].RequestID != "before" {
			t.Errorf("%s: %d events, %v", name, len(events)-1, err)
		}
	}
}

// A parser goes on after a batch as if there had been none.
func TestAppendAfterBatch(t *testing.T) {
	p := NewParser()
	events, err := p.Append(nil, batchEntry(`[{"token":"hmac-sha256:1","client_ip":"hmac-sha256:2"}]`, `[{"active":true,"role":"a","scope_failed":true}]`))
	if err != nil || len(events) != 1 || events[0].TokenHash == "" {
		t.Fatalf("%+v, %v", events, err)
	}
	events, err = p.Append(events[:0], entry(`"data":{},"operation":"update","path":"tokens/introspect"`, `"response":{"data":{"active":false}},`))
	if err != nil || len(events) != 1 {
		t.Fatal(err)
	}
	if e := events[0]; e.Item != 0 || e.TokenHash != "" || e.ClientIP != "" || e.Role != "" || e.ScopeFailed || e.Active == nil || *e.Active {
		got, _ := json.Marshal(e)
		t.Errorf("%s", got)
	}
}
