package suite

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
)

// Skip names an environment variable by which somebody who cannot install a
// program leaves out the tests that need it. scripts/test-tools.sh lists them.
// Without it a program that is missing fails the test.
type Skip string

const (
	SkipBrowser    Skip = "SKIP_BROWSER"
	SkipPrometheus Skip = "SKIP_PROMETHEUS"
	SkipNode       Skip = "SKIP_NODE"
)

// Check skips the test if the variable is set, and has the end of the run say
// so: $SKIPPED_LOG, if set, is a file that gains a line.
func (s Skip) Check(t *testing.T) {
	t.Helper()
	if os.Getenv(string(s)) != "" {
		skip(t, string(s), fmt.Sprintf("%s is set", s))
	}
}

// Commit skips the test if a commit of this repository is not in the clone, such as a
// shallow one, and has the end of the run say so, as Check does.
func Commit(t *testing.T, commit string) {
	t.Helper()
	if exec.Command("git", "-C", Repository(), "cat-file", "-e", commit+"^{commit}").Run() != nil {
		skip(t, "no commit "+commit, fmt.Sprintf("commit %s is not in this clone: fetch the whole history", commit))
	}
}

func skip(t *testing.T, short, why string) {
	t.Helper()
	what := fmt.Sprintf("%s (%s)", t.Name(), short)
	running.mu.Lock()
	defer running.mu.Unlock()
	running.skipped = append(running.skipped, what)
	if file := os.Getenv("SKIPPED_LOG"); file != "" {
		if err := appendLine(file, what); err != nil {
			t.Fatalf("SKIPPED_LOG: %v", err)
		}
	}
	t.Skip(why)
}

func appendLine(file, line string) error {
	f, err := os.OpenFile(file, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer f.Close()
	_, err = f.WriteString(line + "\n")
	return err
}

// Program finds a program that has one of the names.
func Program(t *testing.T, skip Skip, names ...string) string {
	t.Helper()
	skip.Check(t)
	for _, name := range names {
		if path, err := exec.LookPath(name); err == nil {
			return path
		}
	}
	t.Fatalf("there is no %s: scripts/test-tools.sh installs it, or says how; %s=1 leaves out the tests that need it", names[0], skip)
	return ""
}

// Background runs a program for as long as the test does. What it says is in
// the file that is returned.
func Background(t *testing.T, ctx context.Context, command ...string) (log string) {
	t.Helper()
	log = filepath.Join(t.TempDir(), "log")
	out, err := os.Create(log)
	if err != nil {
		t.Fatal(err)
	}
	defer out.Close()
	ctx, cancel := context.WithCancel(ctx)
	cmd := exec.CommandContext(ctx, command[0], command[1:]...)
	cmd.Stdout, cmd.Stderr, cmd.Dir = out, out, filepath.Dir(log)
	if err := cmd.Start(); err != nil {
		cancel()
		t.Fatal(err)
	}
	t.Cleanup(func() {
		cancel()
		_ = cmd.Wait()
		if t.Failed() {
			said, _ := os.ReadFile(log)
			t.Logf("%s said:\n%s", filepath.Base(command[0]), said[max(0, len(said)-3000):])
		}
	})
	return log
}
