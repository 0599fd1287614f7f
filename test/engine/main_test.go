// Package engine tests the secrets engine as it is used: the plugin in a process
// of its own under real Vault servers, over HTTP.
package engine

import (
	"context"
	"testing"
	"time"

	"github.com/vault-tokens/vault-plugin-secrets-tokens/test/suite"
	"github.com/vault-tokens/vault-plugin-secrets-tokens/test/vaulttest"
)

func TestMain(m *testing.M) { vaulttest.Main(m) }

type (
	fields = vaulttest.Fields
	issued = vaulttest.Issued
)

// session is a server in one test, with what only the tests of this package do
// with it.
type session struct{ *vaulttest.Session }

func in(t *testing.T, server *vaulttest.Deployment, ctx context.Context) *session {
	return &session{server.In(t, ctx)}
}

// common is the server that tests share, in a test that may take as long as
// limit from when there is one.
func common(t *testing.T, limit time.Duration) *session {
	t.Helper()
	server := vaulttest.Common(t)
	return in(t, server, suite.Deadline(t, limit))
}

// own is a server that is started for one test.
func own(t *testing.T, limit time.Duration, opts vaulttest.Options) *session {
	t.Helper()
	server := vaulttest.Own(t, opts)
	return in(t, server, suite.Deadline(t, limit))
}

// at is the same session on another mount.
func (s *session) at(mount string) *session { return &session{s.At(mount)} }

// sub is the same session in a subtest.
func (s *session) sub(t *testing.T) *session { return &session{s.Sub(t)} }
