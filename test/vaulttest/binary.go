package vaulttest

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"github.com/vault-tokens/vault-plugin-secrets-tokens/test/suite"
)

// PluginName is the plugin's binary and its name in the catalog.
const PluginName = "vault-plugin-secrets-tokens"

// Plugin is a built plugin binary.
type Plugin struct {
	Dir    string // the server's plugin_directory
	SHA256 string // hex
}

// Build compiles a command of the repository, with the race detector if asked.
func Build(ctx context.Context, command, to string, race bool) error {
	return build(ctx, suite.Repository(), command, to, race)
}

func build(ctx context.Context, root, command, to string, race bool) error {
	args := []string{"build", "-o", to}
	if race {
		args = append(args, "-race")
	}
	cmd := exec.CommandContext(ctx, "go", append(args, "./cmd/"+command)...)
	cmd.Dir = root
	cmd.Env = os.Environ()
	if race {
		cmd.Env = append(cmd.Env, "CGO_ENABLED=1") // the race detector needs it
	}
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("build %s: %w\n%s", command, err, out)
	}
	return nil
}

// BuildPlugin compiles the plugin into dir, with the race detector if asked.
func BuildPlugin(ctx context.Context, dir string, race bool) (*Plugin, error) {
	return buildPlugin(ctx, suite.Repository(), dir, race)
}

// BuildRevision compiles the plugin into dir as it was at a commit, which
// anything may name that git understands. It returns the commit's id as well.
func BuildRevision(ctx context.Context, dir, revision string) (plugin *Plugin, commit string, err error) {
	root := suite.Repository()
	source, err := os.MkdirTemp("", "vaulttest-source-")
	if err != nil {
		return nil, "", err
	}
	defer os.RemoveAll(source)
	if commit, err = git(ctx, root, "rev-parse", "--verify", "--end-of-options", revision+"^{commit}"); err != nil {
		return nil, "", err
	}
	// A clone and not a worktree: an interrupt leaves nothing in the repository.
	if _, err := git(ctx, root, "clone", "--quiet", "--shared", "--no-checkout", root, source); err != nil {
		return nil, "", err
	}
	if _, err := git(ctx, source, "checkout", "--quiet", "--detach", commit); err != nil {
		return nil, "", err
	}
	plugin, err = buildPlugin(ctx, source, dir, false)
	return plugin, commit, err
}

func git(ctx context.Context, dir string, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, "git", args...)
	cmd.Dir = dir
	var message strings.Builder
	cmd.Stderr = &message
	out, err := cmd.Output()
	if err != nil {
		return "", fmt.Errorf("git %s: %w\n%s", args[0], err, message.String())
	}
	return strings.TrimSpace(string(out)), nil
}

// buildPlugin compiles the plugin of the module at root.
func buildPlugin(ctx context.Context, root, dir string, race bool) (*Plugin, error) {
	// Vault resolves symbolic links of its plugin_directory and refuses a
	// plugin outside of it; a temporary folder is often behind one.
	dir, err := filepath.EvalSymlinks(dir)
	if err != nil {
		return nil, err
	}
	bin := filepath.Join(dir, PluginName)
	if err := build(ctx, root, PluginName, bin, race); err != nil {
		return nil, err
	}
	sum, err := fileSHA256(bin)
	if err != nil {
		return nil, err
	}
	return &Plugin{Dir: dir, SHA256: sum}, nil
}

func fileSHA256(path string) (string, error) {
	f, err := os.Open(path)
	if err != nil {
		return "", err
	}
	defer f.Close()
	h := sha256.New()
	if _, err := io.Copy(h, f); err != nil {
		return "", err
	}
	return hex.EncodeToString(h.Sum(nil)), nil
}

// VaultBinary finds a Vault server as all of the repository does: through
// scripts/vault.sh, which knows $VAULT_BIN, PATH and the pinned version, and
// builds that once.
func VaultBinary(ctx context.Context) (string, error) {
	var out []byte
	err := suite.Alone(ctx, "vault", func() (err error) {
		cmd := exec.CommandContext(ctx, filepath.Join(suite.Repository(), "scripts", "vault.sh"))
		cmd.Stderr = os.Stderr // its progress: the first build takes minutes
		out, err = cmd.Output()
		return err
	})
	if err != nil {
		return "", fmt.Errorf("scripts/vault.sh: %w", err)
	}
	return strings.TrimSpace(string(out)), nil
}

// InstallAs copies the binary, such as into the directory of a server that runs
// another build.
func (p *Plugin) InstallAs(path string) error {
	binary, err := os.ReadFile(filepath.Join(p.Dir, PluginName))
	if err != nil {
		return err
	}
	return os.WriteFile(path, binary, 0o755)
}
