package config

import (
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"github.com/vault-tokens/vault-plugin-secrets-tokens/internal/tokenwatch"
	"github.com/vault-tokens/vault-plugin-secrets-tokens/internal/tokenwatch/monitor"
	"github.com/vault-tokens/vault-plugin-secrets-tokens/internal/tokenwatch/sink"
)

// Sinks configures where alerts are sent.
type Sinks struct {
	Terminal     Terminal       `yaml:"terminal"`
	JSON         []JSON         `yaml:"json"`
	Webhook      []Webhook      `yaml:"webhook"`
	Alertmanager []Alertmanager `yaml:"alertmanager"`
}

// Terminal writes to standard output.
type Terminal struct {
	Enabled     bool                `yaml:"enabled"`
	MinSeverity tokenwatch.Severity `yaml:"min_severity"`
}

// JSON appends to a file.
type JSON struct {
	File        string              `yaml:"file"` // - is standard output
	MinSeverity tokenwatch.Severity `yaml:"min_severity"`
}

// Webhook posts each alert.
type Webhook struct {
	sink.Endpoint `yaml:",inline"`
	MinSeverity   tokenwatch.Severity `yaml:"min_severity"`
	GiveUpAfter   time.Duration       `yaml:"give_up_after"`
}

// Alertmanager posts to its API.
type Alertmanager struct {
	sink.Endpoint `yaml:",inline"`
	MinSeverity   tokenwatch.Severity `yaml:"min_severity"`
	GiveUpAfter   time.Duration       `yaml:"give_up_after"`
}

func (s *Sinks) validate() (problems []error) {
	check := func(name string, severity *tokenwatch.Severity, open func() error) {
		if *severity == "" {
			*severity = tokenwatch.SeverityInfo
		}
		parsed, err := tokenwatch.ParseSeverity(string(*severity))
		if err != nil {
			problems = append(problems, fmt.Errorf("%s.min_severity: %w", name, err))
		}
		*severity = parsed
		if err := open(); err != nil {
			problems = append(problems, fmt.Errorf("%s.%w", name, err))
		}
	}
	check("sinks.terminal", &s.Terminal.MinSeverity, func() error { return nil })
	for i := range s.JSON {
		check(fmt.Sprintf("sinks.json[%d]", i), &s.JSON[i].MinSeverity, func() error {
			if s.JSON[i].File == "" {
				return errors.New("file: is missing")
			}
			return nil
		})
	}
	for i := range s.Webhook {
		check(fmt.Sprintf("sinks.webhook[%d]", i), &s.Webhook[i].MinSeverity, s.Webhook[i].Open)
	}
	for i := range s.Alertmanager {
		check(fmt.Sprintf("sinks.alertmanager[%d]", i), &s.Alertmanager[i].MinSeverity, s.Alertmanager[i].Open)
	}
	return problems
}

// OpenSinks opens all sinks but the terminal. The JSON sink with the file "-"
// writes to stdout.
func (c *Config) OpenSinks(stdout io.Writer) ([]monitor.SinkOptions, error) {
	var sinks []monitor.SinkOptions
	var problems []error
	for _, j := range c.Sinks.JSON {
		w := stdout
		if j.File != "-" {
			f, err := os.OpenFile(j.File, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
			if err != nil {
				problems = append(problems, err)
				continue
			}
			w = f
		}
		sinks = append(sinks, monitor.SinkOptions{Sink: &sink.JSONLines{W: w, Label: "json " + j.File}, MinSeverity: j.MinSeverity})
	}
	for _, w := range c.Sinks.Webhook {
		sinks = append(sinks, monitor.SinkOptions{Sink: sink.Webhook{Endpoint: &w.Endpoint}, MinSeverity: w.MinSeverity, GiveUpAfter: w.GiveUpAfter})
	}
	for _, m := range c.Sinks.Alertmanager {
		to := sink.Alertmanager{Endpoint: &m.Endpoint, ResolveTimeout: c.ResolveTimeout, Now: time.Now}
		sinks = append(sinks, monitor.SinkOptions{Sink: to, MinSeverity: m.MinSeverity, GiveUpAfter: m.GiveUpAfter})
	}
	return sinks, errors.Join(problems...)
}

// Console is the sink that writes to stdout: for people, or as JSON lines for
// programs.
func (c *Config) Console(stdout io.Writer, asJSON bool) monitor.SinkOptions {
	var to tokenwatch.Sink = &sink.Terminal{W: stdout, Color: sink.Colored(stdout)}
	if asJSON {
		to = &sink.JSONLines{W: stdout, Label: "json -"}
	}
	return monitor.SinkOptions{Sink: to, MinSeverity: c.Sinks.Terminal.MinSeverity}
}
