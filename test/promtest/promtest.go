// Package promtest runs a real Prometheus and a real Alertmanager, and asks
// them and the programs that they watch, for tests.
package promtest

import (
	"context"
	"encoding/json"
	"fmt"
	"net/url"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/vault-tokens/vault-plugin-secrets-tokens/test/suite"
)

// Prometheus is a running one.
type Prometheus struct {
	Address string // host:port
	t       *testing.T
	ctx     context.Context
}

// StartPrometheus runs Prometheus with a configuration, which is written into
// dir and may name other files there, until the test ends.
func StartPrometheus(t *testing.T, ctx context.Context, dir, config string) *Prometheus {
	t.Helper()
	binary := suite.Program(t, suite.SkipPrometheus, "prometheus")
	p := &Prometheus{Address: suite.FreeAddress(t), t: t, ctx: ctx}
	suite.Background(t, ctx, binary, "--config.file="+suite.Write(t, dir, "prometheus.yml", config),
		"--storage.tsdb.path="+filepath.Join(dir, "data"), "--web.listen-address="+p.Address)
	return p
}

// Await asks a query until the values that it results in are as wanted.
func (p *Prometheus) Await(query string, wanted func(values []float64) bool) {
	p.t.Helper()
	type answer struct {
		Data struct {
			Result []struct {
				Value []json.RawMessage // time and value
			}
		}
	}
	suite.AwaitJSON(p.t, p.ctx, "http://"+p.Address+"/api/v1/query?query="+url.QueryEscape(query), func(a answer) bool {
		var values []float64
		for _, r := range a.Data.Result {
			value, err := sampleValue(r.Value)
			if err != nil {
				p.t.Fatalf("%s: %v", query, err)
			}
			values = append(values, value)
		}
		return wanted(values)
	})
}

func sampleValue(timeAndValue []json.RawMessage) (float64, error) {
	if len(timeAndValue) != 2 {
		return 0, fmt.Errorf("no pair of time and value: %s", timeAndValue)
	}
	var text string
	if err := json.Unmarshal(timeAndValue[1], &text); err != nil {
		return 0, err
	}
	return strconv.ParseFloat(text, 64)
}

// Any wants a result.
func Any(values []float64) bool { return len(values) > 0 }

// One wants one result of at least a value.
func One(atLeast float64) func(values []float64) bool {
	return func(values []float64) bool { return len(values) == 1 && values[0] >= atLeast }
}

// Alertmanager is a running one, which passes on nothing.
type Alertmanager struct {
	Address string // host:port
	t       *testing.T
	ctx     context.Context
}

// Alert is what Alertmanager tells of an alert.
type Alert struct{ Labels, Annotations map[string]string }

// StartAlertmanager runs Alertmanager until the test ends, and returns once it
// answers.
func StartAlertmanager(t *testing.T, ctx context.Context) *Alertmanager {
	t.Helper()
	binary := suite.Program(t, suite.SkipPrometheus, "prometheus-alertmanager", "alertmanager")
	dir := t.TempDir()
	config := suite.Write(t, dir, "alertmanager.yml", "route: {receiver: nobody}\nreceivers: [{name: nobody}]\n")
	a := &Alertmanager{Address: suite.FreeAddress(t), t: t, ctx: ctx}
	suite.Background(t, ctx, binary, "--config.file="+config, "--storage.path="+filepath.Join(dir, "data"),
		"--web.listen-address="+a.Address, "--cluster.listen-address=")
	suite.AwaitJSON(t, ctx, "http://"+a.Address+"/api/v2/status", func(s map[string]any) bool { return s["versionInfo"] != nil })
	return a
}

// Await waits until the alerts whose labels match a filter, such as
// alertname="x", are as wanted. An empty filter is all.
func (a *Alertmanager) Await(filter string, wanted func([]Alert) bool) []Alert {
	a.t.Helper()
	address := "http://" + a.Address + "/api/v2/alerts"
	if filter != "" {
		address += "?filter=" + url.QueryEscape(filter)
	}
	return suite.AwaitJSON(a.t, a.ctx, address, wanted)
}

// Promtool runs Prometheus' own checker, and returns what it prints.
func Promtool(t *testing.T, stdin string, args ...string) string {
	t.Helper()
	cmd := exec.CommandContext(suite.Context(), suite.Program(t, suite.SkipPrometheus, "promtool"), args...)
	cmd.Stdin = strings.NewReader(stdin)
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Errorf("promtool %s: %v\n%s", strings.Join(args, " "), err, out)
	}
	return string(out)
}

// Scrape reads metrics as text.
func Scrape(t *testing.T, ctx context.Context, url string) string {
	t.Helper()
	raw, err := suite.Get(ctx, url)
	if err != nil {
		t.Fatal(err)
	}
	return string(raw)
}

// Samples are the values in a text of metrics, by name and labels.
func Samples(text string) map[string]string {
	samples := map[string]string{}
	for line := range strings.Lines(text) {
		if name, value, ok := strings.Cut(strings.TrimSpace(line), " "); ok && !strings.HasPrefix(line, "#") {
			samples[name] = value
		}
	}
	return samples
}
