package test

import (
	"context"
	"encoding/json"
	"net/url"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/vault-tokens/vault-plugin-secrets-tokens/test/suite"
	"github.com/vault-tokens/vault-plugin-secrets-tokens/test/vaulttest"
)

// TestDeployedWithPrometheusAndAlertmanager runs what deploy/ is for: a real
// Prometheus with the configuration and alert rules from there scrapes a real
// Vault over TLS and a tokenwatch that follows its log, and both of them alert
// through a real Alertmanager.
func TestDeployedWithPrometheusAndAlertmanager(t *testing.T) {
	s := own(t, 4*time.Minute, vaulttest.Options{Audit: true, Metrics: true, TLS: true})
	ctx := s.Ctx
	s.SetUpAudit()
	s.useAndAttack()

	alertmanager := startAlertmanager(t, ctx)
	dir := t.TempDir()
	suite.Write(t, dir, "tokenwatch.yaml", "sinks: {alertmanager: [{url: 'http://"+alertmanager+"'}]}\n")
	w := s.watch("-config", filepath.Join(dir, "tokenwatch.yaml"))
	prometheus := s.startPrometheus(strings.TrimSuffix(strings.TrimPrefix(w.metrics, "http://"), "/metrics"), alertmanager)

	t.Run("scraped", func(t *testing.T) {
		for _, query := range []string{
			`up{job="tokenwatch"} == 1`,
			`up{job="vault"} == 1`,
			`sum(tokenwatch_events_total{kind="introspect",outcome="inactive"}) == 30`,
			`vault_core_unsealed == 1`,
			`ALERTS{alertname="TokenwatchCriticalFinding",alertstate="firing"}`,
		} {
			awaitQuery(t, ctx, prometheus, query)
		}
	})
	t.Run("alerted", func(t *testing.T) { awaitAlerts(t, ctx, alertmanager) })
}

// awaitAlerts waits for an alert of Prometheus' and one of tokenwatch's own.
func awaitAlerts(t *testing.T, ctx context.Context, alertmanager string) {
	t.Helper()
	type alert struct{ Labels, Annotations map[string]string }
	find := func(alerts []alert, name string) (annotations map[string]string) {
		for _, a := range alerts {
			if a.Labels["alertname"] == name {
				return a.Annotations
			}
		}
		return nil
	}
	alerts := suite.AwaitJSON(t, ctx, "http://"+alertmanager+"/api/v2/alerts", func(alerts []alert) bool {
		return find(alerts, "TokenwatchCriticalFinding") != nil && find(alerts, "tokenwatch_outside_bound_cidrs") != nil
	})
	told := find(alerts, "tokenwatch_outside_bound_cidrs")
	for _, name := range []string{"summary", "who", "where", "token_id", "advice"} {
		if told[name] == "" {
			t.Errorf("tokenwatch's alert says nothing of %s: %v", name, told)
		}
	}
}

func awaitQuery(t *testing.T, ctx context.Context, prometheus, query string) {
	t.Helper()
	type answer struct {
		Data struct{ Result []json.RawMessage }
	}
	suite.AwaitJSON(t, ctx, "http://"+prometheus+"/api/v1/query?query="+url.QueryEscape(query), func(a answer) bool { return len(a.Data.Result) > 0 })
}

// startPrometheus runs it with the files of deploy/prometheus, in which only
// addresses, file names and the interval are put in.
func (s *session) startPrometheus(tokenwatch, alertmanager string) (address string) {
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
	suite.Write(s.T, dir, "prometheus.yml", config)
	address = suite.FreeAddress(s.T)
	suite.Background(s.T, s.Ctx, suite.Program(s.T, suite.SkipPrometheus, "prometheus"),
		"--config.file="+filepath.Join(dir, "prometheus.yml"), "--storage.tsdb.path="+filepath.Join(dir, "data"), "--web.listen-address="+address)
	return address
}

func startAlertmanager(t *testing.T, ctx context.Context) (address string) {
	t.Helper()
	dir := t.TempDir()
	suite.Write(t, dir, "alertmanager.yml", "route: {receiver: nobody}\nreceivers: [{name: nobody}]\n")
	address = suite.FreeAddress(t)
	suite.Background(t, ctx, suite.Program(t, suite.SkipPrometheus, "prometheus-alertmanager", "alertmanager"),
		"--config.file="+filepath.Join(dir, "alertmanager.yml"), "--storage.path="+dir, "--web.listen-address="+address, "--cluster.listen-address=")
	return address
}
