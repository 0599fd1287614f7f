// Package config reads tokenwatch's configuration file.
package config

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"time"

	"gopkg.in/yaml.v3"

	"github.com/vault-tokens/vault-plugin-secrets-tokens/internal/tokenwatch"
	"github.com/vault-tokens/vault-plugin-secrets-tokens/internal/tokenwatch/audit"
	"github.com/vault-tokens/vault-plugin-secrets-tokens/internal/tokenwatch/rules"
	"github.com/vault-tokens/vault-plugin-secrets-tokens/internal/tokenwatch/sink"
	"github.com/vault-tokens/vault-plugin-secrets-tokens/internal/tokenwatch/source"
)

// Config is the configuration file.
type Config struct {
	Source      Source   `yaml:"source"`
	State       string   `yaml:"state"`        // file that keeps the state over restarts
	MountTypes  []string `yaml:"mount_types"`  // names under which the plugin is registered
	GeoDatabase string   `yaml:"geo_database"` // MaxMind file
	Metrics     Listener `yaml:"metrics"`      // metrics and health for Prometheus
	Page        Listener `yaml:"page"`         // the live page
	// RepeatInterval is how long to wait before notifying again of an alert
	// that goes on.
	RepeatInterval time.Duration `yaml:"repeat_interval"`
	// ResolveTimeout is how long an alert stays open without happening again.
	ResolveTimeout time.Duration  `yaml:"resolve_timeout"`
	Sinks          Sinks          `yaml:"sinks"`
	Rules          rules.Settings `yaml:"rules"`
}

// Source is where the audit log comes from: a file or a socket.
type Source struct {
	File    string `yaml:"file"`
	FromEnd bool   `yaml:"from_end"` // at the first start, skip what is in the file already
	Socket  string `yaml:"socket"`   // tcp://host:port or unix:///path, to listen on
	MaxLine int    `yaml:"max_line_bytes"`
}

// Listener is where something is served.
type Listener struct {
	Listen string `yaml:"listen"` // host:port; empty: not at all
}

// Sinks are where alerts go.
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

// Default is the configuration without a file.
func Default() Config {
	return Config{
		MountTypes:     []string{audit.DefaultMountType},
		RepeatInterval: 15 * time.Minute,
		ResolveTimeout: time.Hour,
		Sinks:          Sinks{Terminal: Terminal{Enabled: true}},
		Rules:          rules.Defaults(),
	}
}

// Load reads a file. It names all that is wrong in it; unknown keys are wrong.
func Load(path string) (Config, error) {
	c := Default()
	raw, err := os.ReadFile(path)
	if err != nil {
		return c, err
	}
	if err := c.parse(raw); err != nil {
		return c, fmt.Errorf("%s: %w", path, err)
	}
	return c, nil
}

func (c *Config) parse(raw []byte) error {
	d := yaml.NewDecoder(bytes.NewReader(raw))
	d.KnownFields(true)
	if err := d.Decode(c); err != nil && !errors.Is(err, io.EOF) {
		return err
	}
	if err := d.Decode(new(any)); !errors.Is(err, io.EOF) {
		return errors.New("there is more than one document")
	}
	return c.Validate()
}

// Validate names all that is wrong.
func (c *Config) Validate() error {
	var problems []error
	problem := func(format string, args ...any) { problems = append(problems, fmt.Errorf(format, args...)) }
	if c.Source.File != "" && c.Source.Socket != "" {
		problem("source: file and socket exclude each other")
	}
	if c.Source.Socket != "" {
		if _, _, err := source.ParseSocket(c.Source.Socket); err != nil {
			problem("source.socket: %w", err)
		}
	}
	if n := c.Source.MaxLine; n != 0 && (n < 1<<10 || n > 64<<20) {
		problem("source.max_line_bytes: %d is not between 1024 and %d", n, 64<<20)
	}
	if len(c.MountTypes) == 0 {
		problem("mount_types: is empty")
	}
	for name, l := range map[string]Listener{"metrics": c.Metrics, "page": c.Page} {
		if l.Listen == "" {
			continue
		}
		if _, _, err := net.SplitHostPort(l.Listen); err != nil {
			problem("%s.listen: %w", name, err)
		}
	}
	if c.RepeatInterval < time.Second {
		problem("repeat_interval: %v is less than 1s", c.RepeatInterval)
	}
	if c.ResolveTimeout < time.Second {
		problem("resolve_timeout: %v is less than 1s", c.ResolveTimeout)
	}
	problems = append(problems, c.Sinks.validate()...)
	if err := c.Rules.Validate(); err != nil {
		problems = append(problems, err)
	}
	return errors.Join(problems...)
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
