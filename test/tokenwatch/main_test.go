// Package tokenwatch tests tokenwatch with the audit logs of real Vault servers,
// a real Prometheus and Alertmanager, and a browser.
package tokenwatch

import (
	"testing"
	"time"

	"github.com/vault-tokens/vault-plugin-secrets-tokens/test/suite"
	"github.com/vault-tokens/vault-plugin-secrets-tokens/test/vaulttest"
)

func TestMain(m *testing.M) { vaulttest.Main(m) }

type fields = vaulttest.Fields

// session is a server in one test, with what only the tests of this package do
// with it.
type session struct{ *vaulttest.Session }

// own is a server that is started for one test, which may take as long as limit
// from when there are the server and tokenwatch.
func own(t *testing.T, limit time.Duration, opts vaulttest.Options) *session {
	t.Helper()
	vaulttest.Tokenwatch(t)
	server := vaulttest.Own(t, opts)
	return &session{server.In(t, suite.Deadline(t, limit))}
}

// at is the same session on another mount.
func (s *session) at(mount string) *session { return &session{s.At(mount)} }

// sub is the same session in a subtest.
func (s *session) sub(t *testing.T) *session { return &session{s.Sub(t)} }
