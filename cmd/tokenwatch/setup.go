package main

import (
	"errors"
	"io"
	"log/slog"
	"os"
	"time"

	"github.com/vault-tokens/vault-plugin-secrets-tokens/internal/tokenwatch"
	"github.com/vault-tokens/vault-plugin-secrets-tokens/internal/tokenwatch/config"
	"github.com/vault-tokens/vault-plugin-secrets-tokens/internal/tokenwatch/geo"
	"github.com/vault-tokens/vault-plugin-secrets-tokens/internal/tokenwatch/monitor"
	"github.com/vault-tokens/vault-plugin-secrets-tokens/internal/tokenwatch/rules"
	"github.com/vault-tokens/vault-plugin-secrets-tokens/internal/tokenwatch/sink"
)

func load(path string) (config.Config, error) {
	if path == "" {
		c := config.Default()
		return c, c.Validate()
	}
	return config.Load(path)
}

func logger() *slog.Logger { return slog.New(slog.NewTextHandler(os.Stderr, nil)) }

// makeRules opens the geo database if there is one; closeGeo closes it.
func makeRules(c config.Config) (list []tokenwatch.Rule, closeGeo func(), err error) {
	closeGeo = func() {}
	var locate geo.Locator
	if c.GeoDatabase != "" {
		db, err := geo.Open(c.GeoDatabase)
		if err != nil {
			return nil, closeGeo, err
		}
		locate, closeGeo = db, func() { _ = db.Close() }
	}
	list, err = rules.New(c.Rules, locate)
	return list, closeGeo, err
}

// terminal is the sink that people read, or as JSON lines what programs read.
func terminal(stdout io.Writer, asJSON bool) tokenwatch.Sink {
	if asJSON {
		return &sink.JSONLines{W: stdout, Label: "json -"}
	}
	return &sink.Terminal{W: stdout, Color: colored(stdout)}
}

// colored follows https://no-color.org, and leaves files and pipes plain.
func colored(w io.Writer) bool {
	f, ok := w.(*os.File)
	if !ok || os.Getenv("NO_COLOR") != "" || os.Getenv("TERM") == "dumb" {
		return false
	}
	info, err := f.Stat()
	return err == nil && info.Mode()&os.ModeCharDevice != 0
}

// makeSinks opens what the configuration names besides the terminal.
func makeSinks(c config.Config, stdout io.Writer) ([]monitor.SinkOptions, error) {
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
