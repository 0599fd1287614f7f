// Package verify_test holds the module to its promise to importers.
package verify_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// maxModules bounds what `go list -m all` names for a program that imports this
// module alone, the program itself included.
const maxModules = 9

const consumer = `package main

import "github.com/vault-tokens/vault-plugin-secrets-tokens/verify/format"

func main() { _, _ = format.ParseOpaque("") }
`

// Whoever verifies tokens must not get a secrets engine's dependencies with it.
func TestConsumerHasFewModules(t *testing.T) {
	module, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	for name, content := range map[string]string{
		"main.go": consumer,
		"go.mod": "module consumer\n\ngo 1.25.0\n\n" +
			"require github.com/vault-tokens/vault-plugin-secrets-tokens/verify v0.0.0\n" +
			"replace github.com/vault-tokens/vault-plugin-secrets-tokens/verify => " + module + "\n",
	} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	run := func(args ...string) string {
		t.Helper()
		command := exec.CommandContext(t.Context(), "go", args...)
		command.Dir = dir
		command.Env = append(os.Environ(), "GOFLAGS=-mod=mod", "GOWORK=off")
		output, err := command.CombinedOutput()
		if err != nil {
			t.Fatalf("go %s: %v\n%s", strings.Join(args, " "), err, output)
		}
		return strings.TrimSpace(string(output))
	}
	run("build", "-o", os.DevNull, ".") // a list alone would not notice a missing module
	modules := strings.Split(run("list", "-m", "all"), "\n")
	if len(modules) > maxModules {
		t.Errorf("a consumer lists %d modules, want at most %d:\n%s", len(modules), maxModules, strings.Join(modules, "\n"))
	}
}
