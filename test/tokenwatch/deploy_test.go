package tokenwatch

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/vault-tokens/vault-plugin-secrets-tokens/test/promtest"
	"github.com/vault-tokens/vault-plugin-secrets-tokens/test/suite"
	"github.com/vault-tokens/vault-plugin-secrets-tokens/test/vaulttest"
)

func TestPrometheusRules(t *testing.T) {
	promtest.Promtool(t, "", append([]string{"check", "rules"}, suite.Glob(t, "deploy/prometheus/*.rules.yml")...)...)
	promtest.Promtool(t, "", append([]string{"check", "config", "--syntax-only"}, suite.Glob(t, "deploy/prometheus/prometheus.yml")...)...)
	promtest.Promtool(t, "", append([]string{"test", "rules"}, suite.Glob(t, "test/prometheus/*_test.yml")...)...)
}

// TestPrometheusRulesAreTested makes sure that each alert fires in a unit test.
func TestPrometheusRulesAreTested(t *testing.T) {
	alert := regexp.MustCompile(`(?m)^ +- alert: (\w+)$`)
	for _, file := range suite.Glob(t, "deploy/prometheus/*.rules.yml") {
		test := filepath.Join("test", "prometheus", strings.Replace(filepath.Base(file), ".rules.yml", "_test.yml", 1))
		rules, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range alert.FindAllStringSubmatch(string(rules), -1) {
			fires := regexp.MustCompile(`alertname="` + m[1] + `"\}', value: 1|(?s:alertname: ` + m[1] + `\s+eval_time: \w+\s+exp_alerts:\s+- )`)
			if !fires.MatchString(suite.Read(t, test)) {
				t.Errorf("%s: %s fires in no test of %s", file, m[1], test)
			}
		}
	}
}

// dashboard is what is looked at of a Grafana dashboard.
type dashboard struct {
	Title      string
	UID        string
	Templating struct {
		List []struct{ Name, Type string }
	}
	Panels []struct {
		ID      int
		Type    string
		Title   string
		GridPos struct{ X, Y, W, H int }
		Targets []struct{ RefID, Expr string }
	}
}

func readDashboard(t *testing.T) dashboard {
	t.Helper()
	var d dashboard
	suite.Decode(t, []byte(suite.Read(t, "deploy/grafana/vault-tokens.json")), &d)
	if d.Title == "" || d.UID == "" || len(d.Panels) < 10 {
		t.Fatalf("the dashboard %q has %d panels", d.Title, len(d.Panels))
	}
	return d
}

// expressions are those of the dashboard, with values for its variables.
func (d dashboard) expressions() []string {
	values := strings.NewReplacer("$__rate_interval", "1m", "$__range", "1h", "$job", ".*", "$mount", ".*", "$vault_job", ".*")
	var list []string
	for _, p := range d.Panels {
		for _, target := range p.Targets {
			list = append(list, values.Replace(target.Expr))
		}
	}
	return list
}

func TestDashboard(t *testing.T) {
	d := readDashboard(t)
	ids := map[int]bool{}
	for i, p := range d.Panels {
		if ids[p.ID] || p.ID == 0 || p.Title == "" {
			t.Errorf("panel %d %q: its id is taken, or it has no title", p.ID, p.Title)
		}
		ids[p.ID] = true
		if p.Type != "row" && len(p.Targets) == 0 {
			t.Errorf("panel %q shows nothing", p.Title)
		}
		a := p.GridPos
		if a.X < 0 || a.W <= 0 || a.H <= 0 || a.X+a.W > 24 {
			t.Errorf("panel %q is outside of the grid: %+v", p.Title, a)
		}
		for _, q := range d.Panels[:i] {
			if b := q.GridPos; a.X < b.X+b.W && b.X < a.X+a.W && a.Y < b.Y+b.H && b.Y < a.Y+a.H {
				t.Errorf("panels %q and %q overlap", p.Title, q.Title)
			}
		}
	}
	var names []string
	for _, v := range d.Templating.List {
		names = append(names, v.Name)
	}
	for _, used := range regexp.MustCompile(`\$(\w+)`).FindAllStringSubmatch(suite.Read(t, "deploy/grafana/vault-tokens.json"), -1) {
		if name := used[1]; !strings.HasPrefix(name, "__") && !slices.Contains(names, name) {
			t.Errorf("the dashboard has no variable $%s", name)
		}
	}
	// promtool checks expressions in rules.
	var rules []map[string]string
	for i, expr := range d.expressions() {
		if strings.Contains(expr, "$") {
			t.Errorf("a variable is left in %s", expr)
		}
		rules = append(rules, map[string]string{"record": fmt.Sprintf("dashboard:%d", i), "expr": expr})
	}
	file := filepath.Join(t.TempDir(), "dashboard.rules.yml")
	content, err := json.Marshal(map[string]any{"groups": []any{map[string]any{"name": "dashboard", "rules": rules}}})
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file, content, 0o600); err != nil {
		t.Fatal(err)
	}
	promtest.Promtool(t, "", "check", "rules", file)
}

// TestMetricsExist holds every metric in the alert rules and the dashboard
// against what a real Vault, the engine and a real tokenwatch offer, with its labels.
func TestMetricsExist(t *testing.T) {
	s := own(t, 4*time.Minute, vaulttest.Options{Audit: true, Metrics: true})
	ctx := s.Ctx
	s.SetUpAudit()
	s.Must("POST", "tokens/keys/rotated", fields{"rotation_period": "24h"})
	s.useAndAttack()
	s.Must("PUT", "sys/leases/revoke", fields{"lease_id": s.Issue("orders", nil).LeaseID, "sync": true})
	s.Issue("orders", fields{"ttl": "1s"}) // expires by itself
	w := follow(t, ctx, "-file", s.AuditFile, "-metrics", "127.0.0.1:0")

	var missing []string
	// Longer than a minute, after which Vault has the engine tidy for the first time.
	err := suite.Poll(ctx, 2*time.Minute, func() (bool, error) {
		offered := promtest.Scrape(t, ctx, w.metrics())
		for _, path := range []string{"sys/metrics", "tokens/status"} {
			offered += "\n" + string(s.Must("GET", path+"?format=prometheus", nil).Raw)
		}
		missing = missingMetrics(t, offered)
		return len(missing) == 0, fmt.Errorf("nobody offers %q", missing)
	})
	if err != nil {
		t.Error(err)
	}
}

// missingMetrics lists the selectors for which there is no sample. Of labels,
// those with = are looked for; job and instance are Prometheus' own.
func missingMetrics(t *testing.T, offered string) []string {
	t.Helper()
	selector := regexp.MustCompile(`\b((?:vault|tokenwatch)_\w+)(?:\{([^}]*)\})?`)
	label := regexp.MustCompile(`(\w+)="([^"]*)"`)
	expressions := readDashboard(t).expressions()
	expr := regexp.MustCompile(`(?m)^ +expr: (?:\|\n((?: {10,}.*\n)+)|(.+))$?`)
	for _, file := range suite.Glob(t, "deploy/prometheus/*.rules.yml") {
		raw, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		found := expr.FindAllStringSubmatch(string(raw), -1)
		if want := strings.Count(string(raw), "- alert:"); len(found) != want {
			t.Fatalf("%s: %d expressions found, want %d", file, len(found), want)
		}
		for _, m := range found {
			expressions = append(expressions, m[1]+m[2])
		}
	}
	var missing []string
	for _, e := range expressions {
		for _, m := range selector.FindAllStringSubmatch(e, -1) {
			pattern := `(?m)^` + m[1] + `(\{[^}]*\})? `
			labels := label.FindAllStringSubmatch(m[2], -1)
			ok := slices.ContainsFunc(regexp.MustCompile(pattern).FindAllString(offered, -1), func(sample string) bool {
				for _, l := range labels {
					if l[1] != "job" && !strings.Contains(sample, l[1]+`="`+l[2]+`"`) {
						return false
					}
				}
				return true
			})
			if !ok && !slices.Contains(missing, m[0]) {
				missing = append(missing, m[0])
			}
		}
	}
	return missing
}
