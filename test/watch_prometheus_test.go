package test

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/vault-tokens/vault-plugin-secrets-tokens/test/suite"
	"github.com/vault-tokens/vault-plugin-secrets-tokens/test/vaulttest"
)

// TestWatchPrometheusAndAlertmanager has a real Prometheus scrape tokenwatch,
// and a real Alertmanager get its alerts, while a real Vault is attacked.
func TestWatchPrometheusAndAlertmanager(t *testing.T) {
	prometheus := suite.Program(t, suite.SkipPrometheus, "prometheus")
	alertmanager := suite.Program(t, suite.SkipPrometheus, "prometheus-alertmanager", "alertmanager")
	w := watch(t)
	dir := t.TempDir()

	amAddress := suite.FreeAddress(t)
	suite.Write(t, dir, "alertmanager.yml", "route: {receiver: nobody}\nreceivers: [{name: nobody}]\n")
	suite.Background(t, w.Ctx, alertmanager, "--config.file="+filepath.Join(dir, "alertmanager.yml"), "--storage.path="+filepath.Join(dir, "am"),
		"--web.listen-address="+amAddress, "--cluster.listen-address=")
	suite.AwaitJSON(t, w.Ctx, "http://"+amAddress+"/api/v2/status", func(s map[string]any) bool { return s["versionInfo"] != nil })

	suite.Write(t, dir, "tokenwatch.yaml", "sinks: {terminal: {enabled: false}, alertmanager: [{url: 'http://"+amAddress+"'}]}\nrules: {revoked_token: {grace: 0s}}\n")
	log := suite.Background(t, w.Ctx, vaulttest.Tokenwatch(t), "follow", "-config", filepath.Join(dir, "tokenwatch.yaml"), "-file", w.AuditFile, "-metrics", "127.0.0.1:0")
	var metrics string
	if err := suite.Poll(w.Ctx, 30*time.Second, func() (bool, error) {
		said, err := os.ReadFile(log)
		if found := regexp.MustCompile(`msg=metrics url=http://(\S+)/metrics`).FindSubmatch(said); found != nil {
			metrics = string(found[1])
		}
		return metrics != "", err
	}); err != nil {
		t.Fatal(err)
	}
	checkExposition(t, w.Ctx, "http://"+metrics+"/metrics")

	promAddress := suite.FreeAddress(t)
	suite.Write(t, dir, "prometheus.yml", "global: {scrape_interval: 1s}\nscrape_configs: [{job_name: tokenwatch, static_configs: [{targets: ['"+metrics+"']}]}]\n")
	suite.Background(t, w.Ctx, prometheus, "--config.file="+filepath.Join(dir, "prometheus.yml"), "--storage.tsdb.path="+filepath.Join(dir, "prom"), "--web.listen-address="+promAddress)

	token := w.Issue("watched-bearer", nil)
	w.WantActive(token)
	w.as(w.App, "POST", "tokens/revoke", fields{"token": token.Data.Token})
	w.WantInactive(token.Data.Token)

	type managed struct {
		Labels      map[string]string
		Annotations map[string]string
	}
	var got managed
	suite.AwaitJSON(t, w.Ctx, "http://"+amAddress+"/api/v2/alerts?filter="+url.QueryEscape(`alertname="tokenwatch_revoked_token"`), func(alerts []managed) bool {
		if len(alerts) > 0 {
			got = alerts[0]
		}
		return len(alerts) == 1
	})
	for name, want := range map[string]string{"severity": "critical", "mount": "tokens/", "role": "watched-bearer"} {
		if got.Labels[name] != want {
			t.Errorf("label %s is %q, want %q", name, got.Labels[name], want)
		}
	}
	if a := got.Annotations; a["token_id"] != token.Data.TokenID || a["lease_id"] != token.LeaseID || a["advice"] == "" || a["who"] == "" || a["summary"] == "" {
		t.Errorf("annotations: %v", a)
	}
	for query, atLeast := range map[string]int{
		`sum(tokenwatch_events_total{kind="introspect",outcome="active",mount="tokens/"})`: 1,
		`tokenwatch_alerts_total{rule="revoked_token",severity="critical"}`:                1,
		`tokenwatch_open_alerts{severity="critical"}`:                                      1,
		`tokenwatch_sink_alerts_total{result="sent"}`:                                      1,
		`up{job="tokenwatch"}`: 1,
	} {
		type result struct {
			Data struct {
				Result []struct{ Value [2]any }
			}
		}
		suite.AwaitJSON(t, w.Ctx, "http://"+promAddress+"/api/v1/query?query="+url.QueryEscape(query), func(r result) bool {
			if len(r.Data.Result) != 1 {
				return false
			}
			text, _ := r.Data.Result[0].Value[1].(string)
			n := 0
			_, err := fmt.Sscan(text, &n)
			return err == nil && n >= atLeast
		})
	}
	health := suite.AwaitJSON(t, w.Ctx, "http://"+metrics+"/healthz", func(map[string]any) bool { return true })
	if health["status"] != "ok" {
		t.Errorf("health: %v", health)
	}
}

// checkExposition has promtool look at the metrics' form and names.
func checkExposition(t *testing.T, ctx context.Context, url string) {
	t.Helper()
	promtool := suite.Program(t, suite.SkipPrometheus, "promtool")
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	cmd := exec.CommandContext(ctx, promtool, "check", "metrics")
	var raw bytes.Buffer
	cmd.Stdin = io.TeeReader(resp.Body, &raw)
	if out, err := cmd.CombinedOutput(); err != nil || len(bytes.TrimSpace(out)) > 0 {
		t.Errorf("promtool check metrics: %v\n%s", err, out)
	}
	if !strings.Contains(raw.String(), `tokenwatch_alerts_total{rule="silence",severity="critical"} 0`) {
		t.Error("the series of a rule is not there before its first alert")
	}
}
