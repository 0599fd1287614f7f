// Package config reads tokenwatch's configuration file.
package config

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"time"

	"gopkg.in/yaml.v3"

	"github.com/vault-tokens/vault-plugin-secrets-tokens/internal/tokenwatch/audit"
	"github.com/vault-tokens/vault-plugin-secrets-tokens/internal/tokenwatch/geo"
	"github.com/vault-tokens/vault-plugin-secrets-tokens/internal/tokenwatch/monitor"
	"github.com/vault-tokens/vault-plugin-secrets-tokens/internal/tokenwatch/rules"
)

// Config is the configuration file.
type Config struct {
	Source      Source   `yaml:"source"`
	State       string   `yaml:"state"`        // file that keeps the state across restarts
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

// Listener is the address of a server.
type Listener struct {
	Listen string `yaml:"listen"` // host:port; empty: off
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

// Load reads a file; without a path it returns Default. Its error names
// everything that is wrong; unknown keys are errors.
func Load(path string) (Config, error) {
	c := Default()
	if path == "" {
		return c, c.Validate()
	}
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

// Validate returns an error that names everything that is wrong.
func (c *Config) Validate() error {
	var problems []error
	problem := func(format string, args ...any) { problems = append(problems, fmt.Errorf(format, args...)) }
	problems = append(problems, c.Source.validate()...)
	if len(c.MountTypes) == 0 {
		problem("mount_types: must not be empty")
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

// MonitorOptions returns the options of a monitor with this configuration's
// rules, but without sinks and state. release closes the geo database, once the
// monitor is closed.
func (c *Config) MonitorOptions(log *slog.Logger) (opts monitor.Options, release func(), err error) {
	release = func() {}
	var locate geo.Locator
	if c.GeoDatabase != "" {
		db, err := geo.Open(c.GeoDatabase)
		if err != nil {
			return opts, release, err
		}
		locate, release = db, func() { _ = db.Close() }
	}
	list, err := rules.New(c.Rules, locate)
	if err != nil {
		release()
		return opts, release, err
	}
	return monitor.Options{
		MountTypes: c.MountTypes, Rules: list, RepeatInterval: c.RepeatInterval, ResolveTimeout: c.ResolveTimeout, Log: log,
	}, release, nil
}
