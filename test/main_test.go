// Package test drives the real plugin binary in real Vault processes over
// HTTP.
package test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/vault-tokens/vault-plugin-secrets-tokens/test/vaulttest"
)

// suite is what all tests share. The binaries and the common server are made
// when the first test asks for them.
var suite struct {
	ctx    context.Context
	dir    string // of the plugin binary
	once   sync.Once
	vault  string
	plugin *vaulttest.Plugin
	err    error

	commonOnce sync.Once
	common     *server
	commonErr  error
}

func TestMain(m *testing.M) { os.Exit(run(m)) }

// run returns the exit code, so that what it defers happens before the exit.
func run(m *testing.M) int {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	suite.ctx = ctx
	dir, err := os.MkdirTemp("", "vaulttest-plugin-")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer os.RemoveAll(dir)
	suite.dir = dir

	code := m.Run()
	if suite.common == nil {
		return code
	}
	defer suite.common.Close()
	if err := suite.common.verify(); err != nil {
		fmt.Fprintf(os.Stderr, "FAIL: the common server, after all tests: %v\n", err)
		return 1
	}
	return code
}

// binaries finds Vault and builds the plugin with the race detector, once.
func binaries(t *testing.T) (string, *vaulttest.Plugin) {
	t.Helper()
	suite.once.Do(func() {
		if suite.vault, suite.err = vaulttest.VaultBinary(suite.ctx); suite.err == nil {
			suite.plugin, suite.err = vaulttest.BuildPlugin(suite.ctx, suite.dir, true)
		}
	})
	if suite.err != nil {
		t.Fatal(suite.err)
	}
	return suite.vault, suite.plugin
}

// common returns the server in memory that tests share which neither restart
// it nor change what is set for the whole mount.
func common(t *testing.T) *server {
	t.Helper()
	vault, plugin := binaries(t)
	suite.commonOnce.Do(func() {
		suite.common, suite.commonErr = newServer(vaulttest.Options{Vault: vault, Plugin: plugin, Audit: true})
	})
	if suite.commonErr != nil {
		t.Fatal(suite.commonErr)
	}
	showLogOnFailure(t, suite.common)
	return suite.common
}

// own starts a server for one test, and holds it to the same final checks.
func own(t *testing.T, opts vaulttest.Options) *server {
	t.Helper()
	opts.Vault, opts.Plugin = binaries(t)
	s, err := newServer(opts)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.verify(); err != nil {
			t.Error(err)
		}
		s.Close()
	})
	showLogOnFailure(t, s)
	return s
}

func showLogOnFailure(t *testing.T, s *server) {
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("the end of the server's log:\n%s", s.LogTail(15))
		}
	})
}

// deadline bounds one test, so that a hang is told apart from a slow machine.
func deadline(t *testing.T, limit time.Duration) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeoutCause(suite.ctx, limit, errors.New("the test took longer than "+limit.String()))
	t.Cleanup(cancel)
	return ctx
}
