package tokenwatch

import (
	"context"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/vault-tokens/vault-plugin-secrets-tokens/test/promtest"
	"github.com/vault-tokens/vault-plugin-secrets-tokens/test/suite"
	"github.com/vault-tokens/vault-plugin-secrets-tokens/test/vaulttest"
)

// TestPrometheusAndAlertmanager has a real Prometheus scrape tokenwatch,
// and a real Alertmanager get its alerts, while a real Vault is attacked.
func TestPrometheusAndAlertmanager(t *testing.T) {
	suite.SkipPrometheus.Check(t)
	w := watch(t)
	alertmanager := promtest.StartAlertmanager(t, w.Ctx)
	dir := t.TempDir()
	config := suite.Write(t, dir, "tokenwatch.yaml", "sinks: {terminal: {enabled: false}, alertmanager: [{url: 'http://"+alertmanager.Address+"'}]}\nrules: {revoked_token: {grace: 0s}}\n")
	tokenwatch := follow(t, w.Ctx, "-config", config, "-file", w.AuditFile, "-metrics", "127.0.0.1:0")
	checkExposition(t, w.Ctx, tokenwatch.metrics())
	address := strings.TrimSuffix(strings.TrimPrefix(tokenwatch.metrics(), "http://"), "/metrics")
	prometheus := promtest.StartPrometheus(t, w.Ctx, dir,
		"global: {scrape_interval: 1s}\nscrape_configs: [{job_name: tokenwatch, static_configs: [{targets: ['"+address+"']}]}]\n")

	token := w.Issue("watched-bearer", nil)
	w.WantActive(token)
	w.as(w.App, "POST", "tokens/revoke", fields{"token": token.Data.Token})
	w.WantInactive(token.Data.Token)

	alerts := alertmanager.Await(`alertname="tokenwatch_revoked_token"`, func(alerts []promtest.Alert) bool { return len(alerts) == 1 })
	got := alerts[0]
	for name, want := range map[string]string{"severity": "critical", "mount": "tokens/", "role": "watched-bearer"} {
		if got.Labels[name] != want {
			t.Errorf("label %s is %q, want %q", name, got.Labels[name], want)
		}
	}
	if a := got.Annotations; a["token_id"] != token.Data.TokenID || a["lease_id"] != token.LeaseID || a["advice"] == "" || a["who"] == "" || a["summary"] == "" {
		t.Errorf("annotations: %v", a)
	}
	for query, atLeast := range map[string]float64{
		`sum(tokenwatch_events_total{kind="introspect",outcome="active",mount="tokens/"})`: 1,
		`tokenwatch_alerts_total{rule="revoked_token",severity="critical"}`:                1,
		`tokenwatch_open_alerts{severity="critical"}`:                                      1,
		`tokenwatch_sink_alerts_total{result="sent"}`:                                      1,
		`up{job="tokenwatch"}`: 1,
	} {
		prometheus.Await(query, promtest.One(atLeast))
	}
	health := suite.AwaitJSON(t, w.Ctx, "http://"+address+"/healthz", func(map[string]any) bool { return true })
	if health["status"] != "ok" {
		t.Errorf("health: %v", health)
	}
}

// checkExposition has promtool look at the metrics' form and names.
func checkExposition(t *testing.T, ctx context.Context, url string) {
	t.Helper()
	text := promtest.Scrape(t, ctx, url)
	if out := promtest.Promtool(t, text, "check", "metrics"); strings.TrimSpace(out) != "" {
		t.Errorf("promtool check metrics: %s", out)
	}
	if !strings.Contains(text, `tokenwatch_alerts_total{rule="silence",severity="critical"} 0`) {
		t.Error("the series of a rule is not there before its first alert")
	}
}

// TestDeployedWithPrometheusAndAlertmanager runs what deploy/ is for: a real
// Prometheus with the configuration and alert rules from there scrapes a real
// Vault over TLS and a tokenwatch that follows its log, and both of them alert
// through a real Alertmanager.
func TestDeployedWithPrometheusAndAlertmanager(t *testing.T) {
	suite.SkipPrometheus.Check(t)
	s := own(t, 4*time.Minute, vaulttest.Options{Audit: true, Metrics: true, TLS: true})
	ctx := s.Ctx
	s.SetUpAudit()
	s.useAndAttack()

	alertmanager := promtest.StartAlertmanager(t, ctx)
	config := suite.Write(t, t.TempDir(), "tokenwatch.yaml", "sinks: {alertmanager: [{url: 'http://"+alertmanager.Address+"'}]}\n")
	w := follow(t, ctx, "-file", s.AuditFile, "-metrics", "127.0.0.1:0", "-config", config)
	prometheus := s.startPrometheus(strings.TrimSuffix(strings.TrimPrefix(w.metrics(), "http://"), "/metrics"), alertmanager.Address)

	t.Run("scraped", func(t *testing.T) {
		for _, query := range []string{
			`up{job="tokenwatch"} == 1`,
			`up{job="vault"} == 1`,
			`sum(tokenwatch_events_total{kind="introspect",outcome="inactive"}) == 30`,
			`vault_core_unsealed == 1`,
			`ALERTS{alertname="TokenwatchCriticalFinding",alertstate="firing"}`,
		} {
			prometheus.Await(query, promtest.Any)
		}
	})
	t.Run("alerted", func(t *testing.T) { awaitAlerts(t, alertmanager) })
}

// awaitAlerts waits for an alert of Prometheus' and one of tokenwatch's own.
func awaitAlerts(t *testing.T, alertmanager *promtest.Alertmanager) {
	t.Helper()
	find := func(alerts []promtest.Alert, name string) (annotations map[string]string) {
		for _, a := range alerts {
			if a.Labels["alertname"] == name {
				return a.Annotations
			}
		}
		return nil
	}
	alerts := alertmanager.Await("", func(alerts []promtest.Alert) bool {
		return find(alerts, "TokenwatchCriticalFinding") != nil && find(alerts, "tokenwatch_outside_bound_cidrs") != nil
	})
	told := find(alerts, "tokenwatch_outside_bound_cidrs")
	for _, name := range []string{"summary", "who", "where", "token_id", "advice"} {
		if told[name] == "" {
			t.Errorf("tokenwatch's alert says nothing of %s: %v", name, told)
		}
	}
}

// startPrometheus runs it with the files of deploy/prometheus, in which only
// addresses, file names and the interval are put in.
func (s *session) startPrometheus(tokenwatch, alertmanager string) *promtest.Prometheus {
	s.T.Helper()
	dir := s.T.TempDir()
	for _, file := range suite.Glob(s.T, "deploy/prometheus/*.rules.yml") {
		if err := suite.Copy(file, dir); err != nil {
			s.T.Fatal(err)
		}
	}
	token, err := s.NewToken(s.Ctx, "prometheus", vaulttest.Policy("sys/metrics", "read"), "service", "1h")
	if err != nil {
		s.T.Fatal(err)
	}
	tokenFile := filepath.Join(dir, "vault-token")
	config := suite.Read(s.T, "deploy/prometheus/prometheus.yml")
	for _, put := range [][2]string{
		{"127.0.0.1:9468", tokenwatch},
		{"127.0.0.1:9093", alertmanager},
		{"127.0.0.1:8200", strings.TrimPrefix(s.Addr, "https://")},
		{"/etc/prometheus/vault-token", tokenFile},
		{"/etc/prometheus/vault-ca.pem", s.CAFile},
		{"_interval: 15s", "_interval: 1s"},
	} {
		if !strings.Contains(config, put[0]) {
			s.T.Fatalf("deploy/prometheus/prometheus.yml does not say %q", put[0])
		}
		config = strings.ReplaceAll(config, put[0], put[1])
	}
	suite.Write(s.T, dir, "vault-token", token)
	return promtest.StartPrometheus(s.T, s.Ctx, dir, config)
}
