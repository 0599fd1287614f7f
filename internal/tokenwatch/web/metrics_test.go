package web

import (
	"encoding/json"
	"net/http/httptest"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/vault-tokens/vault-plugin-secrets-tokens/internal/tokenwatch"
)

var sampled = snapshot{
	Started: time.Unix(1000, 5e8), LastEntry: time.Unix(2000, 0), Lines: 1 << 40, Malformed: 2, Oversized: 3, Dropped: 4,
	Events: []tokenwatch.EventCount{{Kind: "issue", Outcome: "ok", Mount: "evil\"}\n\\\xff\x1b 1\nfake_total 7", Count: 5}},
	Alerts: []tokenwatch.AlertCount{{Rule: "silence", Severity: tokenwatch.SeverityCritical, Count: 6}},
	Sinks:  []tokenwatch.SinkCount{{Sink: "webhook example.com", Sent: 7, Failed: 8, Queued: 9}},
	Open:   []tokenwatch.Alert{{Severity: tokenwatch.SeverityCritical}, {Severity: tokenwatch.SeverityCritical}},
}

func TestMetrics(t *testing.T) {
	w := httptest.NewRecorder()
	metricsHandler(sampled, "v1", []RuleSeries{{"silence", tokenwatch.SeverityCritical}, {"root_token", tokenwatch.SeverityWarning}}).ServeHTTP(w, httptest.NewRequest("GET", "/metrics", nil))
	body := w.Body.String()
	for _, want := range []string{
		`tokenwatch_build_info{version="v1"} 1`, "tokenwatch_start_time_seconds 1000.5", "tokenwatch_last_entry_time_seconds 2000", "tokenwatch_lines_total 1099511627776",
		"tokenwatch_malformed_lines_total 2", "tokenwatch_oversized_lines_total 3", "tokenwatch_dropped_lines_total 4",
		`tokenwatch_alerts_total{rule="silence",severity="critical"} 6`, `tokenwatch_alerts_total{rule="root_token",severity="warning"} 0`,
		`tokenwatch_open_alerts{severity="critical"} 2`, `tokenwatch_open_alerts{severity="info"} 0`,
		`tokenwatch_sink_alerts_total{sink="webhook example.com",result="failed"} 8`, `tokenwatch_sink_queue_length{sink="webhook example.com"} 9`,
	} {
		if !strings.Contains(body, want+"\n") {
			t.Errorf("%s is missing in\n%s", want, body)
		}
	}
	if strings.Count(body, `rule="silence"`) != 1 {
		t.Error("a series is there twice")
	}
	// Each line is a comment or a sample, whatever a mount is called.
	line := regexp.MustCompile(`^(# (HELP|TYPE) tokenwatch_\w+ .*|tokenwatch_\w+(\{(\w+="([^"\\]|\\.)*",?)*\})? [0-9.e+-]+)$`)
	for text := range strings.SplitSeq(strings.TrimSuffix(body, "\n"), "\n") {
		if !line.MatchString(text) {
			t.Errorf("not a line of metrics: %q", text)
		}
	}
}

func TestHealth(t *testing.T) {
	for want, s := range map[string]snapshot{"none": {}, "1970-01-01T00:33:20Z": sampled} {
		w := httptest.NewRecorder()
		metricsHandler(s, "v1", nil).ServeHTTP(w, httptest.NewRequest("GET", "/healthz", nil))
		var answer map[string]any
		if err := json.Unmarshal(w.Body.Bytes(), &answer); err != nil || answer["status"] != "ok" || answer["last_entry"] != want || w.Code != 200 {
			t.Errorf("%v: %v", err, answer)
		}
	}
}
