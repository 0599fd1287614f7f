package tokenwatch

import (
	"context"
	"strings"
	"testing"

	"github.com/vault-tokens/vault-plugin-secrets-tokens/test/promtest"
	"github.com/vault-tokens/vault-plugin-secrets-tokens/test/suite"
)

// TestWatchPrometheusAndAlertmanager has a real Prometheus scrape tokenwatch,
// and a real Alertmanager get its alerts, while a real Vault is attacked.
func TestWatchPrometheusAndAlertmanager(t *testing.T) {
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
