package vaulttest

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"os"
	"slices"
)

// Deployment is a Vault with the engine at tokens/, an application that may
// issue and an API that may introspect, neither of them root.
type Deployment struct {
	*Server
	Secrets *Secrets // every token that was issued
	App     string   // Vault token with an entity
	Entity  string   // its id
	API     string   // Vault token that may introspect
}

// AppPolicy lets an application issue, renew and revoke on any mount.
const AppPolicy = `
path "+/creds/*" { capabilities = ["read", "update"] }
path "+/revoke" { capabilities = ["update"] }
path "+/oauth2/revoke" { capabilities = ["update"] }
path "sys/leases/renew" { capabilities = ["update"] }
path "sys/leases/revoke" { capabilities = ["update"] }
`

const apiPolicy = `
path "+/introspect" { capabilities = ["update"] }
path "+/oauth2/introspect" { capabilities = ["update"] }
`

// Deploy starts a server and sets the engine up. Close it whatever happens next.
func Deploy(ctx context.Context, opts Options) (*Deployment, error) {
	vault, err := Start(ctx, opts)
	if err != nil {
		return nil, err
	}
	s := &Deployment{Server: vault, Secrets: &Secrets{}}
	if err := s.SetUp(ctx); err != nil {
		vault.Close()
		return nil, err
	}
	return s, nil
}

// SetUp makes the two parties and sets the issuer.
func (s *Deployment) SetUp(ctx context.Context) error {
	var err error
	if s.App, s.Entity, err = s.NewUser(ctx, "app", AppPolicy); err != nil {
		return err
	}
	if s.API, err = s.NewToken(ctx, "api", apiPolicy, "service", "8h"); err != nil {
		return err
	}
	return s.SetIssuer(ctx, MountPath)
}

// SetIssuer makes a mount's own address its issuer.
func (s *Deployment) SetIssuer(ctx context.Context, mount string) error {
	_, err := s.Root().Must(ctx, "POST", mount+"/config", Fields{"issuer": s.Issuer(mount)})
	return err
}

// Issuer is what SetIssuer sets.
func (s *Deployment) Issuer(mount string) string { return s.Addr + "/v1/" + mount }

// Verify checks what must hold for every server whatever ran on it.
func (s *Deployment) Verify() error { return errors.Join(s.VerifyFiles(), s.VerifyLeases()) }

// VerifyFiles looks for data races and panics in the server's log, and for
// issued secrets in that and in the audit log.
func (s *Deployment) VerifyFiles() error {
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
		found, err := s.Secrets.Find(file)
		if err != nil {
			return err
		}
		if len(found) > 0 {
			problems = append(problems, fmt.Errorf("%d secrets in %s, such as at %s", len(found), file, found[0]))
		}
	}
	return errors.Join(problems...)
}

// VerifyLeases makes sure that Vault gave up on revoking none.
func (s *Deployment) VerifyLeases() error {
	irrevocable, err := s.Root().Must(context.Background(), "GET", "sys/leases/count?type=irrevocable", nil)
	if err != nil {
		return err
	}
	if n := irrevocable.Data()["lease_count"]; n != float64(0) {
		return fmt.Errorf("%v irrevocable leases, want 0", n)
	}
	return nil
}

// Fields is a request's body.
type Fields map[string]any

// With is a copy with more fields, or other values.
func (f Fields) With(more Fields) Fields {
	out := maps.Clone(f)
	maps.Copy(out, more)
	return out
}

// Issued is the answer of creds/<role>.
type Issued struct {
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

	Keys map[string]any `json:"-"` // of data
}

// IssueAt issues a token of a role on a mount: by read if body is nil, else by
// write.
func (s *Deployment) IssueAt(ctx context.Context, c *Client, mount, role string, body Fields) (*Issued, error) {
	method, content := "GET", any(nil)
	if body != nil {
		method, content = "POST", body
	}
	resp, err := c.Must(ctx, method, mount+"/creds/"+role, content)
	if err != nil {
		return nil, err
	}
	out := &Issued{Keys: resp.Data()}
	if err := json.Unmarshal(resp.Raw, out); err != nil {
		return nil, fmt.Errorf("creds/%s: %w: %s", role, err, resp.Raw)
	}
	if out.Data.Token == "" {
		return nil, fmt.Errorf("creds/%s: no token in the answer", role)
	}
	s.Secrets.Add(out.Data.Token, out.Data.TokenType+" "+out.Data.TokenID+" of "+mount+"/creds/"+role)
	return out, nil
}

// IntrospectAt asks about a token; the answer is introspect's data.
func (s *Deployment) IntrospectAt(ctx context.Context, mount, token string, checks Fields) (map[string]any, error) {
	resp, err := s.Client(s.API).Must(ctx, "POST", mount+"/introspect", Fields{"token": token}.With(checks))
	if err != nil {
		return nil, err
	}
	if _, ok := resp.Data()["active"].(bool); !ok {
		return nil, fmt.Errorf("introspect: active is not a bool: %s", resp.Raw)
	}
	return resp.Data(), nil
}

// ActiveAt reports whether introspection calls a token active.
func (s *Deployment) ActiveAt(ctx context.Context, mount, token string) (bool, error) {
	data, err := s.IntrospectAt(ctx, mount, token, nil)
	return err == nil && data["active"] == true, err
}

// Revoker is a way to end one token, by what the caller has.
type Revoker struct {
	Name   string
	Opaque bool // for opaque tokens only
	Revoke func(ctx context.Context, s *Deployment, token *Issued) error
}

// The revokers.
var (
	ByLease = Revoker{"by lease", false, func(ctx context.Context, s *Deployment, token *Issued) error {
		return s.Expect(ctx, s.App, "PUT", "sys/leases/revoke", Fields{"lease_id": token.LeaseID, "sync": true}, http.StatusNoContent)
	}}
	ByPossession = Revoker{"by possession", false, func(ctx context.Context, s *Deployment, token *Issued) error {
		return s.Expect(ctx, s.App, "POST", "tokens/revoke", Fields{"token": token.Data.Token}, http.StatusNoContent)
	}}
	ByID = Revoker{"by id", true, func(ctx context.Context, s *Deployment, token *Issued) error {
		return s.Expect(ctx, s.RootToken, "DELETE", "tokens/tokens/"+token.Data.TokenID, nil, http.StatusNoContent, http.StatusOK)
	}}
	Revokers = []Revoker{ByLease, ByPossession, ByID}
)

// Expect makes a request and holds the status of the answer against those wanted.
func (s *Deployment) Expect(ctx context.Context, vaultToken, method, path string, body any, want ...int) error {
	resp, err := s.Client(vaultToken).Do(ctx, method, path, body)
	if err != nil {
		return err
	}
	if !slices.Contains(want, resp.Status) {
		return fmt.Errorf("%s %s: %d, want %d: %s", method, path, resp.Status, want, bytes.TrimSpace(resp.Raw))
	}
	return nil
}
