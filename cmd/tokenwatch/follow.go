package main

import (
	"context"
	"errors"
	"flag"
	"io"
	"log/slog"
	"time"

	"github.com/vault-tokens/vault-plugin-secrets-tokens/internal/tokenwatch/config"
	"github.com/vault-tokens/vault-plugin-secrets-tokens/internal/tokenwatch/monitor"
)

// closeLimit is how long sinks may take at the end; what they have not accepted by
// then is kept in the state.
const closeLimit = 10 * time.Second

func follow(ctx context.Context, args []string, stdout io.Writer) error {
	set := flags("follow", "[-config FILE] [-file FILE | -socket URL] [flags]\n\nFlags override the configuration file.")
	var given config.Config
	configFile := set.String("config", "", "configuration `FILE`")
	set.StringVar(&given.Source.File, "file", "", "`FILE` of a file audit device, followed through rotation")
	set.StringVar(&given.Source.Socket, "socket", "", "`URL` to listen on for a socket audit device: tcp://host:port or unix:///path")
	set.BoolVar(&given.Source.FromEnd, "from-end", false, "on the first start, skip what the file already holds")
	set.StringVar(&given.State, "state", "", "`FILE` that keeps the state, so that a restart loses nothing and counts nothing twice")
	set.StringVar(&given.Metrics.Listen, "metrics", "", "serve /metrics and /healthz on `HOST:PORT`; the default host is 127.0.0.1")
	set.StringVar(&given.Page.Listen, "page", "", "serve the live page on `HOST:PORT`; the default host is 127.0.0.1")
	asJSON := set.Bool("json", false, "write alerts as JSON lines")
	if err := parse(set, args); err != nil {
		return err
	}
	if set.NArg() > 0 {
		return misused(set, "unexpected arguments")
	}
	if given.Source.File != "" && given.Source.Socket != "" {
		return misused(set, "-file and -socket exclude each other")
	}
	c, err := config.Load(*configFile)
	if err != nil {
		return err
	}
	set.Visit(func(f *flag.Flag) { override(&c, &given, f.Name) })
	if err := c.Validate(); err != nil {
		return err
	}
	if c.Source.File == "" && c.Source.Socket == "" {
		return misused(set, "nothing to follow: give -file or -socket, or a configuration file with one of them")
	}
	return watch(ctx, c, stdout, *asJSON)
}

// override sets in c what one flag sets in given.
func override(c, given *config.Config, name string) {
	switch name {
	case "file":
		c.Source.File, c.Source.Socket = given.Source.File, ""
	case "socket":
		c.Source.Socket, c.Source.File = given.Source.Socket, ""
	case "from-end":
		c.Source.FromEnd = given.Source.FromEnd
	case "state":
		c.State = given.State
	case "metrics":
		c.Metrics = given.Metrics
	case "page":
		c.Page = given.Page
	}
}

func watch(ctx context.Context, c config.Config, stdout io.Writer, asJSON bool) error {
	log := logger()
	opts, release, err := c.MonitorOptions(log)
	if err != nil {
		return err
	}
	defer release()
	if opts.Sinks, err = c.OpenSinks(stdout); err != nil {
		return err
	}
	if c.Sinks.Terminal.Enabled || asJSON {
		opts.Sinks = append(opts.Sinks, c.Console(stdout, asJSON))
	}
	opts.Live, opts.StateFile = true, c.State
	m, err := monitor.New(opts)
	if err != nil {
		return err
	}
	err = serveAndRun(ctx, c, m, log)
	closing, cancel := context.WithTimeout(context.WithoutCancel(ctx), closeLimit)
	defer cancel()
	return errors.Join(err, m.Close(closing))
}

// serveAndRun returns when the source or ctx ends.
func serveAndRun(ctx context.Context, c config.Config, m *monitor.Monitor, log *slog.Logger) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	if err := serve(ctx, c, m, log, cancel); err != nil {
		return err
	}
	from, err := c.Source.Open(m.Position(), log)
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
