package test

import (
	"bytes"
	"context"
	"encoding/json"
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

	"github.com/vault-tokens/vault-plugin-secrets-tokens/test/vaulttest"
)

// program finds a program of Debian's packages, which CI installs.
func program(t *testing.T, name, pkg string) string {
	t.Helper()
	path, err := exec.LookPath(name)
	if err != nil {
		if os.Getenv("CI") != "" {
			t.Fatalf("%s is missing: apt-get install %s", name, pkg)
		}
		t.Skipf("SKIPPED: %s is not installed; apt-get install %s", name, pkg)
	}
	return path
}

// background runs a program for as long as the test does. What it says is in
// the file that is returned.
func background(t *testing.T, ctx context.Context, command ...string) string {
	t.Helper()
	log := filepath.Join(t.TempDir(), "log")
	out, err := os.Create(log)
	if err != nil {
		t.Fatal(err)
	}
	defer out.Close()
	ctx, cancel := context.WithCancel(ctx)
	cmd := exec.CommandContext(ctx, command[0], command[1:]...)
	cmd.Stdout, cmd.Stderr, cmd.Dir = out, out, filepath.Dir(log)
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		cancel()
		_ = cmd.Wait()
		if t.Failed() {
			said, _ := os.ReadFile(log)
			t.Logf("%s said:\n%s", filepath.Base(command[0]), said[max(0, len(said)-3000):])
		}
	})
	return log
}

// getJSON asks an HTTP API until it answers as wanted.
func getJSON[T any](t *testing.T, ctx context.Context, url string, wanted func(T) bool) T {
	t.Helper()
	var last T
	if err := vaulttest.Poll(ctx, time.Minute, func() (bool, error) {
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
		if err != nil {
			return false, err
		}
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			return false, err
		}
		defer resp.Body.Close()
		raw, err := io.ReadAll(resp.Body)
		if err != nil {
			return false, err
		}
		var answer T
		if err := json.Unmarshal(raw, &answer); err != nil {
			return false, fmt.Errorf("%w: %s", err, raw)
		}
		last = answer
		return wanted(answer), nil
	}); err != nil {
		t.Fatalf("%s: %v; the last answer: %+v", url, err, last)
	}
	return last
}

// TestWatchPrometheusAndAlertmanager has a real Prometheus scrape tokenwatch,
// and a real Alertmanager get its alerts, while a real Vault is attacked.
func TestWatchPrometheusAndAlertmanager(t *testing.T) {
	prometheus := program(t, "prometheus", "prometheus")
	alertmanager := program(t, "prometheus-alertmanager", "prometheus-alertmanager")
	w := watch(t)
	dir := t.TempDir()

	amAddress := freeAddress(t)
	write(t, dir, "alertmanager.yml", "route: {receiver: nobody}\nreceivers: [{name: nobody}]\n")
	background(t, w.ctx, alertmanager, "--config.file="+filepath.Join(dir, "alertmanager.yml"), "--storage.path="+filepath.Join(dir, "am"),
		"--web.listen-address="+amAddress, "--cluster.listen-address=")
	getJSON(t, w.ctx, "http://"+amAddress+"/api/v2/status", func(s map[string]any) bool { return s["versionInfo"] != nil })

	write(t, dir, "tokenwatch.yaml", "sinks: {terminal: {enabled: false}, alertmanager: [{url: 'http://"+amAddress+"'}]}\nrules: {revoked_token: {grace: 0s}}\n")
	log := background(t, w.ctx, tokenwatch(t), "follow", "-config", filepath.Join(dir, "tokenwatch.yaml"), "-file", w.AuditFile, "-metrics", "127.0.0.1:0")
	var metrics string
	if err := vaulttest.Poll(w.ctx, 30*time.Second, func() (bool, error) {
		said, err := os.ReadFile(log)
		if found := regexp.MustCompile(`msg=metrics url=http://(\S+)/metrics`).FindSubmatch(said); found != nil {
			metrics = string(found[1])
		}
		return metrics != "", err
	}); err != nil {
		t.Fatal(err)
	}
	checkExposition(t, w.ctx, "http://"+metrics+"/metrics")

	promAddress := freeAddress(t)
	write(t, dir, "prometheus.yml", "global: {scrape_interval: 1s}\nscrape_configs: [{job_name: tokenwatch, static_configs: [{targets: ['"+metrics+"']}]}]\n")
	background(t, w.ctx, prometheus, "--config.file="+filepath.Join(dir, "prometheus.yml"), "--storage.tsdb.path="+filepath.Join(dir, "prom"), "--web.listen-address="+promAddress)

	token := w.issue("watched-bearer", nil)
	w.wantActive(token)
	w.as(w.app, "POST", "tokens/revoke", fields{"token": token.Data.Token})
	w.wantInactive(token.Data.Token)

	type managed struct {
		Labels      map[string]string
		Annotations map[string]string
	}
	var got managed
	getJSON(t, w.ctx, "http://"+amAddress+"/api/v2/alerts?filter="+url.QueryEscape(`alertname="tokenwatch_revoked_token"`), func(alerts []managed) bool {
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
		getJSON(t, w.ctx, "http://"+promAddress+"/api/v1/query?query="+url.QueryEscape(query), func(r result) bool {
			if len(r.Data.Result) != 1 {
				return false
			}
			text, _ := r.Data.Result[0].Value[1].(string)
			n := 0
			_, err := fmt.Sscan(text, &n)
			return err == nil && n >= atLeast
		})
	}
	health := getJSON(t, w.ctx, "http://"+metrics+"/healthz", func(map[string]any) bool { return true })
	if health["status"] != "ok" {
		t.Errorf("health: %v", health)
	}
}

// checkExposition has promtool look at the metrics' form and names.
func checkExposition(t *testing.T, ctx context.Context, url string) {
	t.Helper()
	promtool := program(t, "promtool", "prometheus")
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

func write(t *testing.T, dir, name, content string) {
	t.Helper()
	if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
}
