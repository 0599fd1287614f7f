package web

import (
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/vault-tokens/vault-plugin-secrets-tokens/internal/tokenwatch"
)

// RuleSeries is a rule with its usual severity: the series for both exists, with
// the value 0, before the first alert.
type RuleSeries struct {
	Name     string
	Severity tokenwatch.Severity
}

// ListenMetrics binds /metrics and /healthz to address, host:port.
func ListenMetrics(address string, from tokenwatch.Snapshotter, version string, rules []RuleSeries) (*Server, error) {
	server, err := listen(address, func(string) http.Handler { return metricsHandler(from, version, rules) })
	if err != nil {
		return nil, fmt.Errorf("metrics: %w", err)
	}
	return server, nil
}

// metricsHandler serves Prometheus and health checks. It accepts any host name,
// as they may use one that is not known here.
func metricsHandler(from tokenwatch.Snapshotter, version string, rules []RuleSeries) http.Handler {
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", exposition(from, version, rules))
	mux.Handle("GET /healthz", health(from))
	return mux
}

// exposition serves the text format of Prometheus, version 0.0.4.
func exposition(from tokenwatch.Snapshotter, version string, rules []RuleSeries) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/plain; version=0.0.4; charset=utf-8")
		writeMetrics(w, from.Snapshot(), version, rules)
	})
}

// health answers as long as the process can take a snapshot.
func health(from tokenwatch.Snapshotter) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		s := from.Snapshot()
		last := "none"
		if !s.LastEntry.IsZero() {
			last = s.LastEntry.UTC().Format(time.RFC3339)
		}
		w.Header().Set("Content-Type", "application/json")
		fmt.Fprintf(w, "{\"status\":\"ok\",\"lines\":%d,\"last_entry\":%q}\n", s.Lines, last)
	})
}

type metricsWriter struct{ b strings.Builder }

func writeMetrics(w io.Writer, s tokenwatch.Snapshot, version string, rules []RuleSeries) {
	out := &metricsWriter{}
	out.family("tokenwatch_build_info", "gauge", "Version of tokenwatch; the value is 1.")
	out.value("tokenwatch_build_info", 1, "version", version)
	out.single("tokenwatch_start_time_seconds", "gauge", "When this process started.", seconds(s.Started))
	out.single("tokenwatch_last_entry_time_seconds", "gauge", "Time of the latest entry in the audit log, of any mount; 0 if there was none.", seconds(s.LastEntry))
	out.single("tokenwatch_lines_total", "counter", "Lines read from the audit log, of any mount.", float64(s.Lines))
	out.single("tokenwatch_malformed_lines_total", "counter", "Lines that are not audit entries.", float64(s.Malformed))
	out.single("tokenwatch_oversized_lines_total", "counter", "Lines longer than the limit.", float64(s.Oversized))
	out.single("tokenwatch_dropped_lines_total", "counter", "Lines from a socket that arrived faster than they were processed.", float64(s.Dropped))

	out.family("tokenwatch_events_total", "counter", "Requests about the engine, by kind, outcome and mount.")
	for _, e := range s.Events {
		out.value("tokenwatch_events_total", float64(e.Count), "kind", e.Kind, "outcome", e.Outcome, "mount", e.Mount)
	}
	out.alerts(s, rules)
	out.family("tokenwatch_sink_alerts_total", "counter", "Alerts that a sink accepted (sent) or did not (failed).")
	for _, c := range s.Sinks {
		out.value("tokenwatch_sink_alerts_total", float64(c.Sent), "sink", c.Sink, "result", "sent")
		out.value("tokenwatch_sink_alerts_total", float64(c.Failed), "sink", c.Sink, "result", "failed")
	}
	out.family("tokenwatch_sink_queue_length", "gauge", "Alerts waiting for a sink.")
	for _, c := range s.Sinks {
		out.value("tokenwatch_sink_queue_length", float64(c.Queued), "sink", c.Sink)
	}
	_, _ = io.WriteString(w, out.b.String())
}

func (out *metricsWriter) alerts(s tokenwatch.Snapshot, rules []RuleSeries) {
	out.family("tokenwatch_alerts_total", "counter", "Alerts, each counted once, when it is new.")
	raised := make(map[RuleSeries]bool)
	for _, c := range s.Alerts {
		raised[RuleSeries{c.Rule, c.Severity}] = true
		out.value("tokenwatch_alerts_total", float64(c.Count), "rule", c.Rule, "severity", string(c.Severity))
	}
	for _, r := range rules {
		if !raised[r] {
			out.value("tokenwatch_alerts_total", 0, "rule", r.Name, "severity", string(r.Severity))
		}
	}
	open := make(map[tokenwatch.Severity]int)
	for _, a := range s.Open {
		open[a.Severity]++
	}
	out.family("tokenwatch_open_alerts", "gauge", "Alerts that are not resolved.")
	for _, severity := range []tokenwatch.Severity{tokenwatch.SeverityInfo, tokenwatch.SeverityWarning, tokenwatch.SeverityCritical} {
		out.value("tokenwatch_open_alerts", float64(open[severity]), "severity", string(severity))
	}
}

func seconds(t time.Time) float64 {
	if t.IsZero() {
		return 0
	}
	return float64(t.UnixMilli()) / 1000
}

func (out *metricsWriter) family(name, kind, help string) {
	fmt.Fprintf(&out.b, "# HELP %s %s\n# TYPE %s %s\n", name, help, name, kind)
}

func (out *metricsWriter) single(name, kind, help string, value float64) {
	out.family(name, kind, help)
	out.value(name, value)
}

var escapeLabel = strings.NewReplacer(`\`, `\\`, "\n", `\n`, `"`, `\"`)

// value writes a sample; labels alternates names and values. Operators choose the
// names of mounts, so values are escaped and made valid UTF-8.
func (out *metricsWriter) value(name string, value float64, labels ...string) {
	out.b.WriteString(name)
	for i := 0; i+1 < len(labels); i += 2 {
		sep := byte(',')
		if i == 0 {
			sep = '{'
		}
		out.b.WriteByte(sep)
		fmt.Fprintf(&out.b, `%s="%s"`, labels[i], escapeLabel.Replace(strings.ToValidUTF8(labels[i+1], "�")))
	}
	if len(labels) > 0 {
		out.b.WriteByte('}')
	}
	out.b.WriteString(" " + strconv.FormatFloat(value, 'f', -1, 64) + "\n")
}
