package sink

import (
	"context"
	"encoding/json"
	"encoding/pem"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/vault-tokens/vault-plugin-secrets-tokens/internal/tokenwatch"
)

// hostile is what somebody may write into a path or a name.
const hostile = "\x1b]0;owned\x07\x1b[2J\x1b[1;31m\r\nCRITICAL  faked\u202e\u2066\u0085\xff\x00<script>alert(1)</script>\"'{{x}}"

func sample(text string) tokenwatch.Alert {
	at := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	return tokenwatch.Alert{
		Fingerprint: "f00d", Rule: "failed_access", Severity: tokenwatch.SeverityWarning, Title: "Title " + text, Detail: text, Who: text, EntityID: text, Where: text,
		Namespace: text, Mount: text, Path: text, Role: text, TokenID: text, LeaseID: text, RequestID: text, First: at.Add(-time.Minute), Last: at, Count: 3, Advice: "do",
	}
}

func TestTerminal(t *testing.T) {
	var b strings.Builder
	if err := (&Terminal{W: &b}).Send(t.Context(), sample("x")); err != nil {
		t.Fatal(err)
	}
	for _, part := range []string{"2026-01-02 03:04:05Z  WARNING   Title x  [failed_access]\n", "    who    x\n", "    where  x\n", "    count  3 since 2026-01-02 03:03:05Z\n", "    token  x\n", "    lease  x\n", "    do     do\n"} {
		if !strings.Contains(b.String(), part) {
			t.Errorf("%q is missing in\n%s", part, b.String())
		}
	}
	if strings.Contains(b.String(), "\x1b") {
		t.Error("coloured without being asked")
	}
	b.Reset()
	if err := (&Terminal{W: &b, Color: true}).Send(t.Context(), sample("x")); err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(b.String(), "\x1b[33mWARNING") || strings.Count(b.String(), "\x1b") != 2 {
		t.Errorf("%q", b.String())
	}
}

func TestTerminalIsNotMoved(t *testing.T) {
	var b strings.Builder
	a := sample(hostile + strings.Repeat("A", 1<<20))
	if err := (&Terminal{W: &b}).Send(t.Context(), a); err != nil {
		t.Fatal(err)
	}
	if bad := regexp.MustCompile(`[^\x20-\x7e\n…]`).FindString(b.String()); bad != "" {
		t.Errorf("%q is written to the terminal", bad)
	}
	if n := strings.Count(b.String(), "\n"); n > 12 {
		t.Errorf("%d lines", n)
	}
	if b.Len() > 20_000 {
		t.Errorf("%d bytes", b.Len())
	}
}

func TestJSONLines(t *testing.T) {
	var b strings.Builder
	if err := (&JSONLines{W: &b}).Send(t.Context(), sample(hostile)); err != nil {
		t.Fatal(err)
	}
	if strings.Count(b.String(), "\n") != 1 || strings.ContainsAny(b.String(), "\x1b\x00\x07\r") || strings.Contains(b.String(), "<script>") {
		t.Errorf("%q", b.String())
	}
	var back tokenwatch.Alert
	if err := json.Unmarshal([]byte(b.String()), &back); err != nil || back.Count != 3 || back.Rule != "failed_access" {
		t.Errorf("%v: %+v", err, back)
	}
}

// receiver answers with codes in turn, and remembers what it got.
type receiver struct {
	*httptest.Server
	codes    []int
	requests []*http.Request
	bodies   []string
}

func newReceiver(t *testing.T, codes ...int) *receiver {
	r := &receiver{codes: codes}
	r.Server = httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		body, _ := io.ReadAll(req.Body)
		r.requests, r.bodies = append(r.requests, req), append(r.bodies, string(body))
		w.WriteHeader(r.codes[(len(r.requests)-1)%len(r.codes)])
		_, _ = io.WriteString(w, "said \x1b[31m so")
	}))
	t.Cleanup(r.Close)
	return r
}

func (r *receiver) endpoint(t *testing.T) *Endpoint {
	t.Helper()
	dir := t.TempDir()
	ca, token := filepath.Join(dir, "ca.pem"), filepath.Join(dir, "token")
	block := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: r.Certificate().Raw})
	if err := errors.Join(os.WriteFile(ca, block, 0o600), os.WriteFile(token, []byte("s3cret\n"), 0o600)); err != nil {
		t.Fatal(err)
	}
	e := &Endpoint{URL: r.URL + "/hook/s3cretpath", CAFile: ca, TokenFile: token, Headers: map[string]string{"X-Team": "shop"}}
	if err := e.Open(); err != nil {
		t.Fatal(err)
	}
	return e
}

func TestWebhook(t *testing.T) {
	r := newReceiver(t, 204)
	w := Webhook{r.endpoint(t)}
	if err := w.Send(t.Context(), sample("x")); err != nil {
		t.Fatal(err)
	}
	h := r.requests[0].Header
	if h.Get("Authorization") != "Bearer s3cret" || h.Get("X-Team") != "shop" || h.Get("Content-Type") != "application/json" {
		t.Errorf("%v", h)
	}
	var got tokenwatch.Alert
	if err := json.Unmarshal([]byte(r.bodies[0]), &got); err != nil || got.Title != "Title x" {
		t.Errorf("%v: %s", err, r.bodies[0])
	}
	if strings.Contains(w.Name(), "s3cret") {
		t.Errorf("the name %q shows what may be secret", w.Name())
	}
}

func TestFailuresToSend(t *testing.T) {
	for code, permanent := range map[int]bool{400: true, 401: true, 404: true, 301: true, 408: false, 429: false, 500: false, 503: false} {
		err := Webhook{newReceiver(t, code).endpoint(t)}.Send(t.Context(), sample("x"))
		if err == nil || errors.Is(err, ErrPermanent) != permanent || strings.Contains(err.Error(), "\x1b") {
			t.Errorf("%d: %v", code, err)
		}
	}
	r := newReceiver(t, 200)
	e := r.endpoint(t)
	r.Close()
	err := Webhook{e}.Send(t.Context(), sample("x"))
	if err == nil || errors.Is(err, ErrPermanent) || strings.Contains(err.Error(), "s3cret") {
		t.Errorf("nobody there: %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := (Webhook{newReceiver(t, 200).endpoint(t)}).Send(ctx, sample("x")); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
}

func TestAlertmanager(t *testing.T) {
	r := newReceiver(t, 200)
	now := time.Date(2026, 1, 2, 4, 0, 0, 0, time.UTC)
	m := Alertmanager{Endpoint: r.endpoint(t), ResolveTimeout: time.Hour, Now: func() time.Time { return now }}
	m.URL = r.URL + "/"
	if err := m.Send(t.Context(), sample("x")); err != nil {
		t.Fatal(err)
	}
	var got []managedAlert
	if err := json.Unmarshal([]byte(r.bodies[0]), &got); err != nil || len(got) != 1 || r.requests[0].URL.Path != "/api/v2/alerts" {
		t.Fatalf("%v: %s %s", err, r.requests[0].URL.Path, r.bodies[0])
	}
	a := got[0]
	if a.Labels["alertname"] != "tokenwatch_failed_access" || a.Labels["severity"] != "warning" || a.Annotations["count"] != "3" || !a.EndsAt.Equal(now.Add(time.Hour)) {
		t.Errorf("%+v", a)
	}
	empty := sample("")
	if err := m.Send(t.Context(), empty); err != nil {
		t.Fatal(err)
	}
	if strings.Contains(r.bodies[1], `"mount"`) {
		t.Errorf("an empty label, which Alertmanager refuses: %s", r.bodies[1])
	}
}

func TestOpenNamesWhatIsWrong(t *testing.T) {
	for want, e := range map[string]Endpoint{
		"url: ":     {URL: "ftp://x"},
		"url: \"\"": {},
		"ca_file: ": {URL: "https://x", CAFile: "/nonexistent"},
	} {
		if err := e.Open(); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", want, err)
		}
	}
}
