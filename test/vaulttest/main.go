package vaulttest

import (
	"path/filepath"
	"sync"
	"testing"

	"github.com/vault-tokens/vault-plugin-secrets-tokens/test/suite"
)

// shared is what all tests of a package share. The binaries and the common
// server are made when the first test asks for them.
var shared struct {
	once   sync.Once
	vault  string
	plugin *Plugin
	err    error

	tokenwatchOnce sync.Once
	tokenwatch     string
	tokenwatchErr  error

	commonOnce sync.Once
	common     *Deployment
	commonErr  error
}

// Main runs a package's tests for its TestMain, and then holds the common
// server to what must hold for all.
func Main(m *testing.M) {
	suite.Main(m, func() error {
		if shared.common == nil {
			return nil
		}
		defer shared.common.Close()
		return shared.common.Verify()
	})
}

// Binaries finds Vault and builds the plugin with the race detector, once.
func Binaries(t *testing.T) (vault string, plugin *Plugin) {
	t.Helper()
	shared.once.Do(func() {
		if shared.vault, shared.err = VaultBinary(suite.Context()); shared.err == nil {
			shared.plugin, shared.err = BuildPlugin(suite.Context(), suite.Dir(), true)
		}
	})
	if shared.err != nil {
		t.Fatal(shared.err)
	}
	return shared.vault, shared.plugin
}

// Tokenwatch builds the monitor with the race detector, once.
func Tokenwatch(t *testing.T) (path string) {
	t.Helper()
	shared.tokenwatchOnce.Do(func() {
		shared.tokenwatch = filepath.Join(suite.Dir(), "tokenwatch")
		shared.tokenwatchErr = Build(suite.Context(), "tokenwatch", shared.tokenwatch, true)
	})
	if shared.tokenwatchErr != nil {
		t.Fatal(shared.tokenwatchErr)
	}
	return shared.tokenwatch
}

// Common returns the server in memory that tests share which neither restart
// it nor change what is set for the whole mount.
func Common(t *testing.T) *Deployment {
	t.Helper()
	vault, plugin := Binaries(t)
	shared.commonOnce.Do(func() {
		shared.common, shared.commonErr = Deploy(suite.Context(), Options{Vault: vault, Plugin: plugin, Audit: true})
	})
	if shared.commonErr != nil {
		t.Fatal(shared.commonErr)
	}
	showLogOnFailure(t, shared.common)
	return shared.common
}

// Own starts a server for one test, and holds it to the same final checks.
func Own(t *testing.T, opts Options) *Deployment {
	t.Helper()
	opts.Vault, opts.Plugin = Binaries(t)
	s, err := Deploy(suite.Context(), opts)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Verify(); err != nil {
			t.Error(err)
		}
		s.Close()
	})
	showLogOnFailure(t, s)
	return s
}

func showLogOnFailure(t *testing.T, s *Deployment) {
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("the end of the server's log:\n%s", s.LogTail(15))
		}
	})
}
