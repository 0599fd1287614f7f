package test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/vault-tokens/vault-plugin-secrets-tokens/test/vaulttest"
)

// TestDeployedWithPrometheusAndAlertmanager runs what deploy/ is for: a real
// Prometheus with the configuration and alert rules from there scrapes a real
// Vault over TLS and a tokenwatch that follows its log, and both of them alert
// through a real Alertmanager.
func TestDeployedWithPrometheusAndAlertmanager(t *testing.T) {
	ctx := deadline(t, 4*time.Minute)
	s := own(t, vaulttest.Options{Audit: true, Metrics: true, TLS: true}).in(t, ctx)
	s.setUpAudit()
	s.useAndAttack()

	alertmanager := startAlertmanager(t, ctx)
	config := filepath.Join(t.TempDir(), "tokenwatch.yaml")
	if err := os.WriteFile(config, fmt.Appendf(nil, "sinks: {alertmanager: [{url: \"http://%s\"}]}\n", alertmanager), 0o600); err != nil {
		t.Fatal(err)
	}
	w := s.watch("-config", config)
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
	var alerts []struct{ Labels, Annotations map[string]string }
	find := func(name string) (annotations map[string]string) {
		for _, a := range alerts {
			if a.Labels["alertname"] == name {
				return a.Annotations
			}
		}
		return nil
	}
	err := vaulttest.Poll(ctx, time.Minute, func() (bool, error) {
		alerts = nil
		decode(t, []byte(scrape(t, ctx, "http://"+alertmanager+"/api/v2/alerts")), &alerts)
		return find("TokenwatchCriticalFinding") != nil && find("tokenwatch_outside_bound_cidrs") != nil, fmt.Errorf("alertmanager has %v", alerts)
	})
	if err != nil {
		t.Fatal(err)
	}
	told := find("tokenwatch_outside_bound_cidrs")
	for _, name := range []string{"summary", "who", "where", "token_id", "advice"} {
		if told[name] == "" {
			t.Errorf("tokenwatch's alert says nothing of %s: %v", name, told)
		}
	}
}

func awaitQuery(t *testing.T, ctx context.Context, prometheus, query string) {
	t.Helper()
	err := vaulttest.Poll(ctx, time.Minute, func() (bool, error) {
		var answer struct {
			Data struct{ Result []json.RawMessage }
		}
		decode(t, []byte(scrape(t, ctx, "http://"+prometheus+"/api/v1/query?query="+url.QueryEscape(query))), &answer)
		return len(answer.Data.Result) > 0, fmt.Errorf("nothing for %s", query)
	})
	if err != nil {
		t.Error(err)
	}
}

// startPrometheus runs it with the files of deploy/prometheus, in which only
// addresses, file names and the interval are put in.
func (s *session) startPrometheus(tokenwatch, alertmanager string) (address string) {
	s.t.Helper()
	dir := s.t.TempDir()
	for _, file := range deployed(s.t, "deploy/prometheus/*.rules.yml") {
		if err := copyFile(file, dir); err != nil {
			s.t.Fatal(err)
		}
	}
	token, err := s.NewToken(s.ctx, "prometheus", vaulttest.Policy("sys/metrics", "read"), "service", "1h")
	if err != nil {
		s.t.Fatal(err)
	}
	tokenFile := filepath.Join(dir, "vault-token")
	config := read(s.t, "deploy/prometheus/prometheus.yml")
	for _, put := range [][2]string{
		{"127.0.0.1:9468", tokenwatch},
		{"127.0.0.1:9093", alertmanager},
		{"127.0.0.1:8200", strings.TrimPrefix(s.Addr, "https://")},
		{"/etc/prometheus/vault-token", tokenFile},
		{"/etc/prometheus/vault-ca.pem", s.CAFile},
		{"_interval: 15s", "_interval: 1s"},
	} {
		if !strings.Contains(config, put[0]) {
			s.t.Fatalf("deploy/prometheus/prometheus.yml does not say %q", put[0])
		}
		config = strings.ReplaceAll(config, put[0], put[1])
	}
	for file, content := range map[string]string{tokenFile: token, filepath.Join(dir, "prometheus.yml"): config} {
		if err := os.WriteFile(file, []byte(content), 0o600); err != nil {
			s.t.Fatal(err)
		}
	}
	address = freeAddress(s.t)
	startServer(s.t, s.ctx, "http://"+address+"/-/ready", "prometheus",
		"--config.file="+filepath.Join(dir, "prometheus.yml"), "--storage.tsdb.path="+filepath.Join(dir, "data"), "--web.listen-address="+address)
	return address
}

func startAlertmanager(t *testing.T, ctx context.Context) (address string) {
	t.Helper()
	dir := t.TempDir()
	config := filepath.Join(dir, "alertmanager.yml")
	if err := os.WriteFile(config, []byte("route: {receiver: nobody}\nreceivers: [{name: nobody}]\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	program := "prometheus-alertmanager" // as Debian calls it
	if _, err := exec.LookPath(program); err != nil {
		program = "alertmanager"
	}
	address = freeAddress(t)
	startServer(t, ctx, "http://"+address+"/-/ready", program,
		"--config.file="+config, "--storage.path="+dir, "--web.listen-address="+address, "--cluster.listen-address=")
	return address
}

// startServer runs a program until the test ends, and waits until it is ready.
func startServer(t *testing.T, ctx context.Context, ready, program string, args ...string) {
	t.Helper()
	var said bytes.Buffer
	cmd := exec.CommandContext(ctx, program, args...)
	cmd.Stdout, cmd.Stderr = &said, &said
	if err := cmd.Start(); err != nil {
		t.Fatalf("the tests of deploy/ need %s: %v", program, err)
	}
	exited := make(chan struct{})
	go func() {
		_ = cmd.Wait()
		close(exited)
	}()
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		<-exited
		if t.Failed() {
			lines := strings.Split(strings.TrimSpace(said.String()), "\n")
			t.Logf("%s:\n%s", program, strings.Join(lines[max(0, len(lines)-15):], "\n"))
		}
	})
	err := vaulttest.Poll(ctx, time.Minute, func() (bool, error) {
		select {
		case <-exited:
			t.Fatalf("%s has ended:\n%s", program, said.String())
		default:
		}
		resp, err := http.Get(ready)
		if err != nil {
			return false, err
		}
		defer resp.Body.Close()
		return resp.StatusCode == http.StatusOK, fmt.Errorf("%s: %s", ready, resp.Status)
	})
	if err != nil {
		t.Fatal(err)
	}
}
