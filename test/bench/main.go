// Command bench compares the engine's speed with that of Vault's own tokens,
// on one raft-backed Vault with a file audit device, as a caller without root
// sees it over HTTP.
//
// The machine's speed wanders, so figures of different moments are no measure.
// Operations take turns in short slices, and what counts is the ratio of two
// of them within the same round.
//
// With -against, another build of the plugin runs beside this one, on a mount
// of the same server, and takes its turns next to this one's. Many short turns
// tell two builds apart better than a few long ones.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"runtime"
	"strings"
	"syscall"
	"time"

	"github.com/vault-tokens/vault-plugin-secrets-tokens/test/report"
	"github.com/vault-tokens/vault-plugin-secrets-tokens/test/vaulttest"
)

type settings struct {
	rounds   int
	clients  int
	duration time.Duration
	asJSON   bool
	check    bool
	against  string
}

func main() {
	var s settings
	flag.IntVar(&s.rounds, "rounds", 7, "how often every operation has its turn")
	flag.IntVar(&s.clients, "clients", 8, "concurrent clients, each with a connection of its own")
	flag.DurationVar(&s.duration, "duration", time.Second, "length of one turn")
	flag.BoolVar(&s.asJSON, "json", false, "print the result as JSON")
	flag.BoolVar(&s.check, "check", false, "exit with 1 if a goal is missed")
	flag.StringVar(&s.against, "against", "", "another build to compare with: a plugin's binary, or a commit")
	flag.Parse()
	if s.rounds < 1 || s.clients < 1 || s.duration <= 0 || flag.NArg() > 0 {
		flag.Usage()
		os.Exit(2)
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := run(ctx, s)
	interrupted := ctx.Err() != nil
	stop()
	os.Exit(report.ExitCode("bench", interrupted, err))
}

// run measures and prints. An interrupt ends it early, with the rounds that
// were complete.
func run(ctx context.Context, s settings) error {
	server, err := startServer(ctx)
	if err != nil {
		return err
	}
	defer server.Close()
	if s.against != "" {
		if err := mountOld(ctx, server, s.against); err != nil {
			return err
		}
	}
	operations, err := prepare(ctx, server, s.against != "")
	if err != nil {
		return err
	}
	results, err := measure(ctx, s, server, operations)
	if err != nil {
		return err
	}
	found := summarize(s, results)
	if s.asJSON {
		err = report.JSON(os.Stdout, found)
	} else {
		err = printTable(os.Stdout, found)
	}
	if err == nil && s.check && !found.goalsMet() {
		err = errors.New("a goal was missed")
	}
	return err
}

func startServer(ctx context.Context) (*vaulttest.Server, error) {
	vault, err := vaulttest.VaultBinary(ctx)
	if err != nil {
		return nil, err
	}
	dir, err := os.MkdirTemp("", "bench-plugin-")
	if err != nil {
		return nil, err
	}
	report.Progress("building the plugin, starting Vault")
	plugin, err := vaulttest.BuildPlugin(ctx, dir, false)
	if err != nil {
		_ = os.RemoveAll(dir)
		return nil, err
	}
	server, err := vaulttest.Start(ctx, vaulttest.Options{Vault: vault, Plugin: plugin, Raft: true, Audit: true, LogLevel: "info"})
	if err != nil {
		_ = os.RemoveAll(dir)
		return nil, err
	}
	server.OnClose(func() { _ = os.RemoveAll(dir) })
	return server, nil
}

// measure gives every operation its turn, round after round, after a short one
// that does not count. Interrupted, it returns the rounds that were complete:
// half a round would skew the ratios.
func measure(ctx context.Context, s settings, server *vaulttest.Server, operations []operation) ([]result, error) {
	results := make([]result, len(operations))
	for i, op := range operations {
		results[i].operation = op
		report.Progress("warming up: %s", op.name)
		if _, err := turn(ctx, server, op, s.clients, min(s.duration, 300*time.Millisecond)); err != nil {
			return nil, err
		}
	}
	for round := range s.rounds {
		slices := make([]slice, len(operations))
		for _, i := range order(operations, round) {
			op := operations[i]
			report.Progress("round %d of %d: %s", round+1, s.rounds, op.name)
			var err error
			if slices[i], err = turn(ctx, server, op, s.clients, s.duration); err != nil {
				return nil, err
			}
		}
		switch {
		case ctx.Err() != nil && round == 0:
			return nil, errors.New("interrupted before the first round was complete")
		case ctx.Err() != nil:
			return results, nil
		}
		for i := range results {
			results[i].add(slices[i])
		}
	}
	return results, nil
}

// order is who has its turn when, by index. Of two builds, this one goes first
// in one round and the other in the next: what the machine does meanwhile then
// favours neither.
func order(operations []operation, round int) []int {
	turns := make([]int, len(operations))
	for i, op := range operations {
		turns[i] = i
		if op.old && round%2 == 1 {
			turns[i-1], turns[i] = i, i-1
		}
	}
	return turns
}

func printTable(w io.Writer, r comparisonReport) error {
	report.Clear()
	fmt.Fprintf(w, "%d clients, %d rounds of %s per operation, %d CPUs; raft storage, file audit device, no root token\n\n",
		r.Clients, r.Rounds, r.Turn, runtime.NumCPU())
	var out strings.Builder
	fmt.Fprintf(&out, "%-46s %10s %8s %8s\n", "operation", "requests/s", "p50 ms", "p99 ms")
	for _, op := range r.Operations {
		fmt.Fprintf(&out, "%-46s %10.0f %8.2f %8.2f\n", op.Name, op.PerSecond, op.P50, op.P99)
	}
	fmt.Fprintf(&out, "\n%-46s %10s %8s\n", "compared with, by token", "ratio", "goal")
	for _, c := range r.Comparisons {
		goal, verdict := "", ""
		if c.Goal > 0 {
			goal, verdict = fmt.Sprintf("≥ %.1f", c.Goal), "reached"
			if !c.Met {
				verdict = "MISSED"
			}
		}
		line := fmt.Sprintf("%-46s %10.2f %8s %8s", c.Operation+" : "+c.Peer, c.Ratio, goal, verdict)
		fmt.Fprintln(&out, strings.TrimRight(line, " "))
	}
	if r.Against != "" {
		fmt.Fprintf(&out, "\n%-46s %10s %15s\n", "this build : "+r.Against, "ratio", "half of rounds")
		for _, b := range r.Builds {
			fmt.Fprintf(&out, "%-46s %10.2f %15s\n", b.Operation, b.Ratio, fmt.Sprintf("%.2f – %.2f", b.Low, b.High))
		}
	}
	_, err := io.WriteString(w, out.String())
	return err
}
