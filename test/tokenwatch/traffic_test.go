package tokenwatch

import (
	"fmt"
	"net/http"
	"net/url"

	"github.com/vault-tokens/vault-plugin-secrets-tokens/test/vaulttest"
)

// The paths of requests are in clear in the audit log, and anybody with a Vault
// token chooses them.
const (
	hostileRole    = `<img src=x onerror="alert(1)">`
	hostileAddress = `"><svg onload=alert(2)>{{.}}`
)

// traffic is what a test has done, for the report to be held against.
type traffic struct{ issued, active, inactive, checkFailed, denied, invalid, revoked int }

// useAndAttack makes normal use of the engine, then attacks it.
func (s *session) useAndAttack() traffic {
	s.T.Helper()
	s.Role("orders", fields{"token_type": "api_key", "ttl": "1h", "allowed_scopes": "a", "default_scopes": "a"})
	s.Role("bound", fields{"token_type": "bearer", "ttl": "1h", "allowed_scopes": "a", "default_scopes": "a", "bound_cidrs": "192.0.2.0/24"})
	var did traffic
	for range 5 {
		token := s.Issue("orders", nil)
		s.WantActive(token)
		did.issued, did.active = did.issued+1, did.active+1
	}
	bound := s.Issue("bound", nil)
	s.Introspect(bound.Data.Token, fields{"client_ip": "203.0.113.7"})
	did.issued, did.checkFailed = did.issued+1, did.checkFailed+1
	if err := vaulttest.ByPossession.Revoke(s.Ctx, s.Deployment, bound); err != nil {
		s.T.Fatal(err)
	}
	did.revoked++
	for _, role := range []string{hostileRole, hostileAddress} {
		if err := s.Expect(s.Ctx, s.App, "GET", "tokens/creds/"+url.PathEscape(role), nil, http.StatusBadRequest, http.StatusNotFound); err != nil {
			s.T.Fatal(err)
		}
		did.invalid++
	}
	did.denied += s.tryWhatIsDenied()
	did.inactive += s.guess()
	return did
}

// tryWhatIsDenied has the API server ask for tokens.
func (s *session) tryWhatIsDenied() int {
	s.T.Helper()
	const often = 12
	for range often {
		if err := s.Expect(s.Ctx, s.API, "GET", "tokens/creds/orders", nil, http.StatusForbidden); err != nil {
			s.T.Fatal(err)
		}
	}
	return often
}

func (s *session) guess() int {
	s.T.Helper()
	const often = 30
	for i := range often {
		s.WantInactive(fmt.Sprintf("vtk_guess%d", i))
	}
	return often
}
