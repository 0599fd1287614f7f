package main

import (
	"context"
	"errors"
	"io"
	"os"
	"time"

	"github.com/vault-tokens/vault-plugin-secrets-tokens/internal/tokenwatch/config"
	"github.com/vault-tokens/vault-plugin-secrets-tokens/internal/tokenwatch/monitor"
	"github.com/vault-tokens/vault-plugin-secrets-tokens/internal/tokenwatch/report"
	"github.com/vault-tokens/vault-plugin-secrets-tokens/internal/tokenwatch/sink"
	"github.com/vault-tokens/vault-plugin-secrets-tokens/internal/tokenwatch/source"
)

func summarize(ctx context.Context, args []string, stdout io.Writer) error {
	set := flags("report", "[flags] FILE…\n\nSummarizes audit logs: tokens by role, type and entity, failures, top clients,\nalerts. Give the oldest file first. Files may be compressed with gzip; - is\nstandard input.")
	configFile := set.String("config", "", "configuration `FILE`, for its rules")
	format := set.String("format", "text", "`FORMAT` of the report: text, json, or html")
	output := set.String("o", "", "`FILE` to write the report to")
	options := report.Options{}
	set.Func("from", "leave out requests before this `TIME` (RFC 3339)", timeFlag(&options.From))
	set.Func("to", "leave out requests at or after this `TIME` (RFC 3339)", timeFlag(&options.To))
	set.IntVar(&options.Rows, "rows", report.DefaultRows, "`ROWS` of each table")
	if err := parse(set, args); err != nil {
		return err
	}
	if set.NArg() == 0 {
		return misused(set, "no files given; - is standard input")
	}
	if *format != "text" && *format != "json" && *format != "html" {
		return misused(set, "-format is not text, json or html")
	}
	options.Files = set.Args()
	builder, err := read(ctx, *configFile, options)
	if err != nil {
		return err
	}
	return writeReport(builder.Report(time.Now()), *format, *output, stdout)
}

// timeFlag parses the value of a flag; an empty value sets no time.
func timeFlag(at *time.Time) func(string) error {
	return func(value string) (err error) {
		if value == "" {
			return nil
		}
		if *at, err = time.Parse(time.RFC3339, value); err != nil {
			return errors.New("not a time such as 2026-01-31T00:00:00Z")
		}
		return nil
	}
}

func read(ctx context.Context, configFile string, options report.Options) (*report.Builder, error) {
	c, err := config.Load(configFile)
	if err != nil {
		return nil, err
	}
	opts, release, err := c.MonitorOptions(logger())
	if err != nil {
		return nil, err
	}
	defer release()
	builder := report.New(options)
	opts.OnEvent, opts.OnAlert = builder.Observe, builder.Alert
	m, err := monitor.New(opts)
	if err != nil {
		return nil, err
	}
	if err := m.Run(ctx, &source.Stream{Files: options.Files, MaxLine: c.Source.MaxLine}); err != nil {
		return nil, err
	}
	if err := m.Close(ctx); err != nil {
		return nil, err
	}
	s := m.Snapshot()
	builder.AddLog(report.Log{Lines: s.Lines, Malformed: s.Malformed, Oversized: s.Oversized})
	return builder, nil
}

func writeReport(r *report.Report, format, output string, stdout io.Writer) (err error) {
	w := stdout
	if output != "" {
		f, openErr := os.OpenFile(output, os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o600)
		if openErr != nil {
			return openErr
		}
		defer func() { err = errors.Join(err, f.Close()) }()
		w = f
	}
	switch format {
	case "json":
		return r.WriteJSON(w)
	case "html":
		return r.WriteHTML(w)
	}
	return r.WriteText(w, sink.Colored(w))
}
