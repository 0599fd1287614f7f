// Package suite is what the packages that test on real servers share and that
// knows of no server: how a package's tests begin and end, how long they may
// take, what they wait for, and what they need of the machine.
package suite

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

var running = struct {
	ctx context.Context
	dir string

	mu      sync.Mutex
	skipped []string
}{ctx: context.Background()}

// Main runs a package's tests for its TestMain. What finish finds wrong after
// the last of them fails the package.
func Main(m *testing.M, finish func() error) { os.Exit(run(m, finish)) }

// run returns the exit code, so that what it defers happens before the exit.
func run(m *testing.M, finish func() error) int {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	running.ctx = ctx
	dir, err := os.MkdirTemp("", "vaulttest-suite-")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer os.RemoveAll(dir)
	running.dir = dir

	code := m.Run()
	if err := finish(); err != nil {
		fmt.Fprintf(os.Stderr, "FAIL: after all tests: %v\n", err)
		code = 1
	}
	if len(running.skipped) > 0 {
		fmt.Fprintf(os.Stderr, "SKIPPED %d tests: %s\n", len(running.skipped), strings.Join(running.skipped, ", "))
	}
	return code
}

// Context ends when the tests are interrupted.
func Context() context.Context { return running.ctx }

// Dir is a folder for what all tests of the package use, such as binaries.
func Dir() string { return running.dir }

// Deadline bounds one test, so that a hang is told apart from a slow machine.
func Deadline(t *testing.T, limit time.Duration) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeoutCause(running.ctx, limit, errors.New("the test took longer than "+limit.String()))
	t.Cleanup(cancel)
	return ctx
}
