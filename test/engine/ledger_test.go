package engine

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"sync"
	"testing"
	"time"

	"github.com/vault-tokens/vault-plugin-secrets-tokens/test/suite"
	"github.com/vault-tokens/vault-plugin-secrets-tokens/test/vaulttest"
)

// ledger knows of every issued token what Vault acknowledged, and so what
// introspection must say of it after any crash.
type ledger struct {
	mu     sync.Mutex
	tokens []*entry
}

type entry struct {
	*issued
	revoked bool
	// unsure is set where a revocation was asked for and not acknowledged: the
	// token may or may not be active.
	unsure  bool
	expires time.Time // at least; moved by renewals
}

// ledgerRole is the role of a kind that a ledger's tokens have.
func ledgerRole(k vaulttest.TokenType) string { return "ledger-" + k.Name }

// kindOf is the kind of a token.
func kindOf(token *issued) vaulttest.TokenType {
	for _, k := range vaulttest.TokenTypes {
		if k.Name == token.Data.TokenType {
			return k
		}
	}
	panic("unknown token_type " + token.Data.TokenType)
}

func (s *session) writeLedgerRoles() {
	s.T.Helper()
	for _, k := range vaulttest.TokenTypes {
		s.Role(ledgerRole(k), k.RoleBody())
	}
}

// issue issues a token and enters it.
func (l *ledger) issue(ctx context.Context, s *vaulttest.Deployment, k vaulttest.TokenType) (*entry, error) {
	token, err := s.IssueAt(ctx, s.Client(s.App), vaulttest.MountPath, ledgerRole(k), nil)
	if err != nil {
		return nil, err
	}
	expires, err := time.Parse(time.RFC3339, token.Data.ExpiresAt)
	if err != nil {
		return nil, err
	}
	e := &entry{issued: token, expires: expires}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.tokens = append(l.tokens, e)
	return e, nil
}

// revoke ends a token by the n-th way that its kind has.
func (l *ledger) revoke(ctx context.Context, s *vaulttest.Deployment, e *entry, n int) error {
	ways := len(vaulttest.Revokers)
	if !kindOf(e.issued).Opaque {
		ways-- // by id is for opaque tokens
	}
	err := vaulttest.Revokers[n%ways].Revoke(ctx, s, e.issued)
	l.mu.Lock()
	defer l.mu.Unlock()
	if err != nil {
		e.unsure = !e.revoked
		return fmt.Errorf("%s: %w", vaulttest.Revokers[n%ways].Name, err)
	}
	e.revoked, e.unsure = true, false
	return nil
}

// renew extends a token to about its role's maximum.
func (l *ledger) renew(ctx context.Context, s *vaulttest.Deployment, e *entry) error {
	before := time.Now()
	if err := s.Expect(ctx, s.App, "PUT", "sys/leases/renew", fields{"lease_id": e.LeaseID, "increment": "50m"}, http.StatusOK); err != nil {
		return err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	e.expires = before.Add(50 * time.Minute).Truncate(time.Second)
	return nil
}

// check asks about every token and compares the answers with the ledger.
func (l *ledger) check(ctx context.Context, s *vaulttest.Deployment) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	var problems []error
	for _, e := range l.tokens {
		data, err := s.IntrospectAt(ctx, vaulttest.MountPath, e.Data.Token, nil)
		if err != nil {
			return err
		}
		exp, _ := data["exp"].(float64)
		switch active := data["active"] == true; {
		case e.unsure:
		case active && e.revoked:
			problems = append(problems, fmt.Errorf("%s %s was revoked and is active", e.Data.TokenType, e.Data.TokenID))
		case !active && !e.revoked:
			problems = append(problems, fmt.Errorf("%s %s was not revoked and is inactive", e.Data.TokenType, e.Data.TokenID))
		case active && time.Unix(int64(exp), 0).Before(e.expires):
			problems = append(problems, fmt.Errorf("%s %s expires at %v, want at %d or later", e.Data.TokenType, e.Data.TokenID, exp, e.expires.Unix()))
		}
	}
	return errors.Join(problems...)
}

// counts is how many tokens are live, revoked and unsure.
func (l *ledger) counts() (live, revoked, unsure int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, e := range l.tokens {
		switch {
		case e.unsure:
			unsure++
		case e.revoked:
			revoked++
		default:
			live++
		}
	}
	return live, revoked, unsure
}

// live returns up to n tokens of a kind that were not revoked.
func (l *ledger) live(k vaulttest.TokenType, n int) []*entry {
	l.mu.Lock()
	defer l.mu.Unlock()
	var out []*entry
	for _, e := range l.tokens {
		if len(out) < n && e.Data.TokenType == k.Name && !e.revoked && !e.unsure {
			out = append(out, e)
		}
	}
	return out
}

// use issues perKind tokens of every kind, renews one and revokes some, by
// every way in turn.
func (l *ledger) use(t *testing.T, ctx context.Context, s *vaulttest.Deployment, perKind int) {
	t.Helper()
	for _, k := range vaulttest.TokenTypes {
		for range perKind {
			if _, err := l.issue(ctx, s, k); err != nil {
				t.Fatal(err)
			}
		}
		for n, e := range l.live(k, perKind/2) {
			if err := l.revoke(ctx, s, e, n); err != nil {
				t.Fatal(err)
			}
		}
		if !k.Renewable {
			continue
		}
		for _, e := range l.live(k, 1) {
			if err := l.renew(ctx, s, e); err != nil {
				t.Fatal(err)
			}
		}
	}
}

// mustHold checks the ledger now.
func (l *ledger) mustHold(t *testing.T, ctx context.Context, s *vaulttest.Deployment, when string) {
	t.Helper()
	if err := l.check(ctx, s); err != nil {
		t.Fatalf("%s: %v", when, err)
	}
	live, revoked, unsure := l.counts()
	t.Logf("%s: %d tokens work, %d stay revoked, %d revocations were not acknowledged", when, live, revoked, unsure)
}

// mustHoldSoon is mustHold once the plugin answers again: a request that meets
// a dying plugin fails, which is no wrong answer.
func (l *ledger) mustHoldSoon(t *testing.T, ctx context.Context, s *vaulttest.Deployment, when string) {
	t.Helper()
	err := suite.Poll(ctx, 30*time.Second, func() (bool, error) {
		_, err := s.IntrospectAt(ctx, vaulttest.MountPath, "x", nil)
		return err == nil, err
	})
	if err != nil {
		t.Fatalf("%s: the plugin does not come back: %v", when, err)
	}
	l.mustHold(t, ctx, s, when)
}
