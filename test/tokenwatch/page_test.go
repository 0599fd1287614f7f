package tokenwatch

import (
	"context"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/vault-tokens/vault-plugin-secrets-tokens/test/suite"
	"github.com/vault-tokens/vault-plugin-secrets-tokens/test/vaulttest"
)

// actions are what a visit has the test do, by POST to a server on loopback.
func actions(t *testing.T, acts map[string]func()) string {
	t.Helper()
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		act := acts[strings.TrimPrefix(r.URL.Path, "/")]
		if act == nil {
			http.NotFound(w, r)
			return
		}
		act()
	}))
	t.Cleanup(server.Close)
	return server.URL + "/"
}

// TestLivePage opens the page of a tokenwatch that follows a real Vault's log,
// attacks while it is open, and uses it by keyboard alone.
func TestLivePage(t *testing.T) {
	s := own(t, 5*time.Minute, vaulttest.Options{Audit: true})
	ctx := s.Ctx
	s.SetUpAudit()
	s.useAndAttack()
	t.Run("dark", func(t *testing.T) {
		w := follow(t, ctx, "-file", s.AuditFile, "-page", "127.0.0.1:0", "-json")
		lookAtPage(t, ctx, w.page(), "dark")
	})
	t.Run("light", func(t *testing.T) {
		w := follow(t, ctx, "-file", s.AuditFile, "-page", "127.0.0.1:0", "-json")
		lookAtPage(t, ctx, w.page(), "light")
		usePage(t, ctx, s.sub(t), w)
	})
}

const alertsShown = "document.querySelectorAll('.alert').length"

func lookAtPage(t *testing.T, ctx context.Context, page, scheme string) {
	steps := []fields{until(alertsShown + " >= 4"), audited(), valueOf("document.body.innerText"), valueOf("document.querySelectorAll('.rate svg rect').length")}
	steps = append(steps, picture("page-"+scheme)...)
	steps = append(steps, valueOf("document.querySelectorAll('details').forEach((d) => (d.open = true))"), resize(320, 640), audited())
	steps = append(steps, picture("page-"+scheme+"-narrow")...)
	seen := visit{URL: page, Scheme: scheme, Width: 1100, Height: 900, Steps: steps}.open(t, ctx)
	seen.audits(t, scheme, 0)
	seen.audits(t, scheme+", narrow", 4)
	for _, want := range []string{"Inactive tokens seen", "Open alerts (", "critical", "warning", "Lines read"} {
		if !strings.Contains(seen.text(t, 1), want) {
			t.Errorf("the page does not say %q:\n%s", want, seen.text(t, 1))
		}
	}
	var bars int
	suite.Decode(t, seen.Values[2], &bars)
	if bars != 5*60 {
		t.Errorf("the charts have %d bars, want 60 each", bars)
	}
}

func usePage(t *testing.T, ctx context.Context, s *session, w *follower) {
	act := actions(t, map[string]func(){
		"attack": func() {
			// A role whose name is markup is refused again and again.
			for range 12 {
				if err := s.Expect(s.Ctx, s.App, "GET", "tokens/creds/"+url.PathEscape(hostileRole), nil, http.StatusBadRequest, http.StatusNotFound); err != nil {
					t.Error(err)
				}
			}
		},
		"stop": w.stop,
	})
	const focused = "document.activeElement.id || document.activeElement.localName"
	seen := visit{URL: w.page(), Scheme: "light", Width: 1100, Height: 900, Steps: []fields{
		until(alertsShown + " >= 4"),
		valueOf("window.before = " + alertsShown),
		press("Tab"), valueOf(focused), // 1: pause
		press("Tab"), valueOf(focused), // 2: severity
		press("End"), until("document.querySelector('.alert') && !document.querySelector('.alert.warning')"),
		press("Home"), until(alertsShown + " === before"),
		press("Tab"), press("Enter"), valueOf("document.activeElement.localName + ' ' + document.activeElement.parentElement.open"), // 3
		valueOf("window.opened = document.activeElement.textContent"), // 4
		{"call": act + "attack"},
		until("document.getElementById('alerts').innerText.includes('onerror=') && document.getElementById('news').textContent.startsWith('New: ')"),
		// What was open and focused still is, and the page was not loaded again.
		valueOf("opened === document.activeElement.textContent && document.activeElement.parentElement.open"), // 5
		audited(),                         // 6
		valueOf("document.images.length"), // 7
		valueOf("document.getElementById('pause').focus()"), // 8
		press("Space"), until("document.getElementById('updated').textContent.startsWith('Paused')"),
		press("Space"), until("document.getElementById('updated').textContent.startsWith('Updated')"),
		{"call": act + "stop"},
		until("!document.getElementById('lost').hidden"),
		valueOf("document.getElementById('lost').innerText"), // 9
		audited(), // 10
	}}.openAllowing(t, ctx, "console: Failed to load resource")
	for i, want := range map[int]string{1: "pause", 2: "severity", 3: "summary true"} {
		if got := seen.text(t, i); got != want {
			t.Errorf("by keyboard, value %d is %q, want %q", i, got, want)
		}
	}
	if string(seen.Values[5]) != "true" || string(seen.Values[7]) != "0" {
		t.Errorf("the same place after an update: %s; images: %s", seen.Values[5], seen.Values[7])
	}
	if !strings.Contains(seen.text(t, 9), "does not answer") {
		t.Errorf("without tokenwatch the page says %q", seen.text(t, 9))
	}
	seen.audits(t, "after an update", 6)
	seen.audits(t, "without tokenwatch", 10)
}
