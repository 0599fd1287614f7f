package vaulttest

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
)

// PluginName is the plugin's binary and its name in the catalog.
const PluginName = "vault-plugin-secrets-tokens"

// Plugin is a built plugin binary.
type Plugin struct {
	Dir    string // the server's plugin_directory
	SHA256 string // hex
}

// RepositoryRoot is the folder of the plugin's own module.
func RepositoryRoot() (string, error) {
	_, file, _, ok := runtime.Caller(0)
	if !ok {
		return "", errors.New("no caller information")
	}
	return filepath.Dir(filepath.Dir(filepath.Dir(file))), nil
}

// BuildPlugin compiles the plugin into dir, with the race detector if asked.
func BuildPlugin(ctx context.Context, dir string, race bool) (*Plugin, error) {
	root, err := RepositoryRoot()
	if err != nil {
		return nil, err
	}
	// Vault resolves symbolic links of its plugin_directory and refuses a
	// plugin outside of it; a temporary folder is often behind one.
	if dir, err = filepath.EvalSymlinks(dir); err != nil {
		return nil, err
	}
	bin := filepath.Join(dir, PluginName)
	args := []string{"build", "-o", bin}
	if race {
		args = append(args, "-race")
	}
	cmd := exec.CommandContext(ctx, "go", append(args, "./cmd/"+PluginName)...)
	cmd.Dir = root
	cmd.Env = os.Environ()
	if race {
		cmd.Env = append(cmd.Env, "CGO_ENABLED=1") // the race detector needs it
	}
	if out, err := cmd.CombinedOutput(); err != nil {
		return nil, fmt.Errorf("build the plugin: %w\n%s", err, out)
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
// scripts/vault.sh, which knows $VAULT_BIN, PATH and the pinned version.
func VaultBinary(ctx context.Context) (string, error) {
	root, err := RepositoryRoot()
	if err != nil {
		return "", err
	}
	cmd := exec.CommandContext(ctx, filepath.Join(root, "scripts", "vault.sh"))
	cmd.Stderr = os.Stderr // its progress: the first build takes minutes
	out, err := cmd.Output()
	if err != nil {
		return "", fmt.Errorf("scripts/vault.sh: %w", err)
	}
	return strings.TrimSpace(string(out)), nil
}
