package suite

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"testing"
)

var nodeFolders struct {
	mu  sync.Mutex
	dir map[string]string
}

// NodeFolder is a copy of test/<name>, which has scripts for Node.js and a
// package-lock.json, with its dependencies installed. They are downloaded once
// for each lock file, into the user's cache.
func NodeFolder(t *testing.T, name string) (dir string) {
	t.Helper()
	Program(t, SkipNode, "node")
	Program(t, SkipNode, "npm")
	nodeFolders.mu.Lock()
	defer nodeFolders.mu.Unlock()
	if dir := nodeFolders.dir[name]; dir != "" {
		return dir
	}
	dir = filepath.Join(Dir(), name)
	if err := prepareNodeFolder(Context(), filepath.Join(Repository(), "test", name), dir); err != nil {
		t.Fatal(err)
	}
	if nodeFolders.dir == nil {
		nodeFolders.dir = map[string]string{}
	}
	nodeFolders.dir[name] = dir
	return dir
}

func prepareNodeFolder(ctx context.Context, source, dir string) error {
	installed, err := npmInstalled(ctx, source)
	if err != nil {
		return err
	}
	scripts, err := filepath.Glob(filepath.Join(source, "*.mjs"))
	if err != nil {
		return err
	}
	if err := os.Mkdir(dir, 0o700); err != nil {
		return err
	}
	for _, file := range append(scripts, filepath.Join(source, "package.json")) {
		if err := Copy(file, dir); err != nil {
			return err
		}
	}
	return os.Symlink(filepath.Join(installed, "node_modules"), filepath.Join(dir, "node_modules"))
}

// npmInstalled is where the dependencies of a folder with a package-lock.json
// lie in the user's cache.
func npmInstalled(ctx context.Context, source string) (string, error) {
	lock, err := os.ReadFile(filepath.Join(source, "package-lock.json"))
	if err != nil {
		return "", err
	}
	cache, err := cacheDir()
	if err != nil {
		return "", err
	}
	sum := sha256.Sum256(lock)
	name := filepath.Base(source) + "-" + hex.EncodeToString(sum[:8])
	installed := filepath.Join(cache, name)
	return installed, Alone(ctx, name, func() error {
		if _, err := os.Stat(installed); !errors.Is(err, os.ErrNotExist) {
			return err
		}
		return npmInstall(ctx, source, installed)
	})
}

// npmInstall installs exactly what package-lock.json says. The folder has its
// name only once it is complete.
func npmInstall(ctx context.Context, source, installed string) error {
	work, err := os.MkdirTemp(filepath.Dir(installed), "installing-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(work)
	for _, name := range []string{"package.json", "package-lock.json"} {
		if err := Copy(filepath.Join(source, name), work); err != nil {
			return err
		}
	}
	cmd := exec.CommandContext(ctx, "npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund")
	cmd.Dir = work
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("npm ci (which needs Node.js 20 or later): %w\n%s", err, out)
	}
	return os.Rename(work, installed)
}
