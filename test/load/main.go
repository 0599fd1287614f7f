// Command load measures the engine at scale, on a real Vault with raft storage:
// how long what happens seldom takes when there is a lot, what it takes in memory,
// and how long others wait beside it. It is run by hand; bench measures speed.
//
// Filling the storage takes longest. With TMPDIR on a RAM disk it is more than twice
// as fast; what is measured then does without waiting for a disk, too.
//
// What it reports are single measurements, with the machine's load average at the
// time: compare them with "nothing else", and with what else ran.
package main

import (
	"context"
	"flag"
	"fmt"
	"io"
	"maps"
	"os"
	"os/signal"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/vault-tokens/vault-plugin-secrets-tokens/test/report"
)

type settings struct {
	scenario string
	n        int // 0: the scenario's own
	nodes    int
	asJSON   bool
}

// scenario is what is measured, and of how many roles or tokens.
type scenario struct {
	about string
	n     int
	run   func(ctx context.Context, m *measurement) error
}

var scenarios = map[string]scenario{
	"capped":       {"first issue after a restart of a role with n tokens under a cap", 100_000, capped},
	"lists":        {"the status list of n bearer tokens, none, some and all of them revoked", 1 << 17, lists},
	"roles":        {"n roles of JWTs with a token each", 10_000, rolesOfJWTs},
	"roles-opaque": {"n roles of bearer tokens with a token each", 10_000, rolesOfBearers},
	"tokens":       {"n live bearer tokens of one role", 1_000_000, tokens},
}

func main() {
	var s settings
	flag.StringVar(&s.scenario, "scenario", "", "what to measure: "+strings.Join(slices.Sorted(maps.Keys(scenarios)), ", "))
	flag.IntVar(&s.n, "n", 0, "of how many roles or tokens (default as in the list below)")
	flag.IntVar(&s.nodes, "nodes", 1, "Vault servers; with more than one, the leader steps down where one is restarted")
	flag.BoolVar(&s.asJSON, "json", false, "print the result as JSON")
	flag.Usage = usage
	flag.Parse()
	of, known := scenarios[s.scenario]
	if !known || s.n < 0 || s.nodes < 1 || flag.NArg() > 0 {
		flag.Usage()
		os.Exit(2)
	}
	if s.n == 0 {
		s.n = of.n
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := run(ctx, s, of)
	interrupted := ctx.Err() != nil
	stop()
	os.Exit(report.ExitCode("load", interrupted, err))
}

func usage() {
	fmt.Fprintln(os.Stderr, "go run ./load -scenario NAME [flags]")
	flag.PrintDefaults()
	fmt.Fprintln(os.Stderr, "scenarios:")
	for _, name := range slices.Sorted(maps.Keys(scenarios)) {
		fmt.Fprintf(os.Stderr, "  %-13s %s; n=%d\n", name, scenarios[name].about, scenarios[name].n)
	}
}

// run measures and prints. What was measured before a failure or an interrupt is
// printed too.
func run(ctx context.Context, s settings, of scenario) error {
	v, err := startVaults(ctx, s.nodes)
	if err != nil {
		return err
	}
	defer v.close()
	m := &measurement{vaults: v, result: result{Scenario: s.scenario, N: s.n, Nodes: s.nodes}}
	failed := of.run(ctx, m)
	report.Clear()
	if s.asJSON {
		err = report.JSON(os.Stdout, m.result)
	} else {
		err = m.result.print(os.Stdout)
	}
	if failed != nil {
		return failed
	}
	return err
}

// result is what is printed.
type result struct {
	Scenario string `json:"scenario"`
	N        int    `json:"n"`
	Nodes    int    `json:"nodes"`
	Rows     []row  `json:"rows"`
}

// row is one measurement.
type row struct {
	What  string  `json:"what"`
	Value float64 `json:"value"`
	Unit  string  `json:"unit"`
	Note  string  `json:"note,omitempty"`
	// Beside is what introspections took meanwhile, one every 10 ms.
	Beside *latencies `json:"beside,omitempty"`
	Load   string     `json:"load_average"` // over the last minute
}

func (r result) print(w io.Writer) error {
	var out strings.Builder
	fmt.Fprintf(&out, "%s, n=%d, %d Vault server(s) with raft storage\n\n", r.Scenario, r.N, r.Nodes)
	fmt.Fprintf(&out, "%-62s %12s %-5s %6s  %s\n", "", "", "", "load", "introspections beside it, every 10 ms")
	for _, row := range r.Rows {
		line := fmt.Sprintf("%-62s %12.1f %-5s %6s  ", row.What, row.Value, row.Unit, row.Load)
		if row.Beside != nil && row.Beside.Count > 0 {
			line += row.Beside.String()
		}
		if row.Note != "" {
			line += "  (" + row.Note + ")"
		}
		fmt.Fprintln(&out, strings.TrimRight(line, " "))
	}
	_, err := io.WriteString(w, out.String())
	return err
}

// measurement is a scenario under way.
type measurement struct {
	*vaults
	result result
}

func (m *measurement) add(r row) {
	raw, _ := os.ReadFile("/proc/loadavg") // on Linux only
	r.Load, _, _ = strings.Cut(string(raw), " ")
	m.result.Rows = append(m.result.Rows, r)
	report.Progress("%s: %.1f %s", r.What, r.Value, r.Unit)
}

// time measures how long something takes.
func (m *measurement) time(what string, do func() error) error {
	report.Progress("%s …", what)
	began := time.Now()
	if err := do(); err != nil {
		return fmt.Errorf("%s: %w", what, err)
	}
	m.add(row{What: what, Value: report.Milliseconds(time.Since(began)), Unit: "ms"})
	return nil
}

// beside measures how long something takes, and introspections of the given tokens
// meanwhile. What do returns is noted.
func (m *measurement) beside(ctx context.Context, what string, presented []string, do func() (note string, err error)) error {
	report.Progress("%s …", what)
	p := m.probe(ctx, presented)
	began := time.Now()
	note, err := do()
	took := time.Since(began)
	latencies := p.stop()
	if err != nil {
		return fmt.Errorf("%s: %w", what, err)
	}
	m.add(row{What: what, Value: report.Milliseconds(took), Unit: "ms", Note: note, Beside: latencies})
	return nil
}

// memory records what the plugin of the active node takes.
func (m *measurement) memory(when string) error {
	mib, err := m.active.PluginMiB()
	if err != nil {
		return err
	}
	m.add(row{What: "plugin memory, " + when, Value: mib, Unit: "MiB"})
	return nil
}
