package test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"os"
	"regexp"
	"slices"
	"testing"

	"github.com/vault-tokens/vault-plugin-secrets-tokens/test/vaulttest"
)

// server is a Vault with the engine at tokens/, an application that may issue
// and an API that may introspect, neither of them root.
type server struct {
	*vaulttest.Server
	secrets *vaulttest.Secrets // every token that was issued
	app     string             // Vault token with an entity
	entity  string             // its id
	api     string             // Vault token that may introspect
}

const (
	apiPolicy = `path "+/introspect" { capabilities = ["update"] }`
	appPolicy = `
path "+/creds/*" { capabilities = ["read", "update"] }
path "+/revoke" { capabilities = ["update"] }
path "sys/leases/renew" { capabilities = ["update"] }
path "sys/leases/revoke" { capabilities = ["update"] }
`
)

func newServer(opts vaulttest.Options) (*server, error) {
	vault, err := vaulttest.Start(suite.ctx, opts)
	if err != nil {
		return nil, err
	}
	s := &server{Server: vault, secrets: &vaulttest.Secrets{}}
	if err := s.setUp(); err != nil {
		vault.Close()
		return nil, err
	}
	return s, nil
}

func (s *server) setUp() error {
	var err error
	if s.app, s.entity, err = s.NewUser(suite.ctx, "app", appPolicy); err != nil {
		return err
	}
	if s.api, err = s.NewToken(suite.ctx, "api", apiPolicy, "service", "8h"); err != nil {
		return err
	}
	return s.setIssuer(vaulttest.MountPath)
}

func (s *server) setIssuer(mount string) error {
	_, err := s.Root().Must(suite.ctx, "POST", mount+"/config", fields{"issuer": s.issuer(mount)})
	return err
}

func (s *server) issuer(mount string) string { return s.Addr + "/v1/" + mount }

// verify is what must hold for every server whatever ran on it.
func (s *server) verify() error { return errors.Join(s.verifyFiles(), s.verifyLeases()) }

// verifyFiles looks for data races and panics in the server's log, and for
// issued secrets in that and in the audit log.
func (s *server) verifyFiles() error {
	var problems []error
	log, err := os.ReadFile(s.LogFile)
	if err != nil {
		return err
	}
	for _, bad := range []string{"DATA RACE", "panicked", "panic:", "fatal error:"} {
		if at := bytes.Index(log, []byte(bad)); at >= 0 {
			problems = append(problems, fmt.Errorf("%q in the server's log:\n%s", bad, log[at:min(len(log), at+3000)]))
		}
	}
	for _, file := range []string{s.LogFile, s.AuditFile} {
		found, err := s.secrets.Find(file)
		if err != nil {
			return err
		}
		if len(found) > 0 {
			problems = append(problems, fmt.Errorf("%d secrets in %s, such as at %s", len(found), file, found[0]))
		}
	}
	return errors.Join(problems...)
}

// verifyLeases makes sure that Vault gave up on revoking none.
func (s *server) verifyLeases() error {
	irrevocable, err := s.Root().Must(context.Background(), "GET", "sys/leases/count?type=irrevocable", nil)
	if err != nil {
		return err
	}
	if n := irrevocable.Data()["lease_count"]; n != float64(0) {
		return fmt.Errorf("%v irrevocable leases, want 0", n)
	}
	return nil
}

// fields is a request's body.
type fields map[string]any

func (f fields) with(more fields) fields {
	out := maps.Clone(f)
	maps.Copy(out, more)
	return out
}

// issued is the answer of creds/<role>.
type issued struct {
	LeaseID       string `json:"lease_id"`
	LeaseDuration int    `json:"lease_duration"`
	Renewable     bool   `json:"renewable"`
	Data          struct {
		Token     string            `json:"token"`
		TokenID   string            `json:"token_id"`
		TokenType string            `json:"token_type"`
		Role      string            `json:"role"`
		Scopes    []string          `json:"scopes"`
		Scope     string            `json:"scope"`
		IssuedAt  string            `json:"issued_at"`
		ExpiresAt string            `json:"expires_at"`
		ExpiresIn int               `json:"expires_in"`
		Audience  []string          `json:"audience"`
		Metadata  map[string]string `json:"metadata"`
	} `json:"data"`
	Warnings []string `json:"warnings"`

	keys map[string]any // of data
}

// issueAt issues a token of a role on a mount: by read if body is nil, else by
// write.
func (s *server) issueAt(ctx context.Context, c *vaulttest.Client, mount, role string, body fields) (*issued, error) {
	method, content := "GET", any(nil)
	if body != nil {
		method, content = "POST", body
	}
	resp, err := c.Must(ctx, method, mount+"/creds/"+role, content)
	if err != nil {
		return nil, err
	}
	out := &issued{keys: resp.Data()}
	if err := json.Unmarshal(resp.Raw, out); err != nil {
		return nil, fmt.Errorf("creds/%s: %w: %s", role, err, resp.Raw)
	}
	if out.Data.Token == "" {
		return nil, fmt.Errorf("creds/%s: no token in the answer", role)
	}
	s.secrets.Add(out.Data.Token, out.Data.TokenType+" "+out.Data.TokenID+" of "+mount+"/creds/"+role)
	return out, nil
}

// introspectAt asks about a token; the answer is introspect's data.
func (s *server) introspectAt(ctx context.Context, mount, token string, checks fields) (map[string]any, error) {
	resp, err := s.Client(s.api).Must(ctx, "POST", mount+"/introspect", fields{"token": token}.with(checks))
	if err != nil {
		return nil, err
	}
	if _, ok := resp.Data()["active"].(bool); !ok {
		return nil, fmt.Errorf("introspect: active is not a bool: %s", resp.Raw)
	}
	return resp.Data(), nil
}

func (s *server) activeAt(ctx context.Context, mount, token string) (bool, error) {
	data, err := s.introspectAt(ctx, mount, token, nil)
	return err == nil && data["active"] == true, err
}

// revokers are the ways to end one token, by what the caller has.
var revokers = []struct {
	name   string
	opaque bool // for opaque tokens only
	revoke func(ctx context.Context, s *server, token *issued) error
}{
	{"by lease", false, func(ctx context.Context, s *server, token *issued) error {
		return s.status(ctx, s.app, "PUT", "sys/leases/revoke", fields{"lease_id": token.LeaseID, "sync": true}, http.StatusNoContent)
	}},
	{"by possession", false, func(ctx context.Context, s *server, token *issued) error {
		return s.status(ctx, s.app, "POST", "tokens/revoke", fields{"token": token.Data.Token}, http.StatusNoContent)
	}},
	{"by id", true, func(ctx context.Context, s *server, token *issued) error {
		return s.status(ctx, s.RootToken, "DELETE", "tokens/tokens/"+token.Data.TokenID, nil, http.StatusNoContent, http.StatusOK)
	}},
}

// status makes a request and holds the status of the answer against those wanted.
func (s *server) status(ctx context.Context, vaultToken, method, path string, body any, want ...int) error {
	resp, err := s.Client(vaultToken).Do(ctx, method, path, body)
	if err != nil {
		return err
	}
	if !slices.Contains(want, resp.Status) {
		return fmt.Errorf("%s %s: %d, want %d: %s", method, path, resp.Status, want, bytes.TrimSpace(resp.Raw))
	}
	return nil
}

// session is a server in one test: every failure ends the test. It is not for
// use in other goroutines.
type session struct {
	*server
	t     *testing.T
	ctx   context.Context
	mount string
}

func (s *server) in(t *testing.T, ctx context.Context) *session {
	return &session{server: s, t: t, ctx: ctx, mount: vaulttest.MountPath}
}

// at is the same session on another mount.
func (s *session) at(mount string) *session {
	other := *s
	other.mount = mount
	return &other
}

// sub is the same session in a subtest.
func (s *session) sub(t *testing.T) *session {
	other := *s
	other.t = t
	return &other
}

// role writes a role as root.
func (s *session) role(name string, body fields) *vaulttest.Response {
	s.t.Helper()
	return s.must("POST", s.mount+"/roles/"+name, body)
}

// must makes a request as root that has to succeed.
func (s *session) must(method, path string, body any) *vaulttest.Response {
	s.t.Helper()
	resp, err := s.Root().Must(s.ctx, method, path, body)
	if err != nil {
		s.t.Fatal(err)
	}
	return resp
}

// answers makes a request as root and compares its status.
func (s *session) answers(want int, method, path string, body any) *vaulttest.Response {
	s.t.Helper()
	resp, err := s.Root().Do(s.ctx, method, path, body)
	if err != nil {
		s.t.Fatal(err)
	}
	if resp.Status != want {
		s.t.Fatalf("%s %s: %d, want %d: %s", method, path, resp.Status, want, bytes.TrimSpace(resp.Raw))
	}
	return resp
}

// issue issues as the application.
func (s *session) issue(role string, body fields) *issued {
	s.t.Helper()
	token, err := s.issueAt(s.ctx, s.Client(s.app), s.mount, role, body)
	if err != nil {
		s.t.Fatal(err)
	}
	return token
}

// introspect asks as the API.
func (s *session) introspect(token string, checks fields) map[string]any {
	s.t.Helper()
	data, err := s.introspectAt(s.ctx, s.mount, token, checks)
	if err != nil {
		s.t.Fatal(err)
	}
	return data
}

func (s *session) wantActive(token *issued) {
	s.t.Helper()
	if data := s.introspect(token.Data.Token, nil); data["active"] != true {
		s.t.Fatalf("%s %s is not active: %v", token.Data.TokenType, token.Data.TokenID, data)
	}
}

// wantInactive also holds the answer to saying nothing else.
func (s *session) wantInactive(token string) {
	s.t.Helper()
	if data := s.introspect(token, nil); len(data) != 1 || data["active"] != false {
		s.t.Fatalf("introspection says %v, want exactly active=false", data)
	}
}

// errorNames reports whether an answer's first error has the form
// "<field>: <problem>", perhaps inside a message of Vault's own.
func errorNames(resp *vaulttest.Response, field string) bool {
	errs := resp.Errors()
	return len(errs) > 0 && regexp.MustCompile(`(^|[^\w.])`+regexp.QuoteMeta(field)+`: .`).MatchString(errs[0])
}
