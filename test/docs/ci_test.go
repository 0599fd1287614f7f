package docs

import (
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/vault-tokens/vault-plugin-secrets-tokens/test/suite"
)

// TestTheCommandsOfTheReadmeAreRunByCI looks at the two that TestDocuments
// cannot run: itself, and what runs it.
func TestTheCommandsOfTheReadmeAreRunByCI(t *testing.T) {
	// A make that says what it is asked to do, and what it is asked to leave out.
	bin := t.TempDir()
	const fake = "#!/bin/sh\necho \"$@\"\nenv | grep -E '^(SKIP_|MAKEFLAGS)' || true\n"
	if err := os.WriteFile(filepath.Join(bin, "make"), []byte(fake), 0o700); err != nil {
		t.Fatal(err)
	}
	ci := exec.CommandContext(suite.Context(), filepath.Join(suite.Repository(), ".ci", "run"))
	ci.Env = append(os.Environ(), "PATH="+bin+string(os.PathListSeparator)+os.Getenv("PATH"),
		"MAKEFLAGS= -- "+string(suite.SkipBrowser)+"=1", string(suite.SkipBrowser)+"=1", string(suite.SkipNode)+"=1", string(suite.SkipPrometheus)+"=1")
	out, err := ci.CombinedOutput()
	if err != nil {
		t.Fatalf(".ci/run: %v\n%s", err, out)
	}
	if got, want := string(out), "lint demo test\n"; got != want {
		t.Errorf(".ci/run has make do %q, want %q and nothing left out", got, want)
	}

	readme, err := readDocument("README.md")
	if err != nil {
		t.Fatal(err)
	}
	for _, target := range []string{"demo", "test"} {
		if !slices.ContainsFunc(readme.steps, func(s *step) bool { return strings.HasSuffix("\n"+s.command, "\nmake "+target) }) {
			t.Errorf("README.md does not say make %s", target)
		}
	}
	checkMakeTest(t)
}

// checkMakeTest holds what make test would run to the modules that there are.
func checkMakeTest(t *testing.T) {
	t.Helper()
	// Without what the make that runs these tests passes on.
	dryRun := exec.CommandContext(suite.Context(), "env", "-u", "MAKEFLAGS", "-u", "MAKELEVEL", "-u", "PKG", "make", "-n", "test")
	dryRun.Dir = suite.Repository()
	out, err := dryRun.Output()
	if err != nil {
		t.Fatalf("make -n test: %v", err)
	}
	commands := string(out)
	for _, want := range []string{"scripts/test-tools.sh\n", "go test -race -timeout 20m ./...", "scripts/test-servers.sh ./...\n"} {
		if !strings.Contains(commands, want) {
			t.Errorf("make test does not run %q:\n%s", want, commands)
		}
	}
	modules := suite.Glob(t, "go.mod")
	if nested, err := filepath.Glob(filepath.Join(suite.Repository(), "*", "go.mod")); err == nil {
		modules = append(modules, nested...)
	}
	_, list, _ := strings.Cut(commands, "for module in ")
	list, _, _ = strings.Cut(list, ";")
	tested := append(strings.Fields(list), "test")
	for _, mod := range modules {
		dir, err := filepath.Rel(suite.Repository(), filepath.Dir(mod))
		if err != nil || !slices.Contains(tested, dir) {
			t.Errorf("make test leaves out the module %s: it tests %q; %v", dir, tested, err)
		}
	}
}
