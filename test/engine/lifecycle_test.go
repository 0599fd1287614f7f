package engine

import (
	"fmt"
	"hash/crc32"
	"maps"
	"net/http"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/vault-tokens/vault-plugin-secrets-tokens/test/suite"
	"github.com/vault-tokens/vault-plugin-secrets-tokens/test/vaulttest"
)

// eachKind runs a test for every kind of token with a role of that kind, in a
// session of its own.
func eachKind(t *testing.T, change fields, test func(s *session, k vaulttest.TokenType, role string)) {
	t.Helper()
	for _, k := range vaulttest.TokenTypes {
		t.Run(k.Name, func(t *testing.T) {
			t.Parallel() // a role each, and much waiting for time to pass
			s := common(t, time.Minute)
			role := strings.NewReplacer("/", "-", "Test", "").Replace(t.Name())
			s.Role(role, k.RoleBody().With(change))
			test(s, k, role)
		})
	}
}

var (
	opaqueShape   = regexp.MustCompile(`^[a-z0-9]+(_[a-z0-9]+)*_[0-9A-Za-z]{71}$`)
	tokenIDShape  = regexp.MustCompile(`^[0-9A-Za-z]{22}$`)
	credsKeys     = []string{"audience", "expires_at", "expires_in", "issued_at", "metadata", "role", "scope", "scopes", "token", "token_id", "token_type"}
	activeKeys    = []string{"active", "aud", "client_id", "exp", "iat", "iss", "metadata", "role", "scope", "status", "sub", "token_id", "token_type"}
	jwtClaimsKeys = []string{"aud", "client_id", "exp", "iat", "iss", "jti", "metadata", "nbf", "scope", "status", "sub"}
)

func TestIssueWithDefaults(t *testing.T) {
	eachKind(t, nil, func(s *session, k vaulttest.TokenType, role string) {
		before := time.Now().Truncate(time.Second)
		token := s.Issue(role, nil)
		wantKeys(s.T, "creds", token.Keys, credsKeys...)
		d := token.Data
		want := d
		want.TokenType, want.Role = k.Name, role
		want.Scopes, want.Scope = []string{"orders:read", "stock:read"}, "orders:read stock:read"
		want.ExpiresIn, want.Audience, want.Metadata = 600, vaulttest.Audiences, map[string]string{"team": "payments"}
		if got, want := fmt.Sprintf("%+v", d), fmt.Sprintf("%+v", want); got != want {
			s.T.Errorf("data is\n%s, want\n%s", redact(got, d.Token), redact(want, d.Token))
		}
		issuedAt, expiresAt := parseTime(s.T, d.IssuedAt), parseTime(s.T, d.ExpiresAt)
		if issuedAt.Before(before) || issuedAt.After(time.Now()) || expiresAt.Sub(issuedAt) != 10*time.Minute {
			s.T.Errorf("issued_at %s, expires_at %s, want now and 10m later", d.IssuedAt, d.ExpiresAt)
		}
		if want := "tokens/creds/" + role + "/"; !strings.HasPrefix(token.LeaseID, want) {
			s.T.Errorf("lease_id is %q, want it under %s", token.LeaseID, want)
		}
		if token.LeaseDuration != 600 || token.Renewable != k.Renewable {
			s.T.Errorf("lease of %d s, renewable=%t; want 600 s, %t", token.LeaseDuration, token.Renewable, k.Renewable)
		}
		if !tokenIDShape.MatchString(d.TokenID) || !strings.HasPrefix(d.Token, k.Prefix) {
			s.T.Errorf("token_id %q, token starts with %q", d.TokenID, d.Token[:3])
		}
		if k.Opaque {
			checkOpaque(s.T, token, k.Prefix)
		} else {
			checkJWT(s, token)
		}
		if len(token.Warnings) > 0 {
			s.T.Errorf("warnings: %q", token.Warnings)
		}
	})
}

func checkOpaque(t *testing.T, token *issued, prefix string) {
	t.Helper()
	text := token.Data.Token
	if !opaqueShape.MatchString(text) {
		t.Fatal("the token has not the documented shape")
	}
	if want := prefix + "_" + token.Data.TokenID; !strings.HasPrefix(text, want) {
		t.Errorf("the token does not start with prefix and id, %s", want)
	}
	if body := text[:len(text)-6]; text != body+checksum(body) {
		t.Error("the checksum is not CRC-32 in base62 of what stands before it")
	}
}

// checksum is the documented one, written a second time: CRC-32 (IEEE) as six
// base62 digits.
func checksum(body string) string {
	const digits = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
	sum := crc32.ChecksumIEEE([]byte(body))
	out := make([]byte, 6)
	for i := range out {
		out[len(out)-1-i] = digits[sum%62]
		sum /= 62
	}
	return string(out)
}

func checkJWT(s *session, token *issued) {
	s.T.Helper()
	header, claims := s.verifyOffline(token.Data.Token)
	if header["typ"] != "at+jwt" || header["alg"] != "ES256" || len(header) != 3 {
		s.T.Errorf("header is %v, want typ at+jwt, alg ES256, kid and no more", header)
	}
	wantKeys(s.T, "claims", claims, jwtClaimsKeys...)
	issuedAt := parseTime(s.T, token.Data.IssuedAt).Unix()
	for name, want := range map[string]any{
		"iss":       s.Issuer(s.Mount),
		"sub":       s.Entity,
		"client_id": s.Entity,
		"jti":       token.Data.TokenID,
		"scope":     "orders:read stock:read",
		"iat":       float64(issuedAt),
		"nbf":       float64(issuedAt - 30),
		"exp":       float64(issuedAt + 600),
		"aud":       []any{vaulttest.Audiences[0], vaulttest.Audiences[1]},
		"metadata":  map[string]any{"team": "payments"},
	} {
		if got := claims[name]; fmt.Sprint(got) != fmt.Sprint(want) {
			s.T.Errorf("claim %s is %v, want %v", name, got, want)
		}
	}
	status, _ := claims["status"].(map[string]any)
	list, _ := status["status_list"].(map[string]any)
	uri, _ := list["uri"].(string)
	if _, ok := list["idx"].(float64); !ok || !strings.HasPrefix(uri, s.Issuer(s.Mount)+"/status/") {
		s.T.Errorf("claim status is %v, want status_list with idx and uri", claims["status"])
	}
}

// verifyOffline verifies a JWT as an API server does: with the key set, which
// needs no Vault token.
func (s *session) verifyOffline(token string) (header, claims map[string]any) {
	s.T.Helper()
	jwks, err := s.Anonymous().Must(s.Ctx, "GET", s.Mount+"/jwks", nil)
	if err != nil {
		s.T.Fatal(err)
	}
	if got := jwks.Header.Get("Cache-Control"); !strings.Contains(got, "max-age=") {
		s.T.Errorf("Cache-Control of the key set is %q, want a max-age", got)
	}
	header, claims, err = verifyJWT(token, jwks.Raw)
	if err != nil {
		s.T.Fatal(err)
	}
	return header, claims
}

func TestIssueNarrowed(t *testing.T) {
	eachKind(t, nil, func(s *session, k vaulttest.TokenType, role string) {
		token := s.Issue(role, fields{
			"scopes":   []string{"orders:write"},
			"ttl":      "2m",
			"audience": vaulttest.Audiences[1:],
			"metadata": map[string]string{"job": "nightly"},
		})
		d := token.Data
		if d.Scope != "orders:write" || !slices.Equal(d.Scopes, []string{"orders:write"}) || d.ExpiresIn != 120 || token.LeaseDuration != 120 {
			s.T.Errorf("scope %q, scopes %q, expires_in %d, lease %d s; want orders:write for 120 s", d.Scope, d.Scopes, d.ExpiresIn, token.LeaseDuration)
		}
		if !slices.Equal(d.Audience, vaulttest.Audiences[1:]) || !maps.Equal(d.Metadata, map[string]string{"team": "payments", "job": "nightly"}) {
			s.T.Errorf("audience %q, metadata %v", d.Audience, d.Metadata)
		}
		data := s.Introspect(d.Token, fields{"audience": vaulttest.Audiences[1]})
		if data["active"] != true || data["scope"] != "orders:write" || fmt.Sprint(data["metadata"]) != "map[job:nightly team:payments]" {
			s.T.Errorf("introspection says %v", data)
		}
		none := s.Issue(role, fields{"scopes": []string{}})
		if len(none.Data.Scopes) != 0 || s.Introspect(none.Data.Token, nil)["scope"] != "" {
			s.T.Errorf("a token asked for without scopes has %q", none.Data.Scopes)
		}
	})
}

func TestWideningIsRefused(t *testing.T) {
	eachKind(t, nil, func(s *session, k vaulttest.TokenType, role string) {
		for field, tc := range map[string]struct {
			value any
			names string // what the message must name: that which is not allowed
		}{
			"scopes":   {[]string{"orders:read", "admin"}, "admin"},
			"ttl":      {"11m", "11m"},
			"audience": {[]string{vaulttest.Audiences[0], "https://other.example.com"}, "https://other.example.com"},
			"metadata": {map[string]string{"team": "red"}, "team"},
		} {
			resp, err := s.Client(s.App).Do(s.Ctx, "POST", "tokens/creds/"+role, fields{field: tc.value})
			if err != nil {
				s.T.Fatal(err)
			}
			if resp.Status != http.StatusBadRequest || !vaulttest.ErrorNames(resp, field) || !strings.Contains(resp.Errors()[0], tc.names) {
				s.T.Errorf("wider %s: %d %q, want a 400 that names %s and %s", field, resp.Status, resp.Errors(), field, tc.names)
			}
		}
	})
}

func TestIntrospectActive(t *testing.T) {
	eachKind(t, nil, func(s *session, k vaulttest.TokenType, role string) {
		token := s.Issue(role, nil)
		data := s.Introspect(token.Data.Token, nil)
		keys := activeKeys
		if !k.Opaque {
			keys = append(slices.Clone(keys), "jti", "nbf")
		}
		wantKeys(s.T, "introspection", data, keys...)
		issuedAt := parseTime(s.T, token.Data.IssuedAt).Unix()
		for name, want := range map[string]any{
			"active": true, "token_id": token.Data.TokenID, "token_type": k.Name, "role": role,
			"scope": "orders:read stock:read", "client_id": s.Entity, "sub": s.Entity,
			"iss": s.Issuer(s.Mount), "iat": float64(issuedAt), "exp": float64(issuedAt + 600),
			"aud": []any{vaulttest.Audiences[0], vaulttest.Audiences[1]}, "metadata": map[string]any{"team": "payments"},
		} {
			if got := data[name]; fmt.Sprint(got) != fmt.Sprint(want) {
				s.T.Errorf("%s is %v, want %v", name, got, want)
			}
		}
		if !k.Opaque && (data["jti"] != token.Data.TokenID || data["nbf"] != float64(issuedAt-30)) {
			s.T.Errorf("jti %v, nbf %v", data["jti"], data["nbf"])
		}
	})
}

func TestIntrospectChecks(t *testing.T) {
	eachKind(t, fields{"bound_cidrs": []string{"10.1.0.0/16", "2001:db8::/32", "192.0.2.7"}}, func(s *session, k vaulttest.TokenType, role string) {
		token := s.Issue(role, nil)
		inside := fields{"client_ip": "10.1.2.3"}
		for name, tc := range map[string]struct {
			checks fields
			failed []string
		}{
			"no address fails closed":   {nil, []string{"client_ip_failed"}},
			"inside":                    {inside, nil},
			"IPv6 inside":               {fields{"client_ip": "2001:db8::1"}, nil},
			"IPv4 mapped into IPv6":     {fields{"client_ip": "::ffff:10.1.2.3"}, nil},
			"a single address":          {fields{"client_ip": "192.0.2.7"}, nil},
			"outside":                   {fields{"client_ip": "10.2.0.1"}, []string{"client_ip_failed"}},
			"IPv6 outside":              {fields{"client_ip": "2001:db9::1"}, []string{"client_ip_failed"}},
			"has the scopes":            {inside.With(fields{"required_scopes": []string{"stock:read", "orders:read"}}), nil},
			"lacks a scope":             {inside.With(fields{"required_scopes": []string{"orders:read", "orders:write"}}), []string{"scope_failed"}},
			"is for the audience":       {inside.With(fields{"audience": vaulttest.Audiences[1]}), nil},
			"is not for the audience":   {inside.With(fields{"audience": "https://other.example.com"}), []string{"audience_failed"}},
			"part of an audience fails": {inside.With(fields{"audience": "https://orders.example"}), []string{"audience_failed"}},
			"everything fails": {
				fields{"client_ip": "::1", "required_scopes": "admin", "audience": "x"},
				[]string{"audience_failed", "client_ip_failed", "scope_failed"},
			},
		} {
			data := s.Introspect(token.Data.Token, tc.checks)
			if len(tc.failed) == 0 {
				if data["active"] != true {
					s.T.Errorf("%s: %v, want active", name, data)
				}
				continue
			}
			wantKeys(s.T, name, data, append([]string{"active", "role", "token_id"}, tc.failed...)...)
			if data["active"] != false || data["token_id"] != token.Data.TokenID {
				s.T.Errorf("%s: %v, want active=false and the token_id", name, data)
			}
			for _, check := range tc.failed {
				if data[check] != true {
					s.T.Errorf("%s: %s is %v, want true", name, check, data[check])
				}
			}
		}
	})
}

func TestRenew(t *testing.T) {
	eachKind(t, nil, func(s *session, k vaulttest.TokenType, role string) {
		token := s.Issue(role, fields{"ttl": "1m"})
		resp, err := s.Client(s.App).Do(s.Ctx, "PUT", "sys/leases/renew", fields{"lease_id": token.LeaseID, "increment": 300})
		if err != nil {
			s.T.Fatal(err)
		}
		if !k.Renewable {
			if resp.Status != http.StatusBadRequest || !strings.Contains(fmt.Sprint(resp.Errors()), "not renewable") {
				s.T.Errorf("renewing a jwt: %d %q, want a 400", resp.Status, resp.Errors())
			}
			s.WantActive(token)
			return
		}
		if resp.Status != http.StatusOK || resp.Body["lease_duration"] != float64(300) {
			s.T.Fatalf("renew: %d, lease_duration %v, want 300: %q", resp.Status, resp.Body["lease_duration"], resp.Errors())
		}
		s.wantExpiry(token, parseTime(s.T, token.Data.IssuedAt).Add(300*time.Second))
		s.wantLeaseAndTokenEndTogether(token)

		s.Must("PUT", "sys/leases/renew", fields{"lease_id": token.LeaseID, "increment": "9h"})
		s.wantExpiry(token, parseTime(s.T, token.Data.IssuedAt).Add(time.Hour)) // the role's max_ttl
		s.wantLeaseAndTokenEndTogether(token)

		// The maximum is the role's as it is now, whatever it was at issue.
		s.Role(role, fields{"max_ttl": "30m"})
		s.Must("PUT", "sys/leases/renew", fields{"lease_id": token.LeaseID, "increment": "9h"})
		s.wantExpiry(token, parseTime(s.T, token.Data.IssuedAt).Add(30*time.Minute))
		if scope := s.Introspect(token.Data.Token, nil)["scope"]; scope != "orders:read stock:read" {
			s.T.Errorf("scope after renewals is %q", scope)
		}
	})
}

// wantExpiry allows for the seconds that passed since the token was issued.
func (s *session) wantExpiry(token *issued, want time.Time) {
	s.T.Helper()
	exp, _ := s.Introspect(token.Data.Token, nil)["exp"].(float64)
	if got := time.Unix(int64(exp), 0); got.Before(want.Add(-2*time.Second)) || got.After(time.Now().Add(time.Until(want)+10*time.Second)) {
		s.T.Errorf("exp is %s, want about %s", got.UTC(), want.UTC())
	}
}

// wantLeaseAndTokenEndTogether compares the token's expiry with Vault's own
// record of the lease.
func (s *session) wantLeaseAndTokenEndTogether(token *issued) {
	s.T.Helper()
	lease := s.Must("PUT", "sys/leases/lookup", fields{"lease_id": token.LeaseID})
	ends, err := time.Parse(time.RFC3339Nano, lease.String("expire_time"))
	if err != nil {
		s.T.Fatal(err)
	}
	exp, _ := s.Introspect(token.Data.Token, nil)["exp"].(float64)
	if d := ends.Sub(time.Unix(int64(exp), 0)); d < 0 || d > 2*time.Second {
		s.T.Errorf("the lease ends %s after the token, want between 0 and 2 s", d)
	}
}

func TestRenewIsRefusedWhenTheRoleIsGone(t *testing.T) {
	eachKind(t, nil, func(s *session, k vaulttest.TokenType, role string) {
		token := s.Issue(role, nil)
		s.Must("DELETE", "tokens/roles/"+role, nil)
		s.WantActive(token) // it keeps what it has
		resp := s.Answers(http.StatusBadRequest, "PUT", "sys/leases/renew", fields{"lease_id": token.LeaseID})
		if k.Renewable && !vaulttest.ErrorNames(resp, "role") {
			s.T.Errorf("the error %q does not say that the role is gone", resp.Errors())
		}
		s.WantActive(token)
		if resp := s.Answers(http.StatusBadRequest, "GET", "tokens/creds/"+role, nil); !vaulttest.ErrorNames(resp, "role") {
			s.T.Errorf("the error %q does not say that the role is gone", resp.Errors())
		}
	})
}

func TestRenewNeverKeepsWhatTheRoleLost(t *testing.T) {
	s := common(t, time.Minute)
	s.Role("lost-scope", vaulttest.APIKey.RoleBody())
	token := s.Issue("lost-scope", nil)
	s.Role("lost-scope", fields{"allowed_scopes": "stock:read", "default_scopes": "stock:read"})
	resp := s.Answers(http.StatusBadRequest, "PUT", "sys/leases/renew", fields{"lease_id": token.LeaseID})
	if !vaulttest.ErrorNames(resp, "scopes") {
		t.Errorf("the error %q does not name the scope", resp.Errors())
	}
}

func TestRevoke(t *testing.T) {
	eachKind(t, nil, func(s *session, k vaulttest.TokenType, role string) {
		for _, r := range vaulttest.Revokers {
			if r.Opaque && !k.Opaque {
				continue // a jwt has no record under tokens/
			}
			for _, roleGone := range []bool{false, true} {
				token := s.Issue(role, nil)
				if roleGone {
					s.Must("DELETE", "tokens/roles/"+role, nil)
				}
				s.WantActive(token)
				for range 2 { // the second time there is nothing left to do
					if err := r.Revoke(s.Ctx, s.Deployment, token); err != nil {
						s.T.Fatalf("%s, role gone %t: %v", r.Name, roleGone, err)
					}
					s.WantInactive(token.Data.Token)
				}
				// Its lease, which may still be there, ends without complaint.
				if err := vaulttest.ByLease.Revoke(s.Ctx, s.Deployment, token); err != nil {
					s.T.Fatalf("lease of a token revoked %s: %v", r.Name, err)
				}
				s.Answers(http.StatusBadRequest, "PUT", "sys/leases/lookup", fields{"lease_id": token.LeaseID})
				if roleGone {
					s.Role(role, k.RoleBody())
				}
			}
		}
	})
}

// A 204 would tell an operator that a leaked token is gone, when nothing was
// revoked.
func TestDeleteByIDThatRevokesNothingSaysSo(t *testing.T) {
	eachKind(t, nil, func(s *session, k vaulttest.TokenType, role string) {
		token := s.Issue(role, nil)
		path := "tokens/tokens/" + token.Data.TokenID
		if k.Opaque {
			s.Answers(http.StatusNoContent, "DELETE", path, nil)
		}
		resp := s.Answers(http.StatusOK, "DELETE", path, nil)
		if !strings.Contains(string(resp.Raw), "nothing was revoked") {
			s.T.Errorf("the answer does not say so: %s", resp.Raw)
		}
		if !k.Opaque {
			s.WantActive(token)
		}
	})
}

func TestRenewAfterRevocationByPossession(t *testing.T) {
	s := common(t, time.Minute)
	s.Role("possessed", vaulttest.Bearer.RoleBody())
	token := s.Issue("possessed", nil)
	s.Must("POST", "tokens/revoke", fields{"token": token.Data.Token})
	s.Answers(http.StatusBadRequest, "PUT", "sys/leases/renew", fields{"lease_id": token.LeaseID})
	s.WantInactive(token.Data.Token)
}

func TestRevokeByPrefix(t *testing.T) {
	eachKind(t, nil, func(s *session, k vaulttest.TokenType, role string) {
		s.Role("kept-by-"+role, k.RoleBody())
		kept := s.Issue("kept-by-"+role, nil)
		var gone []*issued
		for range 5 {
			gone = append(gone, s.Issue(role, nil))
		}
		s.Must("DELETE", "tokens/roles/"+role, nil)
		s.Must("PUT", "sys/leases/revoke-prefix/tokens/creds/"+role, fields{"sync": true})
		for _, token := range gone {
			s.WantInactive(token.Data.Token)
		}
		s.WantActive(kept)
	})
}

func TestTokensDieWithTheirLogin(t *testing.T) {
	eachKind(t, nil, func(s *session, k vaulttest.TokenType, role string) {
		login, err := s.NewToken(s.Ctx, "short-"+k.Name, vaulttest.AppPolicy+vaulttest.Policy("auth/token/revoke-self", "update"), "service", "1h")
		if err != nil {
			s.T.Fatal(err)
		}
		token, err := s.IssueAt(s.Ctx, s.Client(login), s.Mount, role, nil)
		if err != nil {
			s.T.Fatal(err)
		}
		s.WantActive(token)
		if err := s.Expect(s.Ctx, login, "POST", "auth/token/revoke-self", nil, http.StatusNoContent); err != nil {
			s.T.Fatal(err)
		}
		s.wantInactiveWithin(10*time.Second, token)
	})
}

func (s *session) wantInactiveWithin(limit time.Duration, token *issued) {
	s.T.Helper()
	err := suite.Poll(s.Ctx, limit, func() (bool, error) {
		active, err := s.ActiveAt(s.Ctx, s.Mount, token.Data.Token)
		return err == nil && !active, err
	})
	if err != nil {
		s.T.Fatalf("%s %s is still active: %v", token.Data.TokenType, token.Data.TokenID, err)
	}
}

func TestExpiry(t *testing.T) {
	t.Parallel()
	eachKind(t, nil, func(s *session, k vaulttest.TokenType, role string) {
		s.Role(role+"-unleased", k.RoleBody().With(fields{"generate_lease": false}))
		leased, unleased := s.Issue(role, fields{"ttl": 3}), s.Issue(role+"-unleased", fields{"ttl": 3})
		if unleased.LeaseID != "" || unleased.Data.ExpiresIn != 3 {
			s.T.Errorf("without a lease: lease_id %q, expires_in %d", unleased.LeaseID, unleased.Data.ExpiresIn)
		}
		for _, token := range []*issued{leased, unleased} {
			s.WantActive(token)
		}
		for _, token := range []*issued{leased, unleased} {
			s.wantInactiveWithin(15*time.Second, token)
			s.WantInactive(token.Data.Token) // and nothing else is said of it
			if now, exp := time.Now(), parseTime(s.T, token.Data.ExpiresAt); now.Before(exp) {
				s.T.Errorf("inactive %s before its expiry", exp.Sub(now))
			}
		}
		if !k.Opaque {
			return
		}
		// Vault ends the lease by itself, and with it goes the record.
		err := suite.Poll(s.Ctx, 20*time.Second, func() (bool, error) {
			resp, err := s.Root().Do(s.Ctx, "GET", "tokens/tokens/"+leased.Data.TokenID, nil)
			return err == nil && resp.Status == http.StatusNotFound, err
		})
		if err != nil {
			s.T.Errorf("the record of an expired lease stays: %v", err)
		}
	})
}

// TestOneTTL holds the token's life, the lease's and the answer to one number,
// whichever maximum is the smallest.
func TestOneTTL(t *testing.T) {
	for i, tc := range []struct {
		name             string
		ttl, roleMax     string
		configMax, mount string
		body             fields
		want             int
	}{
		{name: "the role's ttl", ttl: "7m", want: 420},
		{name: "role max_ttl under the mount's default", roleMax: "5m", want: 300},
		{name: "config max_ttl", ttl: "10m", roleMax: "1h", configMax: "4m", want: 240},
		{name: "mount max_lease_ttl", ttl: "10m", roleMax: "1h", mount: "200s", want: 200},
		{name: "the role's is the smallest", roleMax: "2m", configMax: "3m", mount: "4m", want: 120},
		{name: "config's is the smallest", roleMax: "4m", configMax: "2m", mount: "3m", want: 120},
		{name: "the mount's is the smallest", roleMax: "3m", configMax: "4m", mount: "2m", want: 120},
		{name: "asked for less", ttl: "10m", configMax: "4m", mount: "5m", body: fields{"ttl": "90s"}, want: 90},
		{name: "asked for exactly the cap", ttl: "10m", configMax: "4m", body: fields{"ttl": 240}, want: 240},
	} {
		t.Run(tc.name, func(t *testing.T) {
			s := common(t, time.Minute).at(fmt.Sprintf("ttl%d", i))
			var mountConfig map[string]any
			if tc.mount != "" {
				mountConfig = map[string]any{"max_lease_ttl": tc.mount}
			}
			if err := s.Enable(s.Ctx, s.Mount, mountConfig); err != nil {
				t.Fatal(err)
			}
			for _, k := range vaulttest.TokenTypes {
				body := fields{"token_type": k.Name, "audiences": vaulttest.Audiences, "allowed_scopes": "*"}
				if tc.ttl != "" {
					body["ttl"] = tc.ttl
				}
				if tc.roleMax != "" {
					body["max_ttl"] = tc.roleMax
				}
				s.Role(k.Name, body)
				s.Role(k.Name+"-unleased", body.With(fields{"generate_lease": false}))
			}
			config := fields{"issuer": s.Issuer(s.Mount)}
			if tc.configMax != "" {
				config["max_ttl"] = tc.configMax
			}
			s.Must("POST", s.Mount+"/config", config)
			for _, k := range vaulttest.TokenTypes {
				token := s.Issue(k.Name, tc.body)
				s.wantTTL(token, tc.want)
				if token.LeaseDuration != tc.want {
					t.Errorf("%s: lease_duration is %d, want %d", k.Name, token.LeaseDuration, tc.want)
				}
				s.wantLeaseAndTokenEndTogether(token)
				s.wantTTL(s.Issue(k.Name+"-unleased", tc.body), tc.want)
			}
		})
	}
}

func (s *session) wantTTL(token *issued, want int) {
	s.T.Helper()
	lives := parseTime(s.T, token.Data.ExpiresAt).Sub(parseTime(s.T, token.Data.IssuedAt))
	if token.Data.ExpiresIn != want || lives != time.Duration(want)*time.Second {
		s.T.Errorf("%s: expires_in is %d, expires_at %s after issued_at; want %d s", token.Data.Role, token.Data.ExpiresIn, lives, want)
	}
	data := s.Introspect(token.Data.Token, nil)
	if exp, iat := data["exp"], data["iat"]; exp == nil || exp.(float64)-iat.(float64) != float64(want) {
		s.T.Errorf("%s: exp %v, iat %v; want %d s between them", token.Data.Role, exp, iat, want)
	}
}

// TestTuningTheMountCapsTheNextToken covers a maximum that is lowered while
// the plugin runs.
func TestTuningTheMountCapsTheNextToken(t *testing.T) {
	s := common(t, time.Minute).at("tuned")
	if err := s.Enable(s.Ctx, s.Mount, nil); err != nil {
		t.Fatal(err)
	}
	s.Role("app", fields{"token_type": "api_key", "ttl": "1h"})
	s.wantTTL(s.Issue("app", nil), 3600)
	s.Must("POST", "sys/mounts/"+s.Mount+"/tune", fields{"max_lease_ttl": "10m"})
	var token *issued
	err := suite.Poll(s.Ctx, 5*time.Second, func() (bool, error) {
		token = s.Issue("app", nil)
		return token.Data.ExpiresIn == 600, fmt.Errorf("expires_in is %d, want 600", token.Data.ExpiresIn)
	})
	if err != nil {
		t.Fatal(err)
	}
	s.wantTTL(token, 600)
	s.wantLeaseAndTokenEndTogether(token)
}

func TestBatchTokensLimitTheirTokens(t *testing.T) {
	t.Parallel()
	eachKind(t, nil, func(s *session, k vaulttest.TokenType, role string) {
		batch, err := s.NewToken(s.Ctx, "batch-"+k.Name, vaulttest.AppPolicy, "batch", "4s")
		if err != nil {
			s.T.Fatal(err)
		}
		token, err := s.IssueAt(s.Ctx, s.Client(batch), s.Mount, role, nil)
		if err != nil {
			s.T.Fatal(err)
		}
		s.WantActive(token)
		s.wantInactiveWithin(20*time.Second, token)
	})
}

func TestRoles(t *testing.T) {
	s := common(t, time.Minute)
	s.Role("Shop", fields{"token_type": "bearer", "allowed_scopes": "a,b", "default_scopes": "a", "max_tokens": 7})
	s.Role("shop", fields{"token_type": "api_key"}) // another role: case matters
	want := map[string]any{
		"token_type": "bearer", "allowed_scopes": []any{"a", "b"}, "default_scopes": []any{"a"},
		"ttl": float64(3600), "max_ttl": float64(0), "audiences": []any{}, "subject": "",
		"claims": map[string]any{}, "claims_template": "", "key": "", "not_before_leeway": float64(0),
		"prefix": "vtb", "max_tokens": float64(7), "bound_cidrs": []any{}, "metadata": map[string]any{},
		"generate_lease": true, "allowed_metadata": []any{}, "require_cnf": false, "track": false,
	}
	check := func(when string) {
		t.Helper()
		got := s.Must("GET", "tokens/roles/Shop", nil).Data()
		wantKeys(t, "role", got, slices.Sorted(maps.Keys(want))...)
		for name := range want {
			if fmt.Sprint(got[name]) != fmt.Sprint(want[name]) {
				t.Errorf("%s: %s is %v, want %v", when, name, got[name], want[name])
			}
		}
	}
	check("as created")
	s.Role("Shop", fields{"ttl": "5m"})
	want["ttl"] = float64(300)
	check("after a write that names one field")
	s.Must("PATCH", "tokens/roles/Shop", fields{"max_tokens": nil, "generate_lease": false})
	want["max_tokens"], want["generate_lease"] = float64(0), false
	check("after a patch with null")
	s.Role("Shop", fields{"token_type": "bearer", "metadata": map[string]string{"k": "v"}})
	want["metadata"] = map[string]any{"k": "v"}
	check("after a write that repeats token_type")
	s.Must("PATCH", "tokens/roles/Shop", fields{"metadata": fields{"l": "w"}, "ttl": 0})
	want["metadata"], want["ttl"] = map[string]any{"k": "v", "l": "w"}, float64(3600)
	check("after a patch that adds a member")
	s.Must("PATCH", "tokens/roles/Shop", fields{"metadata": fields{"k": nil}})
	want["metadata"] = map[string]any{"l": "w"}
	check("after a patch that removes a member")

	keys := fmt.Sprint(s.Must("LIST", "tokens/roles", nil).Data()["keys"])
	if !strings.Contains(keys, "Shop") || !strings.Contains(keys, "shop") {
		t.Errorf("list is %s", keys)
	}
	s.Must("DELETE", "tokens/roles/Shop", nil)
	s.Answers(http.StatusNotFound, "GET", "tokens/roles/Shop", nil)
	s.Answers(http.StatusNoContent, "DELETE", "tokens/roles/Shop", nil)
	s.Must("GET", "tokens/roles/shop", nil)
}

// Over HTTP a change that warns is a 200, and one that does not a 204.
func TestEmptiedListsWarn(t *testing.T) {
	s := common(t, time.Minute)
	role := func(body fields) []string {
		t.Helper()
		resp := s.Role("emptied", body)
		if want := map[bool]int{true: http.StatusOK, false: http.StatusNoContent}[len(resp.Warnings()) > 0]; resp.Status != want {
			t.Errorf("%v: %d with the warnings %q", body, resp.Status, resp.Warnings())
		}
		return resp.Warnings()
	}
	if warnings := role(vaulttest.Bearer.RoleBody().With(fields{"bound_cidrs": "10.0.0.0/8"})); len(warnings) != 0 {
		t.Errorf("warnings are %q", warnings)
	}
	for _, name := range []string{"bound_cidrs", "audiences", "allowed_metadata", "default_scopes", "allowed_scopes"} {
		if warnings := role(fields{name: ""}); len(warnings) != 1 || !strings.HasPrefix(warnings[0], name+" is empty now") {
			t.Errorf("%s: warnings are %q", name, warnings)
		}
	}
}

// A status list of another time is not implemented; Vault passes the status on.
func TestStatusListOfAnotherTime(t *testing.T) {
	s := common(t, time.Minute)
	resp, err := s.Anonymous().Do(s.Ctx, "GET", "tokens/status/0000000000000000000000?time=1686925000", nil)
	if err != nil || resp.Status != http.StatusNotImplemented {
		t.Errorf("%d %s, %v; want a 501", resp.Status, resp.Raw, err)
	}
}

func TestRoleWarnsOfCaps(t *testing.T) {
	s := common(t, time.Minute).at("warned")
	if err := s.Enable(s.Ctx, s.Mount, map[string]any{"max_lease_ttl": "20m"}); err != nil {
		t.Fatal(err)
	}
	resp := s.Role("long", fields{"token_type": "bearer", "ttl": "1h", "max_ttl": "2h"})
	for _, name := range []string{"ttl", "max_ttl"} {
		if !slices.ContainsFunc(resp.Warnings(), func(w string) bool { return strings.HasPrefix(w, name+" ") }) {
			t.Errorf("no warning about %s: %q", name, resp.Warnings())
		}
	}
}

func TestTokenRecords(t *testing.T) {
	s := common(t, time.Minute).at("records")
	if err := s.Enable(s.Ctx, s.Mount, nil); err != nil {
		t.Fatal(err)
	}
	s.Role("app", vaulttest.APIKey.RoleBody())
	ids := map[string]bool{}
	var last *issued
	for range 7 {
		last = s.Issue("app", nil)
		ids[last.Data.TokenID] = true
	}
	listed := map[string]bool{}
	after := ""
	for page := 1; len(listed) < 7 && page <= 7; page++ {
		resp := s.Must("LIST", s.Mount+"/tokens?limit=3&after="+after, nil)
		keys, _ := resp.Data()["keys"].([]any)
		if len(keys) == 0 || len(keys) > 3 {
			t.Fatalf("page %d has %d ids, want 1 to 3", page, len(keys))
		}
		for _, key := range keys {
			after = key.(string)
			if listed[after] || !ids[after] {
				t.Errorf("page %d: %s is listed twice or is not ours", page, after)
			}
			listed[after] = true
		}
	}
	if len(listed) != 7 {
		t.Errorf("%d ids listed, want 7", len(listed))
	}
	record := s.Must("GET", s.Mount+"/tokens/"+last.Data.TokenID, nil)
	for name, want := range map[string]any{
		"token_id": last.Data.TokenID, "token_type": "api_key", "role": "app", "scope": last.Data.Scope,
		"issued_at": last.Data.IssuedAt, "expires_at": last.Data.ExpiresAt,
		"client_id": s.Entity, "entity_id": s.Entity, "display_name": "userpass-app",
	} {
		if got := record.Data()[name]; got != want {
			t.Errorf("record: %s is %v, want %v", name, got, want)
		}
	}
	secret := last.Data.Token[len(last.Data.Token)-49 : len(last.Data.Token)-6]
	if text := string(record.Raw); strings.Contains(text, secret) || strings.Contains(text, "hash") || strings.Contains(text, "sha256") {
		t.Error("the record shows the secret or its hash")
	}
}

func TestMaxTokens(t *testing.T) {
	s := common(t, time.Minute)
	s.Role("capped", fields{"token_type": "api_key", "max_tokens": 2})
	first, _ := s.Issue("capped", nil), s.Issue("capped", nil)
	resp := s.Answers(http.StatusBadRequest, "GET", "tokens/creds/capped", nil)
	if !strings.Contains(fmt.Sprint(resp.Errors()), "max_tokens") {
		t.Errorf("the error %q does not name max_tokens", resp.Errors())
	}
	s.Must("POST", "tokens/revoke", fields{"token": first.Data.Token})
	s.Issue("capped", nil)
	s.Answers(http.StatusBadRequest, "GET", "tokens/creds/capped", nil)
}

func TestIdentityTemplates(t *testing.T) {
	s := common(t, time.Minute)
	s.Must("POST", "identity/entity/id/"+s.Entity, fields{"metadata": map[string]string{"tenant": `acme "east"`}})
	for _, k := range vaulttest.TokenTypes {
		body := k.RoleBody().With(fields{"subject": "{{identity.entity.metadata.tenant}}/{{identity.entity.id}}"})
		if !k.Opaque {
			body["claims"] = map[string]any{"plan": "gold", "limits": map[string]any{"rate": 10}}
			body["claims_template"] = `{"tenant": {{identity.entity.metadata.tenant}}, "text": "of {{identity.entity.metadata.tenant}}"}`
		}
		s.Role("templated-"+k.Name, body)
		token := s.Issue("templated-"+k.Name, nil)
		want := `acme "east"/` + s.Entity
		if sub := s.Introspect(token.Data.Token, nil)["sub"]; sub != want {
			t.Errorf("%s: sub is %v, want %s", k.Name, sub, want)
		}
		if k.Opaque {
			continue
		}
		_, claims := s.verifyOffline(token.Data.Token)
		for name, want := range map[string]any{
			"sub": want, "plan": "gold", "limits": map[string]any{"rate": 10}, "tenant": `acme "east"`, "text": `of acme "east"`,
		} {
			if fmt.Sprint(claims[name]) != fmt.Sprint(want) {
				t.Errorf("claim %s is %v, want %v", name, claims[name], want)
			}
		}
	}
}

// TestRenderedClaims covers claims that come from the caller's own entity: it must
// not name them, and not garble what verifiers log.
func TestRenderedClaims(t *testing.T) {
	s := common(t, time.Minute)
	template := func(text string) fields { return vaulttest.JWT.RoleBody().With(fields{"claims_template": text}) }
	s.Answers(http.StatusBadRequest, "POST", "tokens/roles/named", template(`{"{{identity.entity.metadata.claim}}": 9999999999}`))
	s.Role("rendered", template(`{"level": "{{identity.entity.metadata.claim}}", "all": {{identity.entity.metadata}}}`))
	for value, want := range map[string]int{
		"high": http.StatusOK, `a "b"`: http.StatusOK, "größe": http.StatusOK,
		"": http.StatusBadRequest, "a\u202eb": http.StatusBadRequest, "a\nb": http.StatusBadRequest, "\u001b[31m": http.StatusBadRequest,
	} {
		s.Must("POST", "identity/entity/id/"+s.Entity, fields{"metadata": map[string]string{"claim": value, "tenant": "acme"}})
		resp, err := s.Client(s.App).Do(s.Ctx, "GET", "tokens/creds/rendered", nil)
		if err != nil {
			t.Fatal(err)
		}
		s.Secrets.Add(resp.String("token"), "creds/rendered")
		if resp.Status != want || want != http.StatusOK && !vaulttest.ErrorNames(resp, "claims_template") {
			t.Errorf("a claim of %q: %d %q, want %d", value, resp.Status, resp.Errors(), want)
		}
	}
}

func TestKeysOfEveryAlgorithm(t *testing.T) {
	s := common(t, 2*time.Minute).at("keys")
	if err := s.Enable(s.Ctx, s.Mount, nil); err != nil {
		t.Fatal(err)
	}
	if err := s.SetIssuer(s.Ctx, s.Mount); err != nil {
		t.Fatal(err)
	}
	for _, algorithm := range []string{"ES256", "ES384", "EdDSA", "RS256", "PS256"} {
		key := "Key-" + algorithm
		s.Must("POST", s.Mount+"/keys/"+key, fields{"algorithm": algorithm})
		s.Role(algorithm, vaulttest.JWT.RoleBody().With(fields{"key": key}))
		token := s.Issue(algorithm, nil)
		header, _ := s.verifyOffline(token.Data.Token)
		if header["alg"] != algorithm {
			t.Errorf("alg is %v, want %s", header["alg"], algorithm)
		}
		s.WantActive(token)
		read := s.Must("GET", s.Mount+"/keys/"+key, nil)
		if text := string(read.Raw); read.String("algorithm") != algorithm || !strings.Contains(text, "PUBLIC KEY") || strings.Contains(text, "PRIVATE") {
			t.Errorf("key reads %s", text)
		}
		if !strings.Contains(string(read.Raw), header["kid"].(string)) {
			t.Errorf("key does not show the kid %v", header["kid"])
		}
		s.Must("POST", "tokens/revoke", fields{"token": token.Data.Token}) // of another mount: does nothing
		s.WantActive(token)
		s.Must("POST", s.Mount+"/revoke", fields{"token": token.Data.Token})
		s.WantInactive(token.Data.Token)
	}
	s.checkKeySet(6) // with the one that signs the lists of opaque tokens

	s.Must("POST", s.Mount+"/keys/unused", nil)
	s.checkKeySet(7)
	s.Must("DELETE", s.Mount+"/keys/unused", nil)
	s.Answers(http.StatusNotFound, "GET", s.Mount+"/keys/unused", nil)
	s.checkKeySet(6)
}

// checkKeySet holds the published keys to the versions of all named keys, of
// which there are want, and each kid to RFC 7638.
func (s *session) checkKeySet(want int) {
	s.T.Helper()
	names, _ := s.Must("LIST", s.Mount+"/keys", nil).Data()["keys"].([]any)
	if len(names) != want {
		s.T.Errorf("there are %d keys, want %d", len(names), want)
	}
	var versions, published []string
	for _, name := range names {
		list, _ := s.Must("GET", fmt.Sprintf("%s/keys/%s", s.Mount, name), nil).Data()["versions"].([]any)
		for _, v := range list {
			version, _ := v.(map[string]any)
			versions = append(versions, fmt.Sprint(version["kid"]))
		}
	}
	jwks, err := s.Anonymous().Must(s.Ctx, "GET", s.Mount+"/jwks", nil)
	if err != nil {
		s.T.Fatal(err)
	}
	var set struct {
		Keys []jwk `json:"keys"`
	}
	suite.Decode(s.T, jwks.Raw, &set)
	for _, key := range set.Keys {
		published = append(published, key.KeyID)
		if key.KeyID != key.thumbprint() {
			s.T.Errorf("%s: kid %s is not the thumbprint %s", key.Algorithm, key.KeyID, key.thumbprint())
		}
	}
	slices.Sort(versions)
	slices.Sort(published)
	if len(versions) < want || !slices.Equal(versions, published) {
		s.T.Errorf("published are %q, the keys' versions are %q", published, versions)
	}
	if strings.Contains(string(jwks.Raw), `"d"`) {
		s.T.Error("the key set holds a private half")
	}
}

// TestTokensOfAnotherMount makes sure that a mount answers for its own tokens
// only, though all of them are signed by the same engine.
func TestTokensOfAnotherMount(t *testing.T) {
	s := common(t, time.Minute)
	other := s.at("elsewhere")
	if err := s.Enable(s.Ctx, other.Mount, nil); err != nil {
		t.Fatal(err)
	}
	if err := s.SetIssuer(s.Ctx, other.Mount); err != nil {
		t.Fatal(err)
	}
	for _, k := range vaulttest.TokenTypes {
		other.Role("app", k.RoleBody())
		token := other.Issue("app", nil)
		other.WantActive(token)
		s.WantInactive(token.Data.Token)
		other.Must("DELETE", other.Mount+"/roles/app", nil)
	}
}
