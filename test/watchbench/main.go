// Command watchbench compares tokenwatch with jq: both count what happened in
// the same large audit log, one after the other, and must agree.
//
// The log is made of entries that a real Vault wrote, over and over, each time
// with other ids, hashes, times, entities and addresses.
package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/vault-tokens/vault-plugin-secrets-tokens/test/vaulttest"
)

type settings struct {
	megabytes int
	dir       string
	only      string
	check     bool
}

// Goals that -check holds the result to.
const (
	goalTimesJQ  = 10
	goalPerCore  = 100_000
	goalMegabyte = 200
)

func main() {
	var s settings
	flag.IntVar(&s.megabytes, "mb", 2048, "size of the log in MiB")
	flag.StringVar(&s.dir, "dir", "", "where to put the log; default: the directory for temporary files")
	flag.StringVar(&s.only, "o", "", "write the log to this file, keep it, and compare nothing")
	flag.BoolVar(&s.check, "check", false, "exit with 1 if a goal is missed")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := run(ctx, s)
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "watchbench:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, s settings) error {
	dir, err := os.MkdirTemp(s.dir, "watchbench-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	tokenwatch := filepath.Join(dir, "tokenwatch")
	if err := vaulttest.Build(ctx, "tokenwatch", tokenwatch, false); err != nil {
		return err
	}
	templates, err := record(ctx, dir)
	if err != nil {
		return fmt.Errorf("record entries: %w", err)
	}
	log := filepath.Join(dir, "audit.log")
	if s.only != "" {
		log = s.only
	}
	lines, bytes, err := generate(ctx, log, templates, int64(s.megabytes)<<20)
	if err != nil {
		return err
	}
	fmt.Printf("log: %d lines, %.0f MiB, %d bytes a line; entries of %d kinds recorded from a real Vault\n\n",
		lines, float64(bytes)/(1<<20), bytes/lines, len(templates))
	if s.only != "" {
		return nil
	}
	return compare(ctx, s, tokenwatch, log, lines)
}

// jqProgram counts what tokenwatch's report has in its totals.
const jqProgram = `
reduce (inputs | select(.request.mount_type == "vault-plugin-secrets-tokens" and .type == "response")) as $e ({};
  .[ if $e.error then "denied"
     elif ($e.response.data.error? // null) != null then "invalid"
     elif ($e.request.path | startswith("tokens/creds/")) then "issued"
     elif $e.request.path == "tokens/introspect" then
       (if $e.response.data.active then "active"
        elif ($e.response.data | has("token_id")) then "check_failed"
        else "inactive" end)
     else "other" end ] += 1)`

type totals struct {
	Issued      int64 `json:"issued"`
	Active      int64 `json:"active"`
	Inactive    int64 `json:"inactive"`
	CheckFailed int64 `json:"check_failed"`
	Denied      int64 `json:"denied"`
	Invalid     int64 `json:"invalid"`
}

func compare(ctx context.Context, s settings, tokenwatch, log string, lines int64) error {
	fmt.Printf("%-34s %8s %8s %12s %14s   %s\n", "", "seconds", "CPU s", "lines/s", "lines/s a core", "memory: median, most")
	replay, err := measure(ctx, lines, "tokenwatch replay (rules, counts)", tokenwatch, "replay", "-json", "-counts", log)
	if err != nil {
		return err
	}
	jq, err := measure(ctx, lines, "jq (counts)", "jq", "-n", jqProgram, log)
	if err != nil {
		return err
	}
	report, err := measure(ctx, lines, "tokenwatch report (and tables)", tokenwatch, "report", "-format", "json", log)
	if err != nil {
		return err
	}
	ours, err := counted(replay.out)
	if err != nil {
		return err
	}
	var theirs totals
	if err := json.Unmarshal(jq.out, &theirs); err != nil {
		return err
	}
	fmt.Printf("\ntokenwatch counted %+v\njq counted         %+v\n", ours, theirs)
	if ours != theirs {
		return errors.New("they do not agree")
	}
	times := jq.seconds / replay.seconds
	perCore := min(report.perCore, replay.perCore)
	most := max(report.most, replay.most)
	fmt.Printf("tokenwatch replay is %.1f times as fast as jq (report: %.1f times); by CPU time %.1f times\n", times, jq.seconds/report.seconds, replay.perCore/jq.perCore)
	var missed []string
	for goal, met := range map[string]bool{
		fmt.Sprintf("%d times jq", goalTimesJQ):       times >= goalTimesJQ,
		fmt.Sprintf("%d lines/s a core", goalPerCore): perCore >= goalPerCore,
		fmt.Sprintf("less than %d MiB", goalMegabyte): most < goalMegabyte,
	} {
		if !met {
			missed = append(missed, goal)
		}
	}
	if len(missed) == 0 {
		fmt.Println("all goals are met")
		return nil
	}
	fmt.Println("missed:", strings.Join(missed, "; "))
	if s.check {
		return errors.New("a goal is missed")
	}
	return nil
}

// counted reads the last line that replay writes.
func counted(out []byte) (totals, error) {
	last := out[bytes.LastIndexByte(bytes.TrimSpace(out), '\n')+1:]
	var counts struct {
		Events []struct {
			Kind, Outcome string
			Count         int64
		}
	}
	if err := json.Unmarshal(last, &counts); err != nil {
		return totals{}, err
	}
	var t totals
	for _, e := range counts.Events {
		switch {
		case e.Outcome == "denied":
			t.Denied += e.Count
		case e.Outcome == "invalid":
			t.Invalid += e.Count
		case e.Kind == "issue":
			t.Issued += e.Count
		case e.Outcome == "active":
			t.Active += e.Count
		case e.Outcome == "inactive":
			t.Inactive += e.Count
		case e.Outcome == "check_failed":
			t.CheckFailed += e.Count
		}
	}
	return t, nil
}

type result struct {
	out              []byte
	seconds, perCore float64
	most             float64 // MiB
}

// measure runs a command to its end and prints a line about it.
func measure(ctx context.Context, lines int64, name string, command ...string) (result, error) {
	cmd := exec.CommandContext(ctx, command[0], command[1:]...)
	var stderr strings.Builder
	cmd.Stderr = &stderr
	out, err := os.CreateTemp("", "watchbench-out-")
	if err != nil {
		return result{}, err
	}
	defer os.Remove(out.Name())
	defer out.Close()
	cmd.Stdout = out
	began := time.Now()
	if err := cmd.Start(); err != nil {
		return result{}, err
	}
	memory := sample(cmd.Process.Pid)
	err = cmd.Wait()
	took := time.Since(began)
	samples := memory()
	if err != nil {
		return result{}, fmt.Errorf("%s: %w\n%s", name, err, stderr.String())
	}
	usage, _ := cmd.ProcessState.SysUsage().(*syscall.Rusage)
	cpu := (cmd.ProcessState.UserTime() + cmd.ProcessState.SystemTime()).Seconds()
	r := result{seconds: took.Seconds(), perCore: float64(lines) / cpu, most: float64(usage.Maxrss) / 1024}
	if r.out, err = os.ReadFile(out.Name()); err != nil {
		return r, err
	}
	fmt.Printf("%-34s %8.1f %8.1f %12.0f %14.0f   %.0f MiB, %.0f MiB\n", name, r.seconds, cpu, float64(lines)/r.seconds, r.perCore, samples, r.most)
	return r, nil
}
