package test

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

	"github.com/vault-tokens/vault-plugin-secrets-tokens/test/vaulttest"
)

// kind is a token_type and what differs between them.
type kind struct {
	name      string
	opaque    bool
	prefix    string // of the token
	renewable bool
}

var kinds = []kind{
	{name: "api_key", opaque: true, prefix: "vtk", renewable: true},
	{name: "bearer", opaque: true, prefix: "vtb", renewable: true},
	{name: "jwt", prefix: "eyJ"},
}

var audiences = []string{"https://orders.example.com", "https://stock.example.com"}

// roleBody is a role of a kind that uses most of what roles offer.
func (k kind) roleBody() fields {
	return fields{
		"token_type":     k.name,
		"allowed_scopes": []string{"orders:*", "stock:read"},
		"default_scopes": []string{"orders:read", "stock:read"},
		"ttl":            "10m",
		"max_ttl":        "1h",
		"audiences":      audiences,
		"metadata":       map[string]string{"team": "payments"},
	}
}

// eachKind runs a test for every kind of token with a role of that kind, in a
// session of its own.
func eachKind(t *testing.T, change fields, test func(s *session, k kind, role string)) {
	t.Helper()
	server := common(t)
	for _, k := range kinds {
		t.Run(k.name, func(t *testing.T) {
			t.Parallel() // a role each, and much waiting for time to pass
			s := server.in(t, deadline(t, time.Minute))
			role := strings.NewReplacer("/", "-", "Test", "").Replace(t.Name())
			s.role(role, k.roleBody().with(change))
			test(s, k, role)
		})
	}
}

var (
	opaqueShape   = regexp.MustCompile(`^[a-z0-9]+(_[a-z0-9]+)*_[0-9A-Za-z]{71}$`)
	tokenIDShape  = regexp.MustCompile(`^[0-9A-Za-z]{22}$`)
	credsKeys     = []string{"audience", "expires_at", "expires_in", "issued_at", "metadata", "role", "scope", "scopes", "token", "token_id", "token_type"}
	activeKeys    = []string{"active", "aud", "client_id", "exp", "iat", "iss", "metadata", "role", "scope", "sub", "token_id", "token_type"}
	jwtClaimsKeys = []string{"aud", "client_id", "exp", "iat", "iss", "jti", "metadata", "nbf", "scope", "status", "sub"}
)

func TestIssueWithDefaults(t *testing.T) {
	eachKind(t, nil, func(s *session, k kind, role string) {
		before := time.Now().Truncate(time.Second)
		token := s.issue(role, nil)
		wantKeys(s.t, "creds", token.keys, credsKeys...)
		d := token.Data
		want := d
		want.TokenType, want.Role = k.name, role
		want.Scopes, want.Scope = []string{"orders:read", "stock:read"}, "orders:read stock:read"
		want.ExpiresIn, want.Audience, want.Metadata = 600, audiences, map[string]string{"team": "payments"}
		if got, want := fmt.Sprintf("%+v", d), fmt.Sprintf("%+v", want); got != want {
			s.t.Errorf("data is\n%s, want\n%s", redact(got, d.Token), redact(want, d.Token))
		}
		issuedAt, expiresAt := parseTime(s.t, d.IssuedAt), parseTime(s.t, d.ExpiresAt)
		if issuedAt.Before(before) || issuedAt.After(time.Now()) || expiresAt.Sub(issuedAt) != 10*time.Minute {
			s.t.Errorf("issued_at %s, expires_at %s, want now and 10m later", d.IssuedAt, d.ExpiresAt)
		}
		if want := "tokens/creds/" + role + "/"; !strings.HasPrefix(token.LeaseID, want) {
			s.t.Errorf("lease_id is %q, want it under %s", token.LeaseID, want)
		}
		if token.LeaseDuration != 600 || token.Renewable != k.renewable {
			s.t.Errorf("lease of %d s, renewable=%t; want 600 s, %t", token.LeaseDuration, token.Renewable, k.renewable)
		}
		if !tokenIDShape.MatchString(d.TokenID) || !strings.HasPrefix(d.Token, k.prefix) {
			s.t.Errorf("token_id %q, token starts with %q", d.TokenID, d.Token[:3])
		}
		if k.opaque {
			checkOpaque(s.t, token, k.prefix)
		} else {
			checkJWT(s, token)
		}
		if len(token.Warnings) > 0 {
			s.t.Errorf("warnings: %q", token.Warnings)
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
	s.t.Helper()
	header, claims := s.verifyOffline(token.Data.Token)
	if header["typ"] != "at+jwt" || header["alg"] != "ES256" || len(header) != 3 {
		s.t.Errorf("header is %v, want typ at+jwt, alg ES256, kid and no more", header)
	}
	wantKeys(s.t, "claims", claims, jwtClaimsKeys...)
	issuedAt := parseTime(s.t, token.Data.IssuedAt).Unix()
	for name, want := range map[string]any{
		"iss":       s.issuer(s.mount),
		"sub":       s.entity,
		"client_id": s.entity,
		"jti":       token.Data.TokenID,
		"scope":     "orders:read stock:read",
		"iat":       float64(issuedAt),
		"nbf":       float64(issuedAt - 30),
		"exp":       float64(issuedAt + 600),
		"aud":       []any{audiences[0], audiences[1]},
		"metadata":  map[string]any{"team": "payments"},
	} {
		if got := claims[name]; fmt.Sprint(got) != fmt.Sprint(want) {
			s.t.Errorf("claim %s is %v, want %v", name, got, want)
		}
	}
	status, _ := claims["status"].(map[string]any)
	list, _ := status["status_list"].(map[string]any)
	uri, _ := list["uri"].(string)
	if _, ok := list["idx"].(float64); !ok || !strings.HasPrefix(uri, s.issuer(s.mount)+"/status/") {
		s.t.Errorf("claim status is %v, want status_list with idx and uri", claims["status"])
	}
}

// verifyOffline verifies a JWT as an API server does: with the key set, which
// needs no Vault token.
func (s *session) verifyOffline(token string) (header, claims map[string]any) {
	s.t.Helper()
	jwks, err := s.Anonymous().Must(s.ctx, "GET", s.mount+"/jwks", nil)
	if err != nil {
		s.t.Fatal(err)
	}
	if got := jwks.Header.Get("Cache-Control"); !strings.Contains(got, "max-age=") {
		s.t.Errorf("Cache-Control of the key set is %q, want a max-age", got)
	}
	header, claims, err = verifyJWT(token, jwks.Raw)
	if err != nil {
		s.t.Fatal(err)
	}
	return header, claims
}

func TestIssueNarrowed(t *testing.T) {
	eachKind(t, nil, func(s *session, k kind, role string) {
		token := s.issue(role, fields{
			"scopes":   []string{"orders:write"},
			"ttl":      "2m",
			"audience": audiences[1:],
			"metadata": map[string]string{"job": "nightly"},
		})
		d := token.Data
		if d.Scope != "orders:write" || !slices.Equal(d.Scopes, []string{"orders:write"}) || d.ExpiresIn != 120 || token.LeaseDuration != 120 {
			s.t.Errorf("scope %q, scopes %q, expires_in %d, lease %d s; want orders:write for 120 s", d.Scope, d.Scopes, d.ExpiresIn, token.LeaseDuration)
		}
		if !slices.Equal(d.Audience, audiences[1:]) || !maps.Equal(d.Metadata, map[string]string{"team": "payments", "job": "nightly"}) {
			s.t.Errorf("audience %q, metadata %v", d.Audience, d.Metadata)
		}
		data := s.introspect(d.Token, fields{"audience": audiences[1]})
		if data["active"] != true || data["scope"] != "orders:write" || fmt.Sprint(data["metadata"]) != "map[job:nightly team:payments]" {
			s.t.Errorf("introspection says %v", data)
		}
		none := s.issue(role, fields{"scopes": []string{}})
		if len(none.Data.Scopes) != 0 || s.introspect(none.Data.Token, nil)["scope"] != "" {
			s.t.Errorf("a token asked for without scopes has %q", none.Data.Scopes)
		}
	})
}

func TestWideningIsRefused(t *testing.T) {
	eachKind(t, nil, func(s *session, k kind, role string) {
		for field, tc := range map[string]struct {
			value any
			names string // what the message must name: that which is not allowed
		}{
			"scopes":   {[]string{"orders:read", "admin"}, "admin"},
			"ttl":      {"11m", "11m"},
			"audience": {[]string{audiences[0], "https://other.example.com"}, "https://other.example.com"},
			"metadata": {map[string]string{"team": "red"}, "team"},
		} {
			resp, err := s.Client(s.app).Do(s.ctx, "POST", "tokens/creds/"+role, fields{field: tc.value})
			if err != nil {
				s.t.Fatal(err)
			}
			if resp.Status != http.StatusBadRequest || !errorNames(resp, field) || !strings.Contains(resp.Errors()[0], tc.names) {
				s.t.Errorf("wider %s: %d %q, want a 400 that names %s and %s", field, resp.Status, resp.Errors(), field, tc.names)
			}
		}
	})
}

func TestIntrospectActive(t *testing.T) {
	eachKind(t, nil, func(s *session, k kind, role string) {
		token := s.issue(role, nil)
		data := s.introspect(token.Data.Token, nil)
		keys := activeKeys
		if !k.opaque {
			keys = append(slices.Clone(keys), "jti", "nbf")
		}
		wantKeys(s.t, "introspection", data, keys...)
		issuedAt := parseTime(s.t, token.Data.IssuedAt).Unix()
		for name, want := range map[string]any{
			"active": true, "token_id": token.Data.TokenID, "token_type": k.name, "role": role,
			"scope": "orders:read stock:read", "client_id": s.entity, "sub": s.entity,
			"iss": s.issuer(s.mount), "iat": float64(issuedAt), "exp": float64(issuedAt + 600),
			"aud": []any{audiences[0], audiences[1]}, "metadata": map[string]any{"team": "payments"},
		} {
			if got := data[name]; fmt.Sprint(got) != fmt.Sprint(want) {
				s.t.Errorf("%s is %v, want %v", name, got, want)
			}
		}
		if !k.opaque && (data["jti"] != token.Data.TokenID || data["nbf"] != float64(issuedAt-30)) {
			s.t.Errorf("jti %v, nbf %v", data["jti"], data["nbf"])
		}
	})
}

func TestIntrospectChecks(t *testing.T) {
	eachKind(t, fields{"bound_cidrs": []string{"10.1.0.0/16", "2001:db8::/32", "192.0.2.7"}}, func(s *session, k kind, role string) {
		token := s.issue(role, nil)
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
			"has the scopes":            {inside.with(fields{"required_scopes": []string{"stock:read", "orders:read"}}), nil},
			"lacks a scope":             {inside.with(fields{"required_scopes": []string{"orders:read", "orders:write"}}), []string{"scope_failed"}},
			"is for the audience":       {inside.with(fields{"audience": audiences[1]}), nil},
			"is not for the audience":   {inside.with(fields{"audience": "https://other.example.com"}), []string{"audience_failed"}},
			"part of an audience fails": {inside.with(fields{"audience": "https://orders.example"}), []string{"audience_failed"}},
			"everything fails": {
				fields{"client_ip": "::1", "required_scopes": "admin", "audience": "x"},
				[]string{"audience_failed", "client_ip_failed", "scope_failed"},
			},
		} {
			data := s.introspect(token.Data.Token, tc.checks)
			if len(tc.failed) == 0 {
				if data["active"] != true {
					s.t.Errorf("%s: %v, want active", name, data)
				}
				continue
			}
			wantKeys(s.t, name, data, append([]string{"active", "role", "token_id"}, tc.failed...)...)
			if data["active"] != false || data["token_id"] != token.Data.TokenID {
				s.t.Errorf("%s: %v, want active=false and the token_id", name, data)
			}
			for _, check := range tc.failed {
				if data[check] != true {
					s.t.Errorf("%s: %s is %v, want true", name, check, data[check])
				}
			}
		}
	})
}

func TestRenew(t *testing.T) {
	eachKind(t, nil, func(s *session, k kind, role string) {
		token := s.issue(role, fields{"ttl": "1m"})
		resp, err := s.Client(s.app).Do(s.ctx, "PUT", "sys/leases/renew", fields{"lease_id": token.LeaseID, "increment": 300})
		if err != nil {
			s.t.Fatal(err)
		}
		if !k.renewable {
			if resp.Status != http.StatusBadRequest || !strings.Contains(fmt.Sprint(resp.Errors()), "not renewable") {
				s.t.Errorf("renewing a jwt: %d %q, want a 400", resp.Status, resp.Errors())
			}
			s.wantActive(token)
			return
		}
		if resp.Status != http.StatusOK || resp.Body["lease_duration"] != float64(300) {
			s.t.Fatalf("renew: %d, lease_duration %v, want 300: %q", resp.Status, resp.Body["lease_duration"], resp.Errors())
		}
		s.wantExpiry(token, parseTime(s.t, token.Data.IssuedAt).Add(300*time.Second))
		s.wantLeaseAndTokenEndTogether(token)

		s.must("PUT", "sys/leases/renew", fields{"lease_id": token.LeaseID, "increment": "9h"})
		s.wantExpiry(token, parseTime(s.t, token.Data.IssuedAt).Add(time.Hour)) // the role's max_ttl
		s.wantLeaseAndTokenEndTogether(token)

		// The maximum is the role's as it is now, whatever it was at issue.
		s.role(role, fields{"max_ttl": "30m"})
		s.must("PUT", "sys/leases/renew", fields{"lease_id": token.LeaseID, "increment": "9h"})
		s.wantExpiry(token, parseTime(s.t, token.Data.IssuedAt).Add(30*time.Minute))
		if scope := s.introspect(token.Data.Token, nil)["scope"]; scope != "orders:read stock:read" {
			s.t.Errorf("scope after renewals is %q", scope)
		}
	})
}

// wantExpiry allows for the seconds that passed since the token was issued.
func (s *session) wantExpiry(token *issued, want time.Time) {
	s.t.Helper()
	exp, _ := s.introspect(token.Data.Token, nil)["exp"].(float64)
	if got := time.Unix(int64(exp), 0); got.Before(want.Add(-2*time.Second)) || got.After(time.Now().Add(time.Until(want)+10*time.Second)) {
		s.t.Errorf("exp is %s, want about %s", got.UTC(), want.UTC())
	}
}

// wantLeaseAndTokenEndTogether compares the token's expiry with Vault's own
// record of the lease.
func (s *session) wantLeaseAndTokenEndTogether(token *issued) {
	s.t.Helper()
	lease := s.must("PUT", "sys/leases/lookup", fields{"lease_id": token.LeaseID})
	ends, err := time.Parse(time.RFC3339Nano, lease.String("expire_time"))
	if err != nil {
		s.t.Fatal(err)
	}
	exp, _ := s.introspect(token.Data.Token, nil)["exp"].(float64)
	if d := ends.Sub(time.Unix(int64(exp), 0)); d < 0 || d > 2*time.Second {
		s.t.Errorf("the lease ends %s after the token, want between 0 and 2 s", d)
	}
}

func TestRenewIsRefusedWhenTheRoleIsGone(t *testing.T) {
	eachKind(t, nil, func(s *session, k kind, role string) {
		token := s.issue(role, nil)
		s.must("DELETE", "tokens/roles/"+role, nil)
		s.wantActive(token) // it keeps what it has
		resp := s.answers(http.StatusBadRequest, "PUT", "sys/leases/renew", fields{"lease_id": token.LeaseID})
		if k.renewable && !errorNames(resp, "role") {
			s.t.Errorf("the error %q does not say that the role is gone", resp.Errors())
		}
		s.wantActive(token)
		if resp := s.answers(http.StatusBadRequest, "GET", "tokens/creds/"+role, nil); !errorNames(resp, "role") {
			s.t.Errorf("the error %q does not say that the role is gone", resp.Errors())
		}
	})
}

func TestRenewNeverKeepsWhatTheRoleLost(t *testing.T) {
	s := common(t).in(t, deadline(t, time.Minute))
	s.role("lost-scope", kinds[0].roleBody())
	token := s.issue("lost-scope", nil)
	s.role("lost-scope", fields{"allowed_scopes": "stock:read", "default_scopes": "stock:read"})
	resp := s.answers(http.StatusBadRequest, "PUT", "sys/leases/renew", fields{"lease_id": token.LeaseID})
	if !errorNames(resp, "scopes") {
		t.Errorf("the error %q does not name the scope", resp.Errors())
	}
}

func TestRevoke(t *testing.T) {
	eachKind(t, nil, func(s *session, k kind, role string) {
		for _, r := range revokers {
			if r.opaque && !k.opaque {
				continue // a jwt has no record under tokens/
			}
			for _, roleGone := range []bool{false, true} {
				token := s.issue(role, nil)
				if roleGone {
					s.must("DELETE", "tokens/roles/"+role, nil)
				}
				s.wantActive(token)
				for range 2 { // the second time there is nothing left to do
					if err := r.revoke(s.ctx, s.server, token); err != nil {
						s.t.Fatalf("%s, role gone %t: %v", r.name, roleGone, err)
					}
					s.wantInactive(token.Data.Token)
				}
				// Its lease, which may still be there, ends without complaint.
				if err := revokers[0].revoke(s.ctx, s.server, token); err != nil {
					s.t.Fatalf("lease of a token revoked %s: %v", r.name, err)
				}
				s.answers(http.StatusBadRequest, "PUT", "sys/leases/lookup", fields{"lease_id": token.LeaseID})
				if roleGone {
					s.role(role, k.roleBody())
				}
			}
		}
	})
}

// A 204 would tell an operator that a leaked token is gone, when nothing was
// revoked.
func TestDeleteByIDThatRevokesNothingSaysSo(t *testing.T) {
	eachKind(t, nil, func(s *session, k kind, role string) {
		token := s.issue(role, nil)
		path := "tokens/tokens/" + token.Data.TokenID
		if k.opaque {
			s.answers(http.StatusNoContent, "DELETE", path, nil)
		}
		resp := s.answers(http.StatusOK, "DELETE", path, nil)
		if !strings.Contains(string(resp.Raw), "nothing was revoked") {
			s.t.Errorf("the answer does not say so: %s", resp.Raw)
		}
		if !k.opaque {
			s.wantActive(token)
		}
	})
}

func TestRenewAfterRevocationByPossession(t *testing.T) {
	s := common(t).in(t, deadline(t, time.Minute))
	s.role("possessed", kinds[1].roleBody())
	token := s.issue("possessed", nil)
	s.must("POST", "tokens/revoke", fields{"token": token.Data.Token})
	s.answers(http.StatusBadRequest, "PUT", "sys/leases/renew", fields{"lease_id": token.LeaseID})
	s.wantInactive(token.Data.Token)
}

func TestRevokeByPrefix(t *testing.T) {
	eachKind(t, nil, func(s *session, k kind, role string) {
		s.role("kept-by-"+role, k.roleBody())
		kept := s.issue("kept-by-"+role, nil)
		var gone []*issued
		for range 5 {
			gone = append(gone, s.issue(role, nil))
		}
		s.must("DELETE", "tokens/roles/"+role, nil)
		s.must("PUT", "sys/leases/revoke-prefix/tokens/creds/"+role, fields{"sync": true})
		for _, token := range gone {
			s.wantInactive(token.Data.Token)
		}
		s.wantActive(kept)
	})
}

func TestTokensDieWithTheirLogin(t *testing.T) {
	eachKind(t, nil, func(s *session, k kind, role string) {
		login, err := s.NewToken(s.ctx, "short-"+k.name, appPolicy+vaulttest.Policy("auth/token/revoke-self", "update"), "service", "1h")
		if err != nil {
			s.t.Fatal(err)
		}
		token, err := s.issueAt(s.ctx, s.Client(login), s.mount, role, nil)
		if err != nil {
			s.t.Fatal(err)
		}
		s.wantActive(token)
		if err := s.status(s.ctx, login, "POST", "auth/token/revoke-self", nil, http.StatusNoContent); err != nil {
			s.t.Fatal(err)
		}
		s.wantInactiveWithin(10*time.Second, token)
	})
}

func (s *session) wantInactiveWithin(limit time.Duration, token *issued) {
	s.t.Helper()
	err := vaulttest.Poll(s.ctx, limit, func() (bool, error) {
		active, err := s.activeAt(s.ctx, s.mount, token.Data.Token)
		return err == nil && !active, err
	})
	if err != nil {
		s.t.Fatalf("%s %s is still active: %v", token.Data.TokenType, token.Data.TokenID, err)
	}
}

func TestExpiry(t *testing.T) {
	t.Parallel()
	eachKind(t, nil, func(s *session, k kind, role string) {
		s.role(role+"-unleased", k.roleBody().with(fields{"generate_lease": false}))
		leased, unleased := s.issue(role, fields{"ttl": 3}), s.issue(role+"-unleased", fields{"ttl": 3})
		if unleased.LeaseID != "" || unleased.Data.ExpiresIn != 3 {
			s.t.Errorf("without a lease: lease_id %q, expires_in %d", unleased.LeaseID, unleased.Data.ExpiresIn)
		}
		for _, token := range []*issued{leased, unleased} {
			s.wantActive(token)
		}
		for _, token := range []*issued{leased, unleased} {
			s.wantInactiveWithin(15*time.Second, token)
			s.wantInactive(token.Data.Token) // and nothing else is said of it
			if now, exp := time.Now(), parseTime(s.t, token.Data.ExpiresAt); now.Before(exp) {
				s.t.Errorf("inactive %s before its expiry", exp.Sub(now))
			}
		}
		if !k.opaque {
			return
		}
		// Vault ends the lease by itself, and with it goes the record.
		err := vaulttest.Poll(s.ctx, 20*time.Second, func() (bool, error) {
			resp, err := s.Root().Do(s.ctx, "GET", "tokens/tokens/"+leased.Data.TokenID, nil)
			return err == nil && resp.Status == http.StatusNotFound, err
		})
		if err != nil {
			s.t.Errorf("the record of an expired lease stays: %v", err)
		}
	})
}

// TestOneTTL holds the token's life, the lease's and the answer to one number,
// whichever maximum is the smallest.
func TestOneTTL(t *testing.T) {
	server := common(t)
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
			s := server.in(t, deadline(t, time.Minute)).at(fmt.Sprintf("ttl%d", i))
			var mountConfig map[string]any
			if tc.mount != "" {
				mountConfig = map[string]any{"max_lease_ttl": tc.mount}
			}
			if err := s.Enable(s.ctx, s.mount, mountConfig); err != nil {
				t.Fatal(err)
			}
			for _, k := range kinds {
				body := fields{"token_type": k.name, "audiences": audiences, "allowed_scopes": "*"}
				if tc.ttl != "" {
					body["ttl"] = tc.ttl
				}
				if tc.roleMax != "" {
					body["max_ttl"] = tc.roleMax
				}
				s.role(k.name, body)
				s.role(k.name+"-unleased", body.with(fields{"generate_lease": false}))
			}
			config := fields{"issuer": s.issuer(s.mount)}
			if tc.configMax != "" {
				config["max_ttl"] = tc.configMax
			}
			s.must("POST", s.mount+"/config", config)
			for _, k := range kinds {
				token := s.issue(k.name, tc.body)
				s.wantTTL(token, tc.want)
				if token.LeaseDuration != tc.want {
					t.Errorf("%s: lease_duration is %d, want %d", k.name, token.LeaseDuration, tc.want)
				}
				s.wantLeaseAndTokenEndTogether(token)
				s.wantTTL(s.issue(k.name+"-unleased", tc.body), tc.want)
			}
		})
	}
}

func (s *session) wantTTL(token *issued, want int) {
	s.t.Helper()
	lives := parseTime(s.t, token.Data.ExpiresAt).Sub(parseTime(s.t, token.Data.IssuedAt))
	if token.Data.ExpiresIn != want || lives != time.Duration(want)*time.Second {
		s.t.Errorf("%s: expires_in is %d, expires_at %s after issued_at; want %d s", token.Data.Role, token.Data.ExpiresIn, lives, want)
	}
	data := s.introspect(token.Data.Token, nil)
	if exp, iat := data["exp"], data["iat"]; exp == nil || exp.(float64)-iat.(float64) != float64(want) {
		s.t.Errorf("%s: exp %v, iat %v; want %d s between them", token.Data.Role, exp, iat, want)
	}
}

// TestTuningTheMountCapsTheNextToken covers a maximum that is lowered while
// the plugin runs.
func TestTuningTheMountCapsTheNextToken(t *testing.T) {
	s := common(t).in(t, deadline(t, time.Minute)).at("tuned")
	if err := s.Enable(s.ctx, s.mount, nil); err != nil {
		t.Fatal(err)
	}
	s.role("app", fields{"token_type": "api_key", "ttl": "1h"})
	s.wantTTL(s.issue("app", nil), 3600)
	s.must("POST", "sys/mounts/"+s.mount+"/tune", fields{"max_lease_ttl": "10m"})
	var token *issued
	err := vaulttest.Poll(s.ctx, 5*time.Second, func() (bool, error) {
		token = s.issue("app", nil)
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
	eachKind(t, nil, func(s *session, k kind, role string) {
		batch, err := s.NewToken(s.ctx, "batch-"+k.name, appPolicy, "batch", "4s")
		if err != nil {
			s.t.Fatal(err)
		}
		token, err := s.issueAt(s.ctx, s.Client(batch), s.mount, role, nil)
		if err != nil {
			s.t.Fatal(err)
		}
		s.wantActive(token)
		s.wantInactiveWithin(20*time.Second, token)
	})
}

func TestRoles(t *testing.T) {
	s := common(t).in(t, deadline(t, time.Minute))
	s.role("Shop", fields{"token_type": "bearer", "allowed_scopes": "a,b", "default_scopes": "a", "max_tokens": 7})
	s.role("shop", fields{"token_type": "api_key"}) // another role: case matters
	want := map[string]any{
		"token_type": "bearer", "allowed_scopes": []any{"a", "b"}, "default_scopes": []any{"a"},
		"ttl": float64(3600), "max_ttl": float64(0), "audiences": []any{}, "subject": "",
		"claims": map[string]any{}, "claims_template": "", "key": "", "not_before_leeway": float64(0),
		"prefix": "vtb", "max_tokens": float64(7), "bound_cidrs": []any{}, "metadata": map[string]any{},
		"generate_lease": true,
	}
	check := func(when string) {
		t.Helper()
		got := s.must("GET", "tokens/roles/Shop", nil).Data()
		wantKeys(t, "role", got, slices.Sorted(maps.Keys(want))...)
		for name := range want {
			if fmt.Sprint(got[name]) != fmt.Sprint(want[name]) {
				t.Errorf("%s: %s is %v, want %v", when, name, got[name], want[name])
			}
		}
	}
	check("as created")
	s.role("Shop", fields{"ttl": "5m"})
	want["ttl"] = float64(300)
	check("after a write that names one field")
	s.must("PATCH", "tokens/roles/Shop", fields{"max_tokens": nil, "generate_lease": false})
	want["max_tokens"], want["generate_lease"] = float64(0), false
	check("after a patch with null")
	s.role("Shop", fields{"token_type": "bearer", "metadata": map[string]string{"k": "v"}})
	want["metadata"] = map[string]any{"k": "v"}
	check("after a write that repeats token_type")

	keys := fmt.Sprint(s.must("LIST", "tokens/roles", nil).Data()["keys"])
	if !strings.Contains(keys, "Shop") || !strings.Contains(keys, "shop") {
		t.Errorf("list is %s", keys)
	}
	s.must("DELETE", "tokens/roles/Shop", nil)
	s.answers(http.StatusNotFound, "GET", "tokens/roles/Shop", nil)
	s.answers(http.StatusNoContent, "DELETE", "tokens/roles/Shop", nil)
	s.must("GET", "tokens/roles/shop", nil)
}

func TestRoleWarnsOfCaps(t *testing.T) {
	s := common(t).in(t, deadline(t, time.Minute)).at("warned")
	if err := s.Enable(s.ctx, s.mount, map[string]any{"max_lease_ttl": "20m"}); err != nil {
		t.Fatal(err)
	}
	resp := s.role("long", fields{"token_type": "bearer", "ttl": "1h", "max_ttl": "2h"})
	for _, name := range []string{"ttl", "max_ttl"} {
		if !slices.ContainsFunc(resp.Warnings(), func(w string) bool { return strings.HasPrefix(w, name+" ") }) {
			t.Errorf("no warning about %s: %q", name, resp.Warnings())
		}
	}
}

func TestTokenRecords(t *testing.T) {
	s := common(t).in(t, deadline(t, time.Minute)).at("records")
	if err := s.Enable(s.ctx, s.mount, nil); err != nil {
		t.Fatal(err)
	}
	s.role("app", kinds[0].roleBody())
	ids := map[string]bool{}
	var last *issued
	for range 7 {
		last = s.issue("app", nil)
		ids[last.Data.TokenID] = true
	}
	listed := map[string]bool{}
	after := ""
	for page := 1; len(listed) < 7 && page <= 7; page++ {
		resp := s.must("LIST", s.mount+"/tokens?limit=3&after="+after, nil)
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
	record := s.must("GET", s.mount+"/tokens/"+last.Data.TokenID, nil)
	for name, want := range map[string]any{
		"token_id": last.Data.TokenID, "token_type": "api_key", "role": "app", "scope": last.Data.Scope,
		"issued_at": last.Data.IssuedAt, "expires_at": last.Data.ExpiresAt,
		"client_id": s.entity, "entity_id": s.entity, "display_name": "userpass-app",
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
	s := common(t).in(t, deadline(t, time.Minute))
	s.role("capped", fields{"token_type": "api_key", "max_tokens": 2})
	first, _ := s.issue("capped", nil), s.issue("capped", nil)
	resp := s.answers(http.StatusBadRequest, "GET", "tokens/creds/capped", nil)
	if !strings.Contains(fmt.Sprint(resp.Errors()), "max_tokens") {
		t.Errorf("the error %q does not name max_tokens", resp.Errors())
	}
	s.must("POST", "tokens/revoke", fields{"token": first.Data.Token})
	s.issue("capped", nil)
	s.answers(http.StatusBadRequest, "GET", "tokens/creds/capped", nil)
}

func TestIdentityTemplates(t *testing.T) {
	s := common(t).in(t, deadline(t, time.Minute))
	s.must("POST", "identity/entity/id/"+s.entity, fields{"metadata": map[string]string{"tenant": `acme "east"`}})
	for _, k := range kinds {
		body := k.roleBody().with(fields{"subject": "{{identity.entity.metadata.tenant}}/{{identity.entity.id}}"})
		if !k.opaque {
			body["claims"] = map[string]any{"plan": "gold", "limits": map[string]any{"rate": 10}}
			body["claims_template"] = `{"tenant": {{identity.entity.metadata.tenant}}, "text": "of {{identity.entity.metadata.tenant}}"}`
		}
		s.role("templated-"+k.name, body)
		token := s.issue("templated-"+k.name, nil)
		want := `acme "east"/` + s.entity
		if sub := s.introspect(token.Data.Token, nil)["sub"]; sub != want {
			t.Errorf("%s: sub is %v, want %s", k.name, sub, want)
		}
		if k.opaque {
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

// TestRenderedClaimNames covers a claim whose name comes from the caller's own
// entity: there, too, the engine's claims are out of reach.
func TestRenderedClaimNames(t *testing.T) {
	s := common(t).in(t, deadline(t, time.Minute))
	s.role("named", kinds[2].roleBody().with(fields{"claims_template": `{"{{identity.entity.metadata.claim}}": 9999999999}`}))
	for name, want := range map[string]int{"level": http.StatusOK, "exp": http.StatusBadRequest, "Exp": http.StatusBadRequest, "": http.StatusBadRequest} {
		s.must("POST", "identity/entity/id/"+s.entity, fields{"metadata": map[string]string{"claim": name, "tenant": "acme"}})
		resp, err := s.Client(s.app).Do(s.ctx, "GET", "tokens/creds/named", nil)
		if err != nil {
			t.Fatal(err)
		}
		s.secrets.Add(resp.String("token"), "creds/named")
		if resp.Status != want || want != http.StatusOK && !errorNames(resp, "claims_template") {
			t.Errorf("a claim named %q: %d %q, want %d", name, resp.Status, resp.Errors(), want)
		}
	}
}

func TestKeysOfEveryAlgorithm(t *testing.T) {
	s := common(t).in(t, deadline(t, 2*time.Minute)).at("keys")
	if err := s.Enable(s.ctx, s.mount, nil); err != nil {
		t.Fatal(err)
	}
	if err := s.setIssuer(s.mount); err != nil {
		t.Fatal(err)
	}
	for _, algorithm := range []string{"ES256", "ES384", "EdDSA", "RS256", "PS256"} {
		key := "Key-" + algorithm
		s.must("POST", s.mount+"/keys/"+key, fields{"algorithm": algorithm})
		s.role(algorithm, kinds[2].roleBody().with(fields{"key": key}))
		token := s.issue(algorithm, nil)
		header, _ := s.verifyOffline(token.Data.Token)
		if header["alg"] != algorithm {
			t.Errorf("alg is %v, want %s", header["alg"], algorithm)
		}
		s.wantActive(token)
		read := s.must("GET", s.mount+"/keys/"+key, nil)
		if text := string(read.Raw); read.String("algorithm") != algorithm || !strings.Contains(text, "PUBLIC KEY") || strings.Contains(text, "PRIVATE") {
			t.Errorf("key reads %s", text)
		}
		if !strings.Contains(string(read.Raw), header["kid"].(string)) {
			t.Errorf("key does not show the kid %v", header["kid"])
		}
		s.must("POST", "tokens/revoke", fields{"token": token.Data.Token}) // of another mount: does nothing
		s.wantActive(token)
		s.must("POST", s.mount+"/revoke", fields{"token": token.Data.Token})
		s.wantInactive(token.Data.Token)
	}
	s.checkKeySet(5)

	s.must("POST", s.mount+"/keys/unused", nil)
	s.checkKeySet(6)
	s.must("DELETE", s.mount+"/keys/unused", nil)
	s.answers(http.StatusNotFound, "GET", s.mount+"/keys/unused", nil)
	s.checkKeySet(5)
}

// checkKeySet holds the published keys to the versions of all named keys, of
// which there are want, and each kid to RFC 7638.
func (s *session) checkKeySet(want int) {
	s.t.Helper()
	names, _ := s.must("LIST", s.mount+"/keys", nil).Data()["keys"].([]any)
	if len(names) != want {
		s.t.Errorf("there are %d keys, want %d", len(names), want)
	}
	var versions, published []string
	for _, name := range names {
		list, _ := s.must("GET", fmt.Sprintf("%s/keys/%s", s.mount, name), nil).Data()["versions"].([]any)
		for _, v := range list {
			version, _ := v.(map[string]any)
			versions = append(versions, fmt.Sprint(version["kid"]))
		}
	}
	jwks, err := s.Anonymous().Must(s.ctx, "GET", s.mount+"/jwks", nil)
	if err != nil {
		s.t.Fatal(err)
	}
	var set struct {
		Keys []jwk `json:"keys"`
	}
	decode(s.t, jwks.Raw, &set)
	for _, key := range set.Keys {
		published = append(published, key.KeyID)
		if key.KeyID != key.thumbprint() {
			s.t.Errorf("%s: kid %s is not the thumbprint %s", key.Algorithm, key.KeyID, key.thumbprint())
		}
	}
	slices.Sort(versions)
	slices.Sort(published)
	if len(versions) < want || !slices.Equal(versions, published) {
		s.t.Errorf("published are %q, the keys' versions are %q", published, versions)
	}
	if strings.Contains(string(jwks.Raw), `"d"`) {
		s.t.Error("the key set holds a private half")
	}
}

// TestTokensOfAnotherMount makes sure that a mount answers for its own tokens
// only, though all of them are signed by the same engine.
func TestTokensOfAnotherMount(t *testing.T) {
	s := common(t).in(t, deadline(t, time.Minute))
	other := s.at("elsewhere")
	if err := s.Enable(s.ctx, other.mount, nil); err != nil {
		t.Fatal(err)
	}
	if err := s.setIssuer(other.mount); err != nil {
		t.Fatal(err)
	}
	for _, k := range kinds {
		other.role("app", k.roleBody())
		token := other.issue("app", nil)
		other.wantActive(token)
		s.wantInactive(token.Data.Token)
		other.must("DELETE", other.mount+"/roles/app", nil)
	}
}
