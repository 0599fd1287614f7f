package engine

import (
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/vault-tokens/vault-plugin-secrets-tokens/test/promtest"
	"github.com/vault-tokens/vault-plugin-secrets-tokens/test/suite"
	"github.com/vault-tokens/vault-plugin-secrets-tokens/test/vaulttest"
)

// TestStatus reads the figures of a mount of its own after a token of each type
// was issued, introspected and revoked, and another one has expired.
func TestStatus(t *testing.T) {
	s := common(t, 2*time.Minute).at("figures")
	if err := s.Enable(s.Ctx, s.Mount, nil); err != nil {
		t.Fatal(err)
	}
	if err := s.SetIssuer(s.Ctx, s.Mount); err != nil {
		t.Fatal(err)
	}
	for _, k := range vaulttest.TokenTypes {
		s.Role(k.Name, k.RoleBody())
		token := s.Issue(k.Name, nil)
		s.WantActive(token)
		s.Must("PUT", "sys/leases/revoke", fields{"lease_id": token.LeaseID, "sync": true})
		s.WantInactive(token.Data.Token)
		s.Issue(k.Name, fields{"ttl": "1s"})
	}
	s.WantInactive("made up")
	s.Answers(http.StatusBadRequest, "POST", s.Mount+"/introspect", fields{})

	type figures struct {
		Issued, Revoked, Expired, Introspections map[string]int
		Refused                                  map[string]int `json:"requests_refused"`
		Failed                                   map[string]int `json:"requests_failed"`
		SigningKeys                              int            `json:"signing_keys"`
		StartedAt                                time.Time      `json:"started_at"`
	}
	var got figures
	err := suite.Poll(s.Ctx, time.Minute, func() (bool, error) {
		var answer struct{ Data figures }
		suite.Decode(t, s.Must("GET", s.Mount+"/status", nil).Raw, &answer)
		got = answer.Data
		return got.Expired["api_key"]*got.Expired["bearer"]*got.Expired["jwt"] > 0, fmt.Errorf("expired: %v", got.Expired)
	})
	if err != nil {
		t.Fatal(err)
	}
	for _, k := range vaulttest.TokenTypes {
		if got.Issued[k.Name] != 2 || got.Revoked[k.Name] != 1 || got.Expired[k.Name] != 1 {
			t.Errorf("%s: %+v", k.Name, got)
		}
	}
	if n := got.Introspections; n["active"] != 3 || n["unknown_or_revoked"] != 2 || n["revoked"] != 1 || n["malformed"] != 1 {
		t.Errorf("introspections are %v", n)
	}
	if got.Refused["introspect"] != 1 || got.SigningKeys != 1 || got.StartedAt.IsZero() || got.StartedAt.After(time.Now()) {
		t.Errorf("figures are %+v", got)
	}
	for endpoint, n := range got.Failed {
		if n != 0 {
			t.Errorf("%d requests to %s have failed", n, endpoint)
		}
	}
}

// TestStatusNeedsAToken holds the figures to be for those who have a policy, while
// the status lists below them are for everybody.
func TestStatusNeedsAToken(t *testing.T) {
	s := common(t, time.Minute)
	for _, path := range []string{"tokens/status", "tokens/status?format=prometheus"} {
		for who, client := range map[string]*vaulttest.Client{"nobody": s.Anonymous(), "an application": s.Client(s.App)} {
			resp, err := client.Do(s.Ctx, "GET", path, nil)
			if err != nil || resp.Status != http.StatusForbidden {
				t.Errorf("%s of %s: %d %s, %v; want a 403", path, who, resp.Status, resp.Raw, err)
			}
		}
	}
	for path, want := range map[string]int{"tokens/status/": http.StatusNotFound, "tokens/status/x": http.StatusNotFound} {
		resp, err := s.Anonymous().Do(s.Ctx, "GET", path, nil)
		if err != nil || resp.Status != want {
			t.Errorf("%s: %d %s, %v; want a %d", path, resp.Status, resp.Raw, err, want)
		}
	}
	s.Answers(http.StatusBadRequest, "GET", "tokens/status?format=xml", nil)
}

// TestStatusForPrometheus has a real Prometheus scrape the engine as
// deploy/prometheus has it: over TLS, with a Vault token that may do nothing else.
func TestStatusForPrometheus(t *testing.T) {
	s := own(t, 3*time.Minute, vaulttest.Options{TLS: true, Audit: true})
	resp := s.Must("GET", "tokens/status?format=prometheus", nil)
	if got := resp.Header.Get("Content-Type"); got != "text/plain; version=0.0.4" {
		t.Errorf("Content-Type is %q", got)
	}
	if got := resp.Header.Get("Cache-Control"); got != "no-store" {
		t.Errorf("Cache-Control is %q", got)
	}
	if said := promtest.Promtool(t, string(resp.Raw), "check", "metrics"); said != "" {
		t.Errorf("promtool says %s", said)
	}

	policy := suite.Read(t, "examples/policies/monitoring.hcl")
	token, err := s.NewToken(s.Ctx, "prometheus", policy, "service", "1h")
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	deployed := suite.Read(t, "deploy/prometheus/prometheus.yml")
	job := deployed[strings.Index(deployed, "  - job_name: vault-tokens\n"):]
	config := strings.NewReplacer(
		"/etc/prometheus/vault-token", suite.Write(t, dir, "vault-token", token),
		"/etc/prometheus/vault-ca.pem", s.CAFile,
		"127.0.0.1:8200", strings.TrimPrefix(s.Addr, "https://"),
	).Replace("global:\n  scrape_interval: 1s\nscrape_configs:\n" + job)
	p := promtest.StartPrometheus(t, s.Ctx, dir, config)
	s.Role("scraped", vaulttest.Bearer.RoleBody())
	s.Issue("scraped", nil)
	p.Await(`vault_tokens_issued_total{job="vault-tokens", mount="tokens/", token_type="bearer"}`, func(values []float64) bool {
		return len(values) == 1 && values[0] >= 1
	})
}
