package docs

import (
	"bytes"
	"context"
	"crypto/rand"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"github.com/vault-tokens/vault-plugin-secrets-tokens/test/suite"
	"github.com/vault-tokens/vault-plugin-secrets-tokens/test/vaulttest"
)

// shell is where the commands of a document run: one bash, from top to bottom,
// which the first failure ends.
type shell struct {
	dir string   // working directory
	env []string // all of the environment
	// instead holds, for what a document says and a test cannot do as it
	// stands, what is done in its place.
	instead map[string]string
}

// preamble defines what stands in place of `make dev`, which a reader leaves
// running in another terminal: it runs in the background, what it says to paste
// is pasted, and it ends with the session or when the test's end of the pipe on
// file descriptor 3 closes, however that comes.
const preamble = `
docs_dev() {
  local log dev
  log=$(mktemp)
  make dev >"$log" 2>&1 3>&- &
  dev=$!
  trap "kill -TERM $dev 2>/dev/null; wait $dev || true" EXIT
  { read -r _ <&3 || true; kill -TERM "$dev"; } >/dev/null 2>&1 &
  until grep -q '^Everything is in memory' "$log"; do
    if ! kill -0 "$dev"; then cat "$log"; return 1; fi
    sleep 0.1
  done
  eval "$(grep '^export ' "$log")"
}
trap 'kill $(jobs -p) 2>/dev/null || true' EXIT # what a document leaves running in the background
unset MAKEFLAGS MAKELEVEL MFLAGS # of the make that runs these tests
set -euo pipefail
`

// script is the session's program. A line of its own stands before what each
// step prints, and one after the last.
func (sh *shell) script(steps []*step, mark string, used map[string]bool) string {
	var out strings.Builder
	out.WriteString(preamble)
	for i, s := range steps {
		fmt.Fprintf(&out, "printf '\\n%%s\\n' '%s %d'\n", mark, i)
		command := sh.adapt(s.command, used)
		if s.answer.fails() {
			command = "if\n" + command + "\nthen echo 'the document shows this failing'; exit 1; fi"
		}
		out.WriteString(command + "\n")
	}
	fmt.Fprintf(&out, "printf '\\n%%s\\n' '%s %d'\n", mark, len(steps))
	return out.String()
}

func (sh *shell) adapt(command string, used map[string]bool) string {
	for from, to := range sh.instead {
		if strings.Contains(command, from) {
			used[from] = true
			command = strings.ReplaceAll(command, from, to)
		}
	}
	return command
}

// run runs the steps and returns what each of them printed. The error tells
// which step failed.
func (sh *shell) run(ctx context.Context, doc string, steps []*step, used map[string]bool) ([]string, error) {
	mark := "step-" + rand.Text()
	alive, end, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	defer alive.Close()
	defer end.Close()
	out, err := os.CreateTemp("", "docs-output-")
	if err != nil {
		return nil, err
	}
	defer os.Remove(out.Name())
	defer out.Close()

	cmd := exec.CommandContext(ctx, "bash", "-c", sh.script(steps, mark, used))
	cmd.Dir, cmd.Env = sh.dir, sh.env
	cmd.Stdout, cmd.Stderr = out, out
	cmd.ExtraFiles = []*os.File{alive}
	failed := cmd.Run()
	raw, err := os.ReadFile(out.Name())
	if err != nil {
		return nil, err
	}
	printed := split(string(raw), mark)
	if failed == nil && len(printed) == len(steps)+1 {
		return printed[:len(steps)], nil
	}
	if len(printed) == 0 || len(printed) > len(steps) {
		return nil, fmt.Errorf("%s: the shell: %w\n%s", doc, failed, raw)
	}
	at := len(printed) - 1
	return nil, fmt.Errorf("%s:%d: %w\n%s\n%s", doc, steps[at].line, failed, steps[at].command, normal(printed[at]))
}

// split cuts the output at the marks, and drops what comes before the first.
func split(output, mark string) []string {
	at := regexp.MustCompile(`\n` + mark + ` \d+\n`)
	parts := at.Split(output, -1)
	return parts[1:]
}

// plainEnv is an environment without Vault settings, with a home of its own,
// in which Go still finds its caches, and scripts/vault.sh the same Vault.
func plainEnv(t *testing.T) []string {
	t.Helper()
	vault, _ := vaulttest.Binaries(t)
	env := []string{"HOME=" + t.TempDir(), "VAULT_BIN=" + vault, "NO_COLOR=1", "LC_ALL=C"}
	for _, kv := range os.Environ() {
		name, _, _ := strings.Cut(kv, "=")
		if !regexp.MustCompile(`^(VAULT_|BAO_|HOME$|XDG_|NO_COLOR$|LC_|CURL_|GIT_|MAKE|MFLAGS$)`).MatchString(name) {
			env = append(env, kv)
		}
	}
	goEnv, err := exec.Command("go", "env", "GOCACHE", "GOMODCACHE", "GOPATH").Output()
	if err != nil {
		t.Fatal(err)
	}
	values := strings.Split(strings.TrimSpace(string(goEnv)), "\n")
	return append(env, "GOCACHE="+values[0], "GOMODCACHE="+values[1], "GOPATH="+values[2])
}

// withVault puts a vault command on the PATH.
func withVault(t *testing.T, env []string) []string {
	t.Helper()
	vault, _ := vaulttest.Binaries(t)
	bin := t.TempDir()
	if err := os.Symlink(vault, filepath.Join(bin, "vault")); err != nil {
		t.Fatal(err)
	}
	return append(env, "PATH="+bin+string(os.PathListSeparator)+os.Getenv("PATH"))
}

const publicURL = "https://github.com/vault-tokens/vault-plugin-secrets-tokens"

// cloneable makes `git clone` of the public repository give the files as they
// are here, committed or not.
func cloneable(t *testing.T, env []string) []string {
	t.Helper()
	origin := t.TempDir()
	// The files that a commit of everything would have.
	script := `
files=$(mktemp)
git -c safe.directory='*' ls-files -z --cached --others --exclude-standard >"$files"
while IFS= read -r -d '' file; do
  if [ -e "$file" ]; then mkdir -p "$1/$(dirname "$file")" && cp -p "$file" "$1/$file"; fi
done <"$files"
rm "$files"
cd "$1" && git init -q && git add -A && git -c user.name=docs -c user.email=docs@localhost commit -q -m docs
`
	cmd := exec.Command("bash", "-euo", "pipefail", "-c", script, "cloneable", origin)
	cmd.Dir, cmd.Env = suite.Repository(), env
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("copy the repository: %v\n%s", err, bytes.TrimSpace(out))
	}
	return append(env, "GIT_CONFIG_COUNT=1",
		"GIT_CONFIG_KEY_0=url.file://"+origin+".insteadOf", "GIT_CONFIG_VALUE_0="+publicURL)
}

func clone(t *testing.T, env []string) (dir string) {
	t.Helper()
	dir = filepath.Join(t.TempDir(), "clone")
	cmd := exec.Command("git", "clone", "-q", publicURL, dir)
	cmd.Env = env
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("git clone: %v\n%s", err, out)
	}
	return dir
}

func TestDocumentsShellTellsTheStepThatFailed(t *testing.T) {
	sh := &shell{dir: t.TempDir(), env: os.Environ(), instead: map[string]string{"/opt/there": "here", "never": ""}}
	used := map[string]bool{}
	steps := []*step{
		{line: 1, command: "x=1\nprintf %s one"},
		{line: 5, command: "echo \"$x\" /opt/there", answer: &answer{text: "1 here"}},
		{line: 8, command: "false", answer: &answer{text: "Error reading nothing"}},
	}
	printed, err := sh.run(t.Context(), "good.md", steps, used)
	if err != nil {
		t.Fatal(err)
	}
	if want := []string{"one", "1 here\n", ""}; strconv.Quote(strings.Join(printed, "|")) != strconv.Quote(strings.Join(want, "|")) {
		t.Errorf("printed %q, want %q", printed, want)
	}
	if !used["/opt/there"] || used["never"] {
		t.Errorf("used %v, want only /opt/there", used)
	}
	for name, bad := range map[string]*step{
		"fails":               {line: 20, command: "echo before; false | true; echo after"},
		"unset variable":      {line: 20, command: `echo "$nothing_of_this_name"`},
		"syntax":              {line: 20, command: "if true; then"},
		"should fail, but no": {line: 20, command: "true", answer: &answer{text: "Error reading nothing"}},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := sh.run(t.Context(), "bad.md", append(steps[:1:1], bad, steps[1]), used)
			if err == nil || !strings.Contains(err.Error(), "bad.md:20:") {
				t.Errorf("got the error %v, want one at bad.md:20", err)
			}
		})
	}
}
