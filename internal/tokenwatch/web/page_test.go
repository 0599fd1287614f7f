package web

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/vault-tokens/vault-plugin-secrets-tokens/internal/tokenwatch"
)

func get(t *testing.T, h http.Handler, method, host, path string) *http.Response {
	t.Helper()
	r := httptest.NewRequest(method, path, nil)
	r.Host = host
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)
	return w.Result()
}

func TestEveryAnswerIsGuarded(t *testing.T) {
	h := pageHandler(snapshot{})
	for path, kind := range map[string]string{
		"/":           "text/html; charset=utf-8",
		"/page.css":   "text/css; charset=utf-8",
		"/page.js":    "text/javascript; charset=utf-8",
		"/icon.svg":   "image/svg+xml",
		"/state.json": "application/json",
		"/static/":    "text/plain; charset=utf-8",
		"/page.go":    "text/plain; charset=utf-8",
	} {
		resp := get(t, h, "GET", "127.0.0.1:8250", path)
		if found := kind[:10] != "text/plain"; found != (resp.StatusCode == http.StatusOK) {
			t.Errorf("GET %s answers %d", path, resp.StatusCode)
		}
		if got := resp.Header.Get("Content-Type"); got != kind {
			t.Errorf("GET %s is %q, want %q", path, got, kind)
		}
		policy := resp.Header.Get("Content-Security-Policy")
		if !strings.HasPrefix(policy, "default-src 'none';") || strings.Contains(policy, "unsafe") || strings.Contains(policy, "*") {
			t.Errorf("GET %s has the policy %q", path, policy)
		}
		for name, want := range map[string]string{
			"X-Content-Type-Options": "nosniff", "X-Frame-Options": "DENY", "Referrer-Policy": "no-referrer", "Cache-Control": "no-store",
			"Access-Control-Allow-Origin": "",
		} {
			if got := resp.Header.Get(name); got != want {
				t.Errorf("GET %s has %s %q, want %q", path, name, got, want)
			}
		}
	}
	for _, method := range []string{"POST", "PUT", "DELETE", "OPTIONS"} {
		if resp := get(t, h, method, "127.0.0.1", "/state.json"); resp.StatusCode != http.StatusMethodNotAllowed {
			t.Errorf("%s answers %d", method, resp.StatusCode)
		}
	}
}

func TestForeignNamesAreRefused(t *testing.T) {
	h := pageHandler(snapshot{}, "watch.example.com")
	for host, ok := range map[string]bool{
		"127.0.0.1:8250": true, "127.0.0.1": true, "[::1]:8250": true, "localhost:8250": true, "LOCALHOST": true, "192.0.2.1": true,
		"watch.example.com:8250": true,
		"evil.example":           false, "evil.example:8250": false, "127.0.0.1.evil.example": false, "localhost.evil.example": false, "": false,
	} {
		resp := get(t, h, "GET", host, "/state.json")
		body, _ := io.ReadAll(resp.Body)
		if ok != (resp.StatusCode == http.StatusOK) || ok != strings.Contains(string(body), "alerts") {
			t.Errorf("Host %q: %d %s", host, resp.StatusCode, body)
		}
	}
}

func TestStateIsBoundedAndVisible(t *testing.T) {
	var open []tokenwatch.Alert
	title := strings.Repeat("\x1b<b>", 100_000)
	for i := range 10 * maxAlerts {
		open = append(open, tokenwatch.Alert{
			Fingerprint: fmt.Sprint(i), Severity: `x" onload="`, Title: title, Who: "a\u202eb", Where: "192.0.2.1",
		})
	}
	resp := get(t, pageHandler(snapshot{Open: open, Malformed: 1, Dropped: 2, Sinks: []tokenwatch.SinkCount{{Sink: "hook\n", Failed: 3}}}), "GET", "localhost", "/state.json")
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	if len(body) > 1<<20 {
		t.Errorf("the state has %d bytes", len(body))
	}
	var v view
	if err := json.Unmarshal(body, &v); err != nil {
		t.Fatal(err)
	}
	if len(v.Alerts) != maxAlerts || v.AlertsOpen != len(open) {
		t.Errorf("%d alerts of %d, want %d of %d", len(v.Alerts), v.AlertsOpen, maxAlerts, len(open))
	}
	if a := v.Alerts[0]; a.Severity != "info" || a.Source != `a\u202eb, from 192.0.2.1` || strings.Contains(a.Title, "\x1b") {
		t.Errorf("the alert is %+v", a)
	}
	want := []string{"1 line was not an audit entry and was skipped.", "2 lines from a socket arrived too fast and were lost.", `3 alerts were not delivered to hook\x0a.`}
	if fmt.Sprint(v.Notes) != fmt.Sprint(want) {
		t.Errorf("notes %q, want %q", v.Notes, want)
	}
	if v.LastEntry != nil {
		t.Errorf("last entry %v without any", v.LastEntry)
	}
}
