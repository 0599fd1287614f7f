package tokenwatch

import (
	"bytes"
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/vault-tokens/vault-plugin-secrets-tokens/test/suite"
	"github.com/vault-tokens/vault-plugin-secrets-tokens/test/vaulttest"
)

const limitOfVisit = 3 * time.Minute

// The paths of requests are in clear in the audit log, and anybody with a Vault
// token chooses them.
const (
	hostileRole    = `<img src=x onerror="alert(1)">`
	hostileAddress = `"><svg onload=alert(2)>{{.}}`
)

// traffic is what a test has done, for the report to be held against.
type traffic struct{ issued, active, inactive, checkFailed, denied, invalid, revoked int }

// useAndAttack makes normal use of the engine, then attacks it.
func (s *session) useAndAttack() traffic {
	s.T.Helper()
	s.Role("orders", fields{"token_type": "api_key", "ttl": "1h", "allowed_scopes": "a", "default_scopes": "a"})
	s.Role("bound", fields{"token_type": "bearer", "ttl": "1h", "allowed_scopes": "a", "default_scopes": "a", "bound_cidrs": "192.0.2.0/24"})
	var did traffic
	for range 5 {
		token := s.Issue("orders", nil)
		s.WantActive(token)
		did.issued, did.active = did.issued+1, did.active+1
	}
	bound := s.Issue("bound", nil)
	s.Introspect(bound.Data.Token, fields{"client_ip": "203.0.113.7"})
	did.issued, did.checkFailed = did.issued+1, did.checkFailed+1
	if err := vaulttest.ByPossession.Revoke(s.Ctx, s.Deployment, bound); err != nil {
		s.T.Fatal(err)
	}
	did.revoked++
	for _, role := range []string{hostileRole, hostileAddress} {
		if err := s.Expect(s.Ctx, s.App, "GET", "tokens/creds/"+url.PathEscape(role), nil, http.StatusBadRequest, http.StatusNotFound); err != nil {
			s.T.Fatal(err)
		}
		did.invalid++
	}
	did.denied += s.tryWhatIsDenied()
	did.inactive += s.guess()
	return did
}

// tryWhatIsDenied has the API server ask for tokens.
func (s *session) tryWhatIsDenied() int {
	s.T.Helper()
	const often = 12
	for range often {
		if err := s.Expect(s.Ctx, s.API, "GET", "tokens/creds/orders", nil, http.StatusForbidden); err != nil {
			s.T.Fatal(err)
		}
	}
	return often
}

func (s *session) guess() int {
	s.T.Helper()
	const often = 30
	for i := range often {
		s.WantInactive(fmt.Sprintf("vtk_guess%d", i))
	}
	return often
}

// TestReport holds the report of a real Vault's audit log against what was
// done, and opens it in a browser.
func TestReport(t *testing.T) {
	s := own(t, 5*time.Minute, vaulttest.Options{Audit: true})
	ctx := s.Ctx
	s.SetUpAudit()
	did := s.useAndAttack()
	dir := t.TempDir()
	report := func(format string) string {
		path := filepath.Join(dir, "report."+format)
		if out, err := exec.CommandContext(ctx, vaulttest.Tokenwatch(t), "report", "-format", format, "-o", path, s.AuditFile).CombinedOutput(); err != nil {
			t.Fatalf("tokenwatch report: %v\n%s", err, out)
		}
		return path
	}
	t.Run("figures", func(t *testing.T) { checkReport(t, report("json"), did) })
	t.Run("text", func(t *testing.T) {
		raw, err := os.ReadFile(report("text"))
		if err != nil {
			t.Fatal(err)
		}
		for _, want := range []string{"orders", hostileRole, "permission denied", "CRITICAL", "inactive_burst", "outside_bound_cidrs"} {
			if !bytes.Contains(raw, []byte(want)) {
				t.Errorf("the report does not name %q:\n%s", want, raw)
			}
		}
	})
	html := report("html")
	for _, scheme := range []string{"light", "dark"} {
		t.Run(scheme, func(t *testing.T) { readReport(t, ctx, "file://"+html, scheme) })
	}
}

func checkReport(t *testing.T, path string, did traffic) {
	t.Helper()
	raw, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	var r struct {
		Totals struct {
			Issued, Active, Inactive, Revoked, Denied, Invalid int
			CheckFailed                                        int `json:"check_failed"`
		} `json:"totals"`
		Roles struct {
			Rows []struct {
				Role   string `json:"role"`
				Issued int    `json:"issued"`
			} `json:"rows"`
		} `json:"roles"`
		Alerts struct {
			List []struct {
				Rule string `json:"rule"`
			} `json:"list"`
		} `json:"alerts"`
	}
	suite.Decode(t, raw, &r)
	got := traffic{r.Totals.Issued, r.Totals.Active, r.Totals.Inactive, r.Totals.CheckFailed, r.Totals.Denied, r.Totals.Invalid, r.Totals.Revoked}
	if got != did {
		t.Errorf("the report counts %+v, done was %+v", got, did)
	}
	issued, rules := map[string]int{}, map[string]bool{}
	for _, row := range r.Roles.Rows {
		issued[row.Role] = row.Issued
	}
	for _, a := range r.Alerts.List {
		rules[a.Rule] = true
	}
	if issued["orders"] != 5 || issued["bound"] != 1 {
		t.Errorf("by role: %v", issued)
	}
	for _, rule := range []string{"failed_access", "inactive_burst", "outside_bound_cidrs", "root_token"} {
		if !rules[rule] {
			t.Errorf("no alert of %s among %v", rule, rules)
		}
	}
}

func readReport(t *testing.T, ctx context.Context, page, scheme string) {
	steps := []fields{audited()}
	steps = append(steps, picture("report-"+scheme)...)
	steps = append(steps,
		valueOf("document.body.innerText"),
		valueOf("getComputedStyle(document.body).backgroundColor"),
		// By keyboard: the first link leads to the alerts, and the figures behind
		// the charts open.
		press("Tab"), press("Enter"),
		valueOf("location.hash + ' ' + document.querySelector(location.hash).getBoundingClientRect().top"),
		valueOf("document.querySelector('nav a:last-child').focus()"),
		press("Tab"), press("Enter"),
		valueOf("document.activeElement.localName + ' ' + document.querySelector('details').open"),
		valueOf("getComputedStyle(document.activeElement).outlineStyle"),
		resize(320, 640), audited())
	steps = append(steps, picture("report-"+scheme+"-narrow")...)
	seen := visit{URL: page, Scheme: scheme, Width: 1200, Height: 900, Steps: steps}.open(t, ctx)
	seen.audits(t, scheme, 0)
	seen.audits(t, scheme+", narrow", 7)
	for _, want := range []string{"Token report", hostileRole, hostileAddress, "permission denied", "One client presents many"} {
		if want == "One client presents many" {
			want = "tokens that are not active"
		}
		if !strings.Contains(seen.text(t, 1), want) {
			t.Errorf("the page does not say %q:\n%s", want, seen.text(t, 1))
		}
	}
	if want := map[string]string{"light": "rgb(244, 245, 247)", "dark": "rgb(17, 20, 26)"}[scheme]; seen.text(t, 2) != want {
		t.Errorf("the background is %s, want %s: the style sheet is not applied", seen.text(t, 2), want)
	}
	if !strings.HasPrefix(seen.text(t, 3), "#alerts ") {
		t.Errorf("Tab and Enter lead to %q", seen.text(t, 3))
	}
	if seen.text(t, 5) != "summary true" || seen.text(t, 6) != "solid" {
		t.Errorf("by keyboard: %q, outline %q", seen.text(t, 5), seen.text(t, 6))
	}
}

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
