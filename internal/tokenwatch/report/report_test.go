package report

import (
	"bytes"
	"encoding/json"
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/vault-tokens/vault-plugin-secrets-tokens/internal/tokenwatch"
)

var (
	noon    = time.Date(2026, 11, 23, 12, 0, 0, 0, time.UTC)
	preview = flag.String("preview", "", "write an example report to this file")
)

func response(kind tokenwatch.Kind, change func(*tokenwatch.Event)) *tokenwatch.Event {
	e := &tokenwatch.Event{
		Time: noon, Phase: tokenwatch.PhaseResponse, Kind: kind, Mount: "tokens/", EntityID: "entity-1", DisplayName: "approle", RemoteAddress: "192.0.2.1",
	}
	if change != nil {
		change(e)
	}
	return e
}

func introspected(active bool, change func(*tokenwatch.Event)) *tokenwatch.Event {
	return response(tokenwatch.KindIntrospect, func(e *tokenwatch.Event) {
		e.Active = &active
		if active {
			e.Role, e.TokenType, e.TokenID = "orders", "api_key", "id"
		}
		if change != nil {
			change(e)
		}
	})
}

func issued(role string) *tokenwatch.Event {
	return response(tokenwatch.KindIssue, func(e *tokenwatch.Event) { e.Role, e.TokenType, e.TokenID = role, "api_key", "id" })
}

func TestEverythingCountsOnceInItsPlace(t *testing.T) {
	b := New(Options{})
	for range 3 {
		b.Observe(issued("orders"))
	}
	b.Observe(introspected(true, nil))
	b.Observe(introspected(false, nil))
	b.Observe(introspected(false, nil))
	b.Observe(introspected(false, func(e *tokenwatch.Event) { e.ScopeFailed, e.Role = true, "orders" }))
	b.Observe(response(tokenwatch.KindLeaseRenew, nil))
	b.Observe(response(tokenwatch.KindLeaseRevoke, nil))
	b.Observe(response(tokenwatch.KindRevoke, nil))
	b.Observe(response(tokenwatch.KindIssue, func(e *tokenwatch.Event) {
		e.Role, e.Denied, e.Error = "orders", true, "1 error occurred:\n\t* permission denied\n\n"
	}))
	b.Observe(response(tokenwatch.KindIssue, func(e *tokenwatch.Event) {
		e.Role, e.Invalid, e.Error = "orders", true, "hmac-sha256:"+strings.Repeat("ab", 32)
	}))
	b.Observe(response(tokenwatch.KindAuditDisable, nil))
	b.Observe(response(tokenwatch.KindOtherMounts, nil))
	b.Observe(response(tokenwatch.KindRoleRead, nil))

	r := b.Report(noon)
	want := Totals{Requests: 14, Issued: 3, Active: 1, Inactive: 2, CheckFailed: 1, Renewed: 1, Revoked: 2, Denied: 1, Invalid: 1}
	if r.Totals != want {
		t.Errorf("totals %+v, want %+v", r.Totals, want)
	}
	if len(r.Timeline.Steps) != 1 || r.Timeline.Steps[0].Totals != want {
		t.Errorf("timeline %+v", r.Timeline)
	}
	if len(r.Roles.Rows) != 1 || r.Roles.Rows[0].Totals != (Totals{Requests: 7, Issued: 3, Active: 1, CheckFailed: 1, Denied: 1, Invalid: 1}) {
		t.Errorf("roles %+v", r.Roles.Rows)
	}
	if len(r.Entities.Rows) != 1 || r.Entities.Rows[0].Issued != 3 || r.Entities.Rows[0].Entity != "entity-1" {
		t.Errorf("entities %+v", r.Entities.Rows)
	}
	if len(r.Clients.Rows) != 1 || r.Clients.Rows[0].Totals != want {
		t.Errorf("clients %+v", r.Clients.Rows)
	}
	var failures []string
	for _, f := range r.Failures.Rows {
		failures = append(failures, fmt.Sprintf("%s/%s/%s=%d", f.Kind, f.Outcome, words(f.Error), f.Requests))
	}
	wantFailures := "[introspect/inactive/=2 introspect/check failed/=1 issue/denied/permission denied=1 issue/invalid/hashed: hmac-sha256:abababababab…=1]"
	if fmt.Sprint(failures) != wantFailures {
		t.Errorf("failures %s, want %s", failures, wantFailures)
	}
}

func TestPeriod(t *testing.T) {
	b := New(Options{From: noon, To: noon.Add(time.Hour)})
	for _, at := range []time.Duration{-1, 0, time.Minute, time.Hour - 1, time.Hour} {
		b.Observe(response(tokenwatch.KindRoleRead, func(e *tokenwatch.Event) { e.Time = noon.Add(at) }))
		b.Alert(tokenwatch.Alert{Fingerprint: at.String(), Last: noon.Add(at)})
	}
	r := b.Report(noon)
	if r.Totals.Requests != 3 || !r.From.Equal(noon) || !r.To.Equal(noon.Add(time.Hour-1)) || r.Alerts.Total() != 3 {
		t.Errorf("%d requests, %d alerts, from %s to %s", r.Totals.Requests, r.Alerts.Total(), r.From, r.To)
	}
}

func TestTimelineKeepsSumsAndBounds(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 2))
	for _, span := range []time.Duration{0, time.Second, time.Minute, time.Hour, 36 * time.Hour, 90 * 24 * time.Hour, 200 * 365 * 24 * time.Hour} {
		var line timeline
		for range 1000 {
			at := noon.Add(-span/2 + time.Duration(random.Int64N(int64(span)+1)))
			line.add(at, &Totals{Requests: 1})
		}
		got := line.steps()
		var sum int64
		for i, s := range got.Steps {
			sum += s.Requests
			if i > 0 && s.Start.Unix()-got.Steps[i-1].Start.Unix() != got.StepSeconds {
				t.Errorf("%s: a gap before %s", span, s.Start)
			}
		}
		if sum != 1000 || len(got.Steps) > maxSteps || got.Steps[0].Requests == 0 || got.Steps[len(got.Steps)-1].Requests == 0 {
			t.Errorf("%s: %d requests in %d steps of %d s", span, sum, len(got.Steps), got.StepSeconds)
		}
	}
	var line timeline
	line.add(time.Time{}, &Totals{Requests: 1})
	line.add(time.Date(9999, 12, 31, 0, 0, 0, 0, time.UTC), &Totals{Requests: 1})
	if got := line.steps(); len(got.Steps) > maxSteps {
		t.Errorf("the longest time has %d steps", len(got.Steps))
	}
	for i := 1; i < len(stepSizes); i++ {
		if stepSizes[i]%stepSizes[i-1] != 0 {
			t.Errorf("a step of %d s is no multiple of one of %d s", stepSizes[i], stepSizes[i-1])
		}
	}
}

// TestMemoryIsBounded floods the tables with a million names, between which one
// that is seen often is not lost.
func TestMemoryIsBounded(t *testing.T) {
	b := New(Options{})
	before := heap()
	const flood = 1_000_000
	for i := range flood {
		name := fmt.Sprintf("%07d", i)
		b.Observe(response(tokenwatch.KindIssue, func(e *tokenwatch.Event) {
			e.RequestID = name
			e.Role, e.EntityID, e.RemoteAddress, e.DisplayName = name, name, name, name
			e.Denied, e.Error = true, name
		}))
		if i%100 == 0 {
			b.Observe(issued("steady"))
			b.Alert(tokenwatch.Alert{Fingerprint: name, Severity: tokenwatch.SeverityInfo, Title: name})
		}
	}
	b.Alert(tokenwatch.Alert{Fingerprint: "worst", Severity: tokenwatch.SeverityCritical})
	if grown := heap() - before; grown > 64<<20 {
		t.Errorf("the builder holds %d MB", grown>>20)
	}
	r := b.Report(noon)
	if got := r.Roles.Rows[0]; got.Role != "steady" || got.Issued != flood/100 {
		t.Errorf("the role that was seen most is %s with %d", got.Role, got.Issued)
	}
	if r.Totals.Denied != flood || r.Roles.Missed == 0 || len(r.Roles.Rows) != DefaultRows {
		t.Errorf("%d denied, %d missed, %d rows", r.Totals.Denied, r.Roles.Missed, len(r.Roles.Rows))
	}
	if r.Alerts.Critical != 1 || r.Alerts.Info != flood/100 || len(r.Alerts.List) > maxAlerts || r.Alerts.List[0].Fingerprint != "worst" {
		t.Errorf("%d critical, %d info, %d in the list", r.Alerts.Critical, r.Alerts.Info, len(r.Alerts.List))
	}
}

func heap() int64 {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc)
}

const hostile = "</title><script>alert(1)</script><img src=x onerror=alert(2)>\" onload=\"alert(3)' style='x\x1b[31m\u202e\n{{.}}"

// example is a day with everything in it, and with an attacker's names.
func example() *Report {
	random := rand.New(rand.NewPCG(7, 7))
	b := New(Options{Files: []string{"audit.log", hostile}})
	roles := []string{"orders-key", "orders-bearer", "billing-key", "reports-jwt", hostile}
	types := []string{"api_key", "bearer", "api_key", "jwt", "api_key"}
	for i := range 20_000 {
		at := noon.Add(time.Duration(i) * 4 * time.Second)
		which := min(random.IntN(7), random.IntN(7)) % len(roles)
		set := func(e *tokenwatch.Event) {
			e.Time, e.Role, e.TokenType = at, roles[which], types[which]
			e.EntityID, e.DisplayName = fmt.Sprintf("7c4e9c0a-1111-2222-3333-44445555000%d", which), "approle-"+roles[which]
			e.RemoteAddress = fmt.Sprintf("192.0.2.%d", random.IntN(30))
			e.RequestID = fmt.Sprint(i)
		}
		switch n := random.IntN(100); {
		case n < 15:
			b.Observe(response(tokenwatch.KindIssue, set))
		case n < 80:
			b.Observe(introspected(true, set))
		case n < 83:
			b.Observe(introspected(false, func(e *tokenwatch.Event) { set(e); e.ScopeFailed = true }))
		case n < 85:
			b.Observe(response(tokenwatch.KindLeaseRevoke, set))
		case n < 90:
			b.Observe(response(tokenwatch.KindLeaseRenew, set))
		case n < 91 || i > 14_000 && i < 15_000:
			b.Observe(introspected(false, func(e *tokenwatch.Event) {
				e.Time, e.RemoteAddress, e.DisplayName = at, "203.0.113.9", hostile
			}))
		case n < 92:
			b.Observe(response(tokenwatch.KindIssue, func(e *tokenwatch.Event) {
				set(e)
				e.Denied, e.Error = true, "1 error occurred:\n\t* permission denied\n\n"
			}))
		case n < 93:
			b.Observe(response(tokenwatch.KindRoleWrite, func(e *tokenwatch.Event) { set(e); e.Invalid, e.Error = true, hostile }))
		}
	}
	b.AddLog(Log{Lines: 41_234, Malformed: 2})
	for i, s := range []tokenwatch.Severity{tokenwatch.SeverityCritical, tokenwatch.SeverityWarning, tokenwatch.SeverityInfo} {
		b.Alert(tokenwatch.Alert{
			Fingerprint: fmt.Sprint(i), Rule: "inactive_introspections", Severity: s,
			Title:  []string{"70 introspections of inactive tokens in 5 minutes", "Used from an unexpected network: " + hostile, "Signing key default was rotated"}[i],
			Detail: "About 70 different tokens: somebody is guessing, or tries a list.",
			Who:    "approle-orders (7c4e9c0a-1111-2222-3333-444455550001)", Where: "203.0.113.9", Path: "tokens/introspect", Mount: "tokens/",
			Role: roles[i], TokenID: "2CtSXKmgRdMTQGntO24YAo", LeaseID: "tokens/creds/orders-key/COtAqrWc8NFNloQhXZgO7tTt",
			RequestID: "9b2f9c0a-1111-2222-3333-444455556666", First: noon, Last: noon.Add(5 * time.Minute), Count: 70,
			Advice: "Find out from the API server which client presents these tokens, and block that client there.",
		})
	}
	return b.Report(noon.Add(24 * time.Hour))
}

func TestHTMLNeedsNothingElseAndRunsNothing(t *testing.T) {
	var out bytes.Buffer
	if err := example().WriteHTML(&out); err != nil {
		t.Fatal(err)
	}
	html := out.String()
	if *preview != "" {
		if err := os.WriteFile(*preview, out.Bytes(), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for _, bad := range []string{"<script", "<img", "onload=\"", " src=\"", "http://", "https://", "@import", "url(", "\x1b", "\u202e", "ZgotmplZ"} {
		if strings.Contains(html, bad) {
			t.Errorf("the page contains %q: …%s…", bad, html[max(0, strings.Index(html, bad)-80):strings.Index(html, bad)+80])
		}
	}
	if !strings.Contains(html, "&lt;script&gt;alert(1)") {
		t.Error("the hostile name is not there, so that its escaping proves nothing")
	}
	if !strings.Contains(html, "default-src &#39;none&#39;; style-src &#39;sha256-") {
		t.Error("the page has no policy")
	}
	if len(html) > 500_000 {
		t.Errorf("the page has %d bytes", len(html))
	}
}

func TestTextIsPlain(t *testing.T) {
	var plain, colored bytes.Buffer
	if err := example().WriteText(&plain, false); err != nil {
		t.Fatal(err)
	}
	if err := example().WriteText(&colored, true); err != nil {
		t.Fatal(err)
	}
	for _, r := range plain.String() {
		if r != '\n' && (r < ' ' || r == '\u202e') {
			t.Fatalf("the text contains %U", r)
		}
	}
	for _, want := range []string{"\n  role ", "orders-key", "permission denied", "Alerts: 1 critical, 1 warning, 1 info", "  CRITICAL  70 introspections"} {
		if !strings.Contains(plain.String(), want) {
			t.Errorf("the text has no %q:\n%s", want, plain.String())
		}
	}
	if !strings.Contains(colored.String(), "\x1b[1;31mCRITICAL\x1b[0m") {
		t.Error("the colours are missing")
	}
}

func TestJSONHasEverything(t *testing.T) {
	var out bytes.Buffer
	r := example()
	if err := r.WriteJSON(&out); err != nil {
		t.Fatal(err)
	}
	var back Report
	decoder := json.NewDecoder(&out)
	decoder.DisallowUnknownFields()
	if err := decoder.Decode(&back); err != nil {
		t.Fatal(err)
	}
	if back.Totals != r.Totals || len(back.Alerts.List) != 3 || back.Roles.Rows[0] != r.Roles.Rows[0] {
		t.Errorf("read back: %+v", back.Totals)
	}
}

func TestEmptyReport(t *testing.T) {
	for name, write := range map[string]func(*Report, *bytes.Buffer) error{
		"text": func(r *Report, w *bytes.Buffer) error { return r.WriteText(w, false) },
		"html": func(r *Report, w *bytes.Buffer) error { return r.WriteHTML(w) },
		"json": func(r *Report, w *bytes.Buffer) error { return r.WriteJSON(w) },
	} {
		var out bytes.Buffer
		if err := write(New(Options{}).Report(noon), &out); err != nil {
			t.Fatal(err)
		}
		if name != "json" && !strings.Contains(out.String(), "There are no requests about the engine.") {
			t.Errorf("%s: %s", name, out.String())
		}
		if strings.Contains(out.String(), "null") {
			t.Errorf("%s has null: %s", name, out.String())
		}
	}
}

func TestNiceAbove(t *testing.T) {
	for n, want := range map[int64]int64{0: 1, 1: 1, 2: 2, 3: 4, 5: 6, 9: 10, 11: 20, 99: 100, 101: 200, 801: 1000} {
		if got := niceAbove(n); got != want {
			t.Errorf("niceAbove(%d) = %d, want %d", n, got, want)
		}
	}
}
