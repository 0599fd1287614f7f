package main

import (
	"context"
	"fmt"
	"log/slog"

	"github.com/vault-tokens/vault-plugin-secrets-tokens/internal/tokenwatch"
	"github.com/vault-tokens/vault-plugin-secrets-tokens/internal/tokenwatch/config"
	"github.com/vault-tokens/vault-plugin-secrets-tokens/internal/tokenwatch/rules"
	"github.com/vault-tokens/vault-plugin-secrets-tokens/internal/tokenwatch/web"
)

// serve starts the servers of the configuration; they run until ctx ends. ended is
// called if the page fails later.
func serve(ctx context.Context, c config.Config, from tokenwatch.Snapshotter, log *slog.Logger, ended func(error)) error {
	if c.Metrics.Listen != "" {
		if err := serveMetrics(ctx, c.Metrics.Listen, from, log); err != nil {
			return err
		}
	}
	if c.Page.Listen != "" {
		return servePage(ctx, c.Page.Listen, from, log, ended)
	}
	return nil
}

// serveMetrics starts to serve metrics and health. A later failure does not end
// the monitor.
func serveMetrics(ctx context.Context, address string, from tokenwatch.Snapshotter, log *slog.Logger) error {
	var series []web.RuleSeries
	for _, r := range rules.Catalog() {
		series = append(series, web.RuleSeries{Name: r.Name, Severity: r.Severity})
	}
	server, err := web.ListenMetrics(address, from, version, series)
	if err != nil {
		return err
	}
	log.Info("metrics", "url", server.URL()+"metrics")
	go func() {
		if err := server.Serve(ctx); err != nil {
			log.Error("metrics are no longer served", "error", err)
		}
	}()
	return nil
}

// servePage starts to serve the live page.
func servePage(ctx context.Context, address string, from tokenwatch.Snapshotter, log *slog.Logger, ended func(error)) error {
	server, err := web.ListenPage(address, from)
	if err != nil {
		return err
	}
	log.Info("live page", "url", server.URL())
	if !server.Loopback() {
		log.Warn("everybody who can reach the address can read the live page")
	}
	go func() {
		if err := server.Serve(ctx); err != nil {
			ended(fmt.Errorf("page: %w", err))
		}
	}()
	return nil
}
