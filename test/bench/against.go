package main

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"github.com/vault-tokens/vault-plugin-secrets-tokens/test/report"
	"github.com/vault-tokens/vault-plugin-secrets-tokens/test/suite"
	"github.com/vault-tokens/vault-plugin-secrets-tokens/test/vaulttest"
)

// The build to compare with is a plugin of its own, and so a process of its
// own, on a mount beside the other.
const (
	oldPlugin = vaulttest.PluginName + "-old"
	oldMount  = vaulttest.MountPath + "-old"
)

// mountOld mounts the other build: a plugin's binary, or that of a commit.
func mountOld(ctx context.Context, server *vaulttest.Server, against string) error {
	binary, err := oldBinary(ctx, against)
	if err != nil {
		return err
	}
	defer binary.Close()
	sum, err := install(binary, filepath.Join(server.Plugin.Dir, oldPlugin))
	if err != nil {
		return err
	}
	root := server.Root()
	if _, err := root.Must(ctx, "PUT", "sys/plugins/catalog/secret/"+oldPlugin, map[string]any{"sha256": sum, "command": oldPlugin}); err != nil {
		return err
	}
	_, err = root.Must(ctx, "POST", "sys/mounts/"+oldMount, map[string]any{"type": oldPlugin})
	return err
}

// oldBinary opens the binary. A relative path starts at the repository's root,
// where make is run.
func oldBinary(ctx context.Context, against string) (*os.File, error) {
	path := against
	if !filepath.IsAbs(path) {
		path = filepath.Join(suite.Repository(), path)
	}
	if info, err := os.Stat(path); err == nil && info.Mode().IsRegular() {
		return os.Open(path)
	}
	dir, err := os.MkdirTemp("", "bench-old-")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(dir)
	report.Progress("building the plugin of %s", against)
	plugin, _, err := vaulttest.BuildRevision(ctx, dir, against)
	if err != nil {
		return nil, fmt.Errorf("%s is neither a file nor a commit that builds: %w", against, err)
	}
	return os.Open(filepath.Join(plugin.Dir, vaulttest.PluginName))
}

// install writes the binary into the plugin directory and returns its SHA-256.
func install(binary io.Reader, path string) (sum string, err error) {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o755)
	if err != nil {
		return "", err
	}
	defer f.Close()
	hash := sha256.New()
	if _, err := io.Copy(io.MultiWriter(f, hash), binary); err != nil {
		return "", err
	}
	return hex.EncodeToString(hash.Sum(nil)), f.Close()
}
