package tokenwatch

import (
	"bytes"
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/vault-tokens/vault-plugin-secrets-tokens/test/suite"
	"github.com/vault-tokens/vault-plugin-secrets-tokens/test/vaulttest"
)

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
	for _, want := range []string{"Token report", hostileRole, hostileAddress, "permission denied", "many inactive tokens"} {
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
