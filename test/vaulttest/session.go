package vaulttest

import (
	"bytes"
	"context"
	"regexp"
	"testing"
)

// Session is a deployment in one test: every failure ends the test. It is not
// for use in other goroutines.
type Session struct {
	*Deployment
	T     *testing.T
	Ctx   context.Context
	Mount string
}

// In is a session on the mount that Deploy has set up.
func (s *Deployment) In(t *testing.T, ctx context.Context) *Session {
	return &Session{Deployment: s, T: t, Ctx: ctx, Mount: MountPath}
}

// At is the same session on another mount.
func (s *Session) At(mount string) *Session {
	other := *s
	other.Mount = mount
	return &other
}

// Sub is the same session in a subtest.
func (s *Session) Sub(t *testing.T) *Session {
	other := *s
	other.T = t
	return &other
}

// Role writes a role as root.
func (s *Session) Role(name string, body Fields) *Response {
	s.T.Helper()
	return s.Must("POST", s.Mount+"/roles/"+name, body)
}

// Must makes a request as root that has to succeed.
func (s *Session) Must(method, path string, body any) *Response {
	s.T.Helper()
	resp, err := s.Root().Must(s.Ctx, method, path, body)
	if err != nil {
		s.T.Fatal(err)
	}
	return resp
}

// Answers makes a request as root and compares its status.
func (s *Session) Answers(want int, method, path string, body any) *Response {
	s.T.Helper()
	resp, err := s.Root().Do(s.Ctx, method, path, body)
	if err != nil {
		s.T.Fatal(err)
	}
	if resp.Status != want {
		s.T.Fatalf("%s %s: %d, want %d: %s", method, path, resp.Status, want, bytes.TrimSpace(resp.Raw))
	}
	return resp
}

// Issue issues as the application.
func (s *Session) Issue(role string, body Fields) *Issued {
	s.T.Helper()
	token, err := s.IssueAt(s.Ctx, s.Client(s.App), s.Mount, role, body)
	if err != nil {
		s.T.Fatal(err)
	}
	return token
}

// Introspect asks as the API.
func (s *Session) Introspect(token string, checks Fields) map[string]any {
	s.T.Helper()
	data, err := s.IntrospectAt(s.Ctx, s.Mount, token, checks)
	if err != nil {
		s.T.Fatal(err)
	}
	return data
}

// WantActive asks as the API.
func (s *Session) WantActive(token *Issued) {
	s.T.Helper()
	if data := s.Introspect(token.Data.Token, nil); data["active"] != true {
		s.T.Fatalf("%s %s is not active: %v", token.Data.TokenType, token.Data.TokenID, data)
	}
}

// WantInactive also holds the answer to saying nothing else.
func (s *Session) WantInactive(token string) {
	s.T.Helper()
	if data := s.Introspect(token, nil); len(data) != 1 || data["active"] != false {
		s.T.Fatalf("introspection says %v, want exactly active=false", data)
	}
}

// ErrorNames reports whether an answer's first error has the form
// "<field>: <problem>", perhaps inside a message of Vault's own.
func ErrorNames(resp *Response, field string) bool {
	errs := resp.Errors()
	return len(errs) > 0 && regexp.MustCompile(`(^|[^\w.])`+regexp.QuoteMeta(field)+`: .`).MatchString(errs[0])
}

// SetUpAudit is Server.SetUpAudit.
func (s *Session) SetUpAudit() {
	s.T.Helper()
	if err := s.Server.SetUpAudit(s.Ctx); err != nil {
		s.T.Fatal(err)
	}
}
