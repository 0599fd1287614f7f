package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"time"

	"github.com/vault-tokens/vault-plugin-secrets-tokens/internal/tokenwatch"
	"github.com/vault-tokens/vault-plugin-secrets-tokens/internal/tokenwatch/config"
	"github.com/vault-tokens/vault-plugin-secrets-tokens/internal/tokenwatch/monitor"
	"github.com/vault-tokens/vault-plugin-secrets-tokens/internal/tokenwatch/rules"
	"github.com/vault-tokens/vault-plugin-secrets-tokens/internal/tokenwatch/source"
	"github.com/vault-tokens/vault-plugin-secrets-tokens/internal/tokenwatch/web"
)

// closeLimit is how long sinks may take at the end; what they have not taken
// by then is kept in the state.
const closeLimit = 10 * time.Second

func follow(ctx context.Context, args []string, stdout io.Writer) error {
	set := flags("follow", "[-config FILE] [-file FILE | -socket URL] [flags]\n\nWhat a flag says goes before what the configuration file says.")
	configFile := set.String("config", "", "configuration `FILE`")
	file := set.String("file", "", "`FILE` of a file audit device, to be followed through rotation")
	socket := set.String("socket", "", "`URL` to listen on for a socket audit device: tcp://host:port or unix:///path")
	fromEnd := set.Bool("from-end", false, "at the first start, skip what is in the file already")
	state := set.String("state", "", "`FILE` that keeps the state, so that a restart loses nothing and counts nothing twice")
	listen := set.String("metrics", "", "serve /metrics and /healthz on `HOST:PORT`")
	pageAt := set.String("page", "", "serve the live page on `HOST:PORT`; without a host only to this machine")
	asJSON := set.Bool("json", false, "write alerts as JSON lines")
	if err := parse(set, args); err != nil {
		return err
	}
	if set.NArg() > 0 {
		return misused(set, "no arguments are wanted")
	}
	c, err := load(*configFile)
	if err != nil {
		return err
	}
	set.Visit(func(f *flag.Flag) {
		switch f.Name {
		case "file":
			c.Source.File, c.Source.Socket = *file, ""
		case "socket":
			c.Source.Socket, c.Source.File = *socket, ""
		case "from-end":
			c.Source.FromEnd = *fromEnd
		case "state":
			c.State = *state
		case "metrics":
			c.Metrics.Listen = *listen
		case "page":
			c.Page.Listen = *pageAt
		}
	})
	if *file != "" && *socket != "" {
		return misused(set, "-file and -socket exclude each other")
	}
	if err := c.Validate(); err != nil {
		return err
	}
	if c.Source.File == "" && c.Source.Socket == "" {
		return misused(set, "nothing to follow: give -file or -socket, or a configuration file with one of them")
	}
	return followWith(ctx, c, stdout, *asJSON)
}

func followWith(ctx context.Context, c config.Config, stdout io.Writer, asJSON bool) error {
	log := logger()
	list, closeGeo, err := makeRules(c)
	defer closeGeo()
	if err != nil {
		return err
	}
	sinks, err := makeSinks(c, stdout)
	if err != nil {
		return err
	}
	if c.Sinks.Terminal.Enabled || asJSON {
		sinks = append(sinks, monitor.SinkOptions{Sink: terminal(stdout, asJSON), MinSeverity: c.Sinks.Terminal.MinSeverity})
	}
	m, err := monitor.New(monitor.Options{
		MountTypes: c.MountTypes, Rules: list, Sinks: sinks, RepeatInterval: c.RepeatInterval, ResolveTimeout: c.ResolveTimeout,
		Live: true, StateFile: c.State, Log: log,
	})
	if err != nil {
		return err
	}
	err = serveAndRun(ctx, c, m, log)
	closing, cancel := context.WithTimeout(context.WithoutCancel(ctx), closeLimit)
	defer cancel()
	return errors.Join(err, m.Close(closing))
}

// serveAndRun ends when the source does, or ctx.
func serveAndRun(ctx context.Context, c config.Config, m *monitor.Monitor, log *slog.Logger) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	if c.Metrics.Listen != "" {
		if err := serveMetrics(ctx, c.Metrics.Listen, m, log); err != nil {
			return err
		}
	}
	if c.Page.Listen != "" {
		if err := servePage(ctx, c.Page.Listen, m, log, cancel); err != nil {
			return err
		}
	}
	from, err := openSource(c, m, log)
	if err != nil {
		return err
	}
	err = m.Run(ctx, from)
	if errors.Is(err, context.Canceled) {
		if err = context.Cause(ctx); errors.Is(err, context.Canceled) {
			return nil // asked to end
		}
	}
	return err
}

func openSource(c config.Config, m *monitor.Monitor, log *slog.Logger) (tokenwatch.Source, error) {
	if c.Source.File != "" {
		from := m.Position()
		log.Info("following", "file", c.Source.File, "resumed", from != nil)
		return &source.File{Path: c.Source.File, From: from, FromEnd: c.Source.FromEnd, MaxLine: c.Source.MaxLine, Log: log}, nil
	}
	network, address, err := source.ParseSocket(c.Source.Socket)
	if err != nil {
		return nil, err
	}
	s := &source.Socket{Network: network, Address: address, MaxLine: c.Source.MaxLine, Log: log}
	if err := s.Listen(); err != nil {
		return nil, err
	}
	log.Info("listening for a socket audit device", "address", s.Addr().String())
	return s, nil
}

// serveMetrics begins to serve metrics and health. That they end is no reason to
// end watching.
func serveMetrics(ctx context.Context, address string, m *monitor.Monitor, log *slog.Logger) error {
	var series []web.RuleSeries
	for _, r := range rules.Catalog() {
		series = append(series, web.RuleSeries{Name: r.Name, Severity: r.Severity})
	}
	server, err := web.ListenMetrics(address, m, version, series)
	if err != nil {
		return err
	}
	log.Info("metrics", "url", server.URL()+"metrics")
	go func() {
		if err := server.Serve(ctx); err != nil {
			log.Error("metrics are not served any more", "error", err)
		}
	}()
	return nil
}

// servePage begins to serve the live page, and calls ended if that fails later.
func servePage(ctx context.Context, address string, m *monitor.Monitor, log *slog.Logger, ended func(error)) error {
	server, err := web.ListenPage(address, m)
	if err != nil {
		return err
	}
	log.Info("live page", "url", server.URL())
	if !server.Loopback() {
		log.Warn("the live page can be read by everybody who reaches its address")
	}
	go func() {
		if err := server.Serve(ctx); err != nil {
			ended(fmt.Errorf("page: %w", err))
		}
	}()
	return nil
}
