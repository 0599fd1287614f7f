package config

import (
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/vault-tokens/vault-plugin-secrets-tokens/internal/tokenwatch"
	"github.com/vault-tokens/vault-plugin-secrets-tokens/internal/tokenwatch/source"
)

func parse(text string) (Config, error) {
	c := Default()
	return c, c.parse([]byte(text))
}

func load(t *testing.T, text string) (Config, error) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "c.yaml")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return Load(path)
}

func TestLoad(t *testing.T) {
	c, err := load(t, `
source: {file: /var/log/vault/audit.log, from_end: true}
state: /var/lib/tokenwatch/state
repeat_interval: 5m
sinks:
  terminal: {enabled: false}
  json: [{file: /tmp/x, min_severity: Critical}]
  webhook: [{url: "https://example.com/x", headers: {X: y}, timeout: 3s}]
  alertmanager: [{url: "http://127.0.0.1:9093"}]
rules:
  failed_access: {threshold: 3, window: 90s, ignore: [app, 10.0.0.0/8]}
  silence: {enabled: false}
`)
	if err != nil {
		t.Fatal(err)
	}
	if c.RepeatInterval != 5*time.Minute || c.Rules.FailedAccess.Threshold != 3 || c.Rules.FailedAccess.Window != 90*time.Second || c.Rules.Silence.Enabled ||
		c.Sinks.JSON[0].MinSeverity != tokenwatch.SeverityCritical || c.Sinks.Webhook[0].MinSeverity != tokenwatch.SeverityInfo {
		t.Errorf("%+v", c)
	}
	// What is not named keeps its default.
	if d := Default(); c.ResolveTimeout != d.ResolveTimeout || c.Rules.FailedAccess.MountThreshold != d.Rules.FailedAccess.MountThreshold || !c.Rules.FailedAccess.Enabled {
		t.Errorf("%+v", c)
	}
	if _, err := load(t, ""); err != nil {
		t.Errorf("an empty file: %v", err)
	}
}

func TestMistakesAreNamed(t *testing.T) {
	for text, want := range map[string]string{
		"rules: {failed_acess: {}}":                                "failed_acess",
		"rules: {failed_access: {treshold: 3}}":                    "treshold",
		"rules: {failed_access: {threshold: 0}}":                   "rules.failed_access.threshold",
		"rules: {failed_access: {window: five}}":                   "line 1",
		"rules: {failed_access: {severity: bad}}":                  "rules.failed_access.severity",
		"source: {file: /a, socket: 'tcp://127.0.0.1:1'}":          "exclude each other",
		"source: {socket: 'http://x'}":                             "source.socket",
		"source: {max_line_bytes: 1}":                              "source.max_line_bytes",
		"metrics: {listen: x}":                                     "metrics.listen",
		"page: {listen: x}":                                        "page.listen",
		"repeat_interval: 0s":                                      "repeat_interval",
		"repeat: 15m":                                              "field repeat not found",
		"open_for: 1h":                                             "field open_for not found",
		"mount_types: []":                                          "mount_types",
		"sinks: {webhook: [{url: x}]}":                             "sinks.webhook[0].url",
		"sinks: {json: [{}]}":                                      "sinks.json[0].file",
		"sinks: {terminal: {min_severity: x}}":                     "sinks.terminal.min_severity",
		"sinks: {alertmanager: [{url: 'http://a', ca_file: /no}]}": "sinks.alertmanager[0].ca_file",
		"a: b\n---\nc: d":                                          "a",
		"{}\n---\n{}":                                              "more than one document",
		"- x":                                                      "cannot unmarshal",
	} {
		if _, err := parse(text); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %s", text, err, want)
		}
	}
	_, err := parse("repeat_interval: 0s\nresolve_timeout: 0s\nrules: {silence: {after: 0s}}")
	for _, want := range []string{"repeat_interval", "resolve_timeout", "rules.silence.after"} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s is not named in %v", want, err)
		}
	}
}

func TestOpenSinks(t *testing.T) {
	dir := t.TempDir()
	c, err := parse("sinks: {json: [{file: '" + dir + "/alerts'}, {file: '-', min_severity: warning}], webhook: [{url: 'https://example.com/x', give_up_after: 1m}], alertmanager: [{url: 'http://127.0.0.1:9093'}]}")
	if err != nil {
		t.Fatal(err)
	}
	sinks, err := c.OpenSinks(io.Discard)
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, s := range append(sinks, c.Console(io.Discard, false), c.Console(io.Discard, true)) {
		got = append(got, fmt.Sprint(s.Name(), " ", s.MinSeverity, " ", s.GiveUpAfter))
	}
	want := []string{
		"json " + dir + "/alerts info 0s", "json - warning 0s", "webhook example.com info 1m0s", "alertmanager 127.0.0.1:9093 info 0s",
		"terminal info 0s", "json - info 0s",
	}
	if !slices.Equal(got, want) {
		t.Errorf("%q, want %q", got, want)
	}
	c.Sinks.JSON[0].File = dir + "/missing/alerts"
	if _, err := c.OpenSinks(io.Discard); err == nil || !strings.Contains(err.Error(), "/missing/alerts") {
		t.Errorf("a file that cannot be opened: %v", err)
	}
}

func TestOpenSource(t *testing.T) {
	log, from := slog.New(slog.DiscardHandler), &tokenwatch.Position{Offset: 7}
	s := Source{File: "/x", FromEnd: true, MaxLine: 2048}
	opened, err := s.Open(from, log)
	if err != nil {
		t.Fatal(err)
	}
	if f, ok := opened.(*source.File); !ok || f.Path != "/x" || f.From != from || !f.FromEnd || f.MaxLine != 2048 {
		t.Errorf("%+v", opened)
	}
	s = Source{Socket: "unix://" + t.TempDir() + "/missing/socket"}
	if _, err := s.Open(nil, log); err == nil {
		t.Error("a socket that cannot be opened")
	}
}

func TestMonitorOptions(t *testing.T) {
	c := Default()
	c.GeoDatabase = filepath.Join(t.TempDir(), "none.mmdb")
	if _, _, err := c.MonitorOptions(nil); err == nil || !strings.Contains(err.Error(), "none.mmdb") {
		t.Errorf("a geo database that is missing: %v", err)
	}
	c = Default()
	opts, release, err := c.MonitorOptions(nil)
	if err != nil {
		t.Fatal(err)
	}
	defer release()
	if len(opts.Rules) == 0 || opts.RepeatInterval != c.RepeatInterval || opts.ResolveTimeout != c.ResolveTimeout || len(opts.MountTypes) != 1 {
		t.Errorf("%+v", opts)
	}
}
