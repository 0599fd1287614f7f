package monitor

import (
	"context"
	"log/slog"
	"os"
	"testing"
	"time"

	"github.com/vault-tokens/vault-plugin-secrets-tokens/internal/tokenwatch/rules"
	"github.com/vault-tokens/vault-plugin-secrets-tokens/internal/tokenwatch/source"
)

// BenchmarkReplay reads the log named by $WATCH_LOG, such as one that
// `go run ./watchbench -o FILE` in test/ makes.
func BenchmarkReplay(b *testing.B) {
	file := os.Getenv("WATCH_LOG")
	info, err := os.Stat(file)
	if err != nil {
		b.Skip("set WATCH_LOG to an audit log")
	}
	b.SetBytes(info.Size())
	var lines int64
	for b.Loop() {
		list, err := rules.New(rules.Defaults(), nil)
		if err != nil {
			b.Fatal(err)
		}
		m, err := New(Options{Rules: list, RepeatInterval: time.Hour, ResolveTimeout: time.Hour, Log: slog.New(slog.DiscardHandler)})
		if err != nil {
			b.Fatal(err)
		}
		if err := m.Run(context.Background(), &source.Stream{Files: []string{file}}); err != nil {
			b.Fatal(err)
		}
		lines += m.Snapshot().Lines
	}
	b.ReportMetric(float64(lines)/b.Elapsed().Seconds(), "lines/s")
}
