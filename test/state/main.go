// Command state writes a fixture of stored state: what the engine as of one
// commit leaves in the storage of a real Vault, and what it answers about it.
// TestStoredState holds every later build to all fixtures in testdata/state;
// the README there says when to add one.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io/fs"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"

	"github.com/vault-tokens/vault-plugin-secrets-tokens/test/suite"
	"github.com/vault-tokens/vault-plugin-secrets-tokens/test/vaulttest"
)

func main() {
	revision := flag.String("rev", "HEAD", "commit whose build stores the state")
	out := flag.String("o", "", "file to write (default testdata/state/<version>-<day>-<commit>.json)")
	flag.Parse()
	if flag.NArg() > 0 {
		flag.Usage()
		os.Exit(2)
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := run(ctx, *revision, *out)
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "state:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, revision, out string) error {
	vault, err := vaulttest.VaultBinary(ctx)
	if err != nil {
		return err
	}
	dir, err := os.MkdirTemp("", "state-plugin-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	plugin, commit, err := vaulttest.BuildRevision(ctx, dir, revision)
	if err != nil {
		return err
	}
	server, err := vaulttest.Start(ctx, vaulttest.Options{Vault: vault, Plugin: plugin, RawStorage: true, LogLevel: "info"})
	if err != nil {
		return err
	}
	defer server.Close()
	acted, err := act(ctx, server)
	if err != nil {
		return err
	}
	made, err := capture(acted)
	if err != nil {
		return err
	}
	made.Build.Commit = commit
	if out == "" {
		name := fmt.Sprintf("%s-%s-%.7s.json", made.Build.Version, made.Made.Format("20060102"), commit)
		out = filepath.Join(suite.Repository(), "testdata", "state", name)
	}
	return write(out, made)
}

// write never replaces a file: what an earlier build stored does not change.
func write(path string, made *fixture) error {
	raw, err := json.MarshalIndent(made, "", " ")
	if err != nil {
		return err
	}
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o644)
	if errors.Is(err, fs.ErrExist) {
		return fmt.Errorf("%s exists; name another file with -o, as fixtures never change", path)
	}
	if err != nil {
		return err
	}
	defer f.Close()
	if _, err := f.Write(append(raw, '\n')); err != nil {
		return err
	}
	fmt.Printf("%s: %d entries, %d tokens, %d KiB\n", path, len(made.Storage), len(made.Tokens), len(raw)>>10)
	return f.Close()
}
