package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"time"

	"github.com/vault-tokens/vault-plugin-secrets-tokens/internal/tokenwatch"
	"github.com/vault-tokens/vault-plugin-secrets-tokens/internal/tokenwatch/config"
	"github.com/vault-tokens/vault-plugin-secrets-tokens/internal/tokenwatch/monitor"
	"github.com/vault-tokens/vault-plugin-secrets-tokens/internal/tokenwatch/source"
)

func replay(ctx context.Context, args []string, stdout io.Writer) error {
	set := flags("replay", "[flags] FILE…\n\nReads audit logs to their end, and writes the alerts they would have raised.\nGive the oldest file first. Files may be compressed with gzip; - is standard\ninput.")
	configFile := set.String("config", "", "configuration `FILE`, for its rules")
	asJSON := set.Bool("json", false, "write alerts as JSON lines")
	counts := set.Bool("counts", false, "at the end, write the number of requests of each kind, as a line of JSON")
	pass := set.Bool("sinks", false, "also send alerts to the sinks of the configuration file")
	if err := parse(set, args); err != nil {
		return err
	}
	if set.NArg() == 0 {
		return misused(set, "no files given; - is standard input")
	}
	c, err := config.Load(*configFile)
	if err != nil {
		return err
	}
	opts, release, err := c.MonitorOptions(logger())
	if err != nil {
		return err
	}
	defer release()
	if *pass {
		if opts.Sinks, err = c.OpenSinks(stdout); err != nil {
			return err
		}
	}
	opts.Sinks = append(opts.Sinks, c.Console(stdout, *asJSON))
	m, err := monitor.New(opts)
	if err != nil {
		return err
	}
	began := time.Now()
	if err := m.Run(ctx, &source.Stream{Files: set.Args(), MaxLine: c.Source.MaxLine}); err != nil {
		return err
	}
	closing, cancel := context.WithTimeout(ctx, c.RepeatInterval)
	defer cancel()
	if err := m.Close(closing); err != nil {
		return err
	}
	s := m.Snapshot()
	summary(os.Stderr, s, time.Since(began))
	if *counts {
		return json.NewEncoder(stdout).Encode(map[string]any{"lines": s.Lines, "malformed": s.Malformed, "oversized": s.Oversized, "events": s.Events})
	}
	return nil
}

func summary(w io.Writer, s tokenwatch.Snapshot, took time.Duration) {
	var events, alerts int64
	for _, e := range s.Events {
		events += e.Count
	}
	for _, a := range s.Alerts {
		alerts += a.Count
	}
	fmt.Fprintf(w, "%d lines in %.1f s: %d requests about the engine, %d alerts, %d lines that are not audit entries, %d too long\n",
		s.Lines, took.Seconds(), events, alerts, s.Malformed, s.Oversized)
}
