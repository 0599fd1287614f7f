package token

import (
	"encoding/json"
	"errors"
	"maps"
	"net/netip"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"testing"
	"testing/iotest"
	"time"

	"github.com/golang-jwt/jwt/v5"

	"github.com/vault-tokens/vault-plugin-secrets-tokens/backend/config"
	"github.com/vault-tokens/vault-plugin-secrets-tokens/backend/role"
	"github.com/vault-tokens/vault-plugin-secrets-tokens/backend/store/storetest"
	"github.com/vault-tokens/vault-plugin-secrets-tokens/backend/template"
	"github.com/vault-tokens/vault-plugin-secrets-tokens/verify/format"
)

func TestIssue(t *testing.T) {
	for _, tokenType := range role.TokenTypes() {
		t.Run(string(tokenType), func(t *testing.T) {
			f := newFixture(t)
			f.change(string(tokenType), func(r *role.Role) {
				r.BoundCIDRs = []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8")}
				r.Metadata = map[string]string{"team": "payments"}
			})
			issued := f.issue(string(tokenType))
			want := Record{
				ID: issued.ID, Prefix: issued.Prefix, SecretHash: issued.SecretHash,
				TokenType: tokenType, Role: string(tokenType), Scopes: []string{"orders:read"}, Audience: []string{"api", "web"},
				Subject: "entity-1", ClientID: "entity-1", EntityID: "entity-1", DisplayName: "approle-billing",
				Metadata: map[string]string{"team": "payments"}, BoundCIDRs: []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8")},
				IssuedAt: f.now, ExpiresAt: f.now.Add(issued.TTL), Ref: issued.Ref,
			}
			if !issued.HasBit() {
				t.Error("it has no bit in a status list")
			}
			if !reflect.DeepEqual(*issued.Record, want) || !format.ValidID(issued.ID) || !issued.Leased {
				t.Errorf("issued %+v, want %+v", *issued.Record, want)
			}
			ttl := map[role.TokenType]time.Duration{role.APIKey: 24 * time.Hour, role.Bearer: time.Hour, role.JWT: 15 * time.Minute}
			if issued.TTL != ttl[tokenType] {
				t.Errorf("lives for %s, want %s", issued.TTL, ttl[tokenType])
			}
			opaque, err := format.ParseOpaque(issued.Token.Reveal())
			if (err == nil) != tokenType.Opaque() || err == nil && opaque.ID != issued.ID {
				t.Errorf("as an opaque token: %v, %v", opaque, err)
			}
			if again := f.issue(string(tokenType)); again.ID == issued.ID || again.Token == issued.Token {
				t.Error("two tokens are the same")
			}
		})
	}
}

func TestClaims(t *testing.T) {
	f := newFixture(t)
	f.change("jwt", func(r *role.Role) {
		r.Claims = json.RawMessage(`{"tier":{"level":12345678901234567890}}`)
		r.ClaimsTemplate = `{"at": {{time.now}}}`
		r.BoundCIDRs = []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8")}
		r.AllowedMetadata = []string{"a"}
	})
	issued, err := f.Issue(f.ctx, f.storage, Request{Role: "jwt", Caller: caller, Cnf: &map[string]string{"jkt": strings.Repeat("A", 43)}, Metadata: map[string]string{"a": "b"}})
	if err != nil {
		t.Fatal(err)
	}
	_, payload, _ := strings.Cut(issued.Token.Reveal(), ".")
	payload, _, _ = strings.Cut(payload, ".")
	raw, err := jwt.NewParser().DecodeSegment(payload)
	if err != nil {
		t.Fatal(err)
	}
	var got, want map[string]any
	decode := func(text string, into *map[string]any) {
		t.Helper()
		decoder := json.NewDecoder(strings.NewReader(text))
		decoder.UseNumber()
		if err := decoder.Decode(into); err != nil {
			t.Fatal(err)
		}
	}
	at := func(seconds int64) string { return strconv.FormatInt(f.now.Unix()+seconds, 10) }
	decode(string(raw), &got)
	decode(`{
		"iss": "`+issuer+`", "sub": "entity-1", "aud": ["api", "web"], "client_id": "entity-1", "scope": "orders:read",
		"iat": `+at(0)+`, "nbf": `+at(-30)+`, "exp": `+at(900)+`, "jti": "`+issued.ID+`",
		"cnf": {"jkt": "`+strings.Repeat("A", 43)+`"}, "bound_cidrs": ["10.0.0.0/8"], "metadata": {"a": "b"},
		"tier": {"level": 12345678901234567890}, "at": `+at(0)+`
	}`, &want)
	status, _ := got["status"].(map[string]any)["status_list"].(map[string]any)
	if uri, _ := status["uri"].(string); !strings.HasPrefix(uri, issuer+"/status/") || len(status) != 2 {
		t.Errorf("status_list is %v", status)
	}
	delete(got, "status")
	if !reflect.DeepEqual(got, want) {
		t.Errorf("claims are\n%v, want\n%v", got, want)
	}
}

// A request narrows what the role gives, and widens nothing.
func TestGrants(t *testing.T) {
	list := func(entries ...string) *[]string { return &entries }
	ttl := func(d time.Duration) *time.Duration { return &d }
	many := make(map[string]string)
	for i := range 64 {
		many[strings.Repeat("k", i+1)] = "v"
	}
	for name, test := range map[string]struct {
		request Request
		want    func(i *Issued) bool
		field   string // that is refused; empty: none
	}{
		"fewer scopes":             {Request{Scopes: list("orders:write")}, func(i *Issued) bool { return slices.Equal(i.Scopes, []string{"orders:write"}) }, ""},
		"no scopes":                {Request{Scopes: list()}, func(i *Issued) bool { return len(i.Scopes) == 0 }, ""},
		"scope above the role":     {Request{Scopes: list("invoices:read")}, nil, "scopes"},
		"scope above the ceiling":  {Request{Scopes: list("orders:delete")}, nil, "scopes"},
		"pattern":                  {Request{Scopes: list("orders:*")}, nil, "scopes"},
		"no scope":                 {Request{Scopes: list("")}, nil, "scopes"},
		"one audience":             {Request{Audience: list("web")}, func(i *Issued) bool { return slices.Equal(i.Audience, []string{"web"}) }, ""},
		"another audience":         {Request{Audience: list("api", "other")}, nil, "audience"},
		"audience in another case": {Request{Audience: list("API")}, nil, "audience"},
		"no audience":              {Request{Audience: list()}, nil, "audience"},
		"audience twice":           {Request{Audience: list("api", "api")}, nil, "audience"},
		"metadata":                 {Request{Metadata: map[string]string{"a": "b"}}, func(i *Issued) bool { return maps.Equal(i.Metadata, map[string]string{"a": "b", "team": "payments"}) }, ""},
		"metadata of the role":     {Request{Metadata: map[string]string{"team": "other"}}, nil, "metadata"},
		"metadata in another case": {Request{Metadata: map[string]string{"Team": "other"}}, nil, "metadata"},
		"metadata of one's own":    {Request{Metadata: map[string]string{"b": "c"}}, nil, "metadata"},
		"as the role has it":       {Request{Metadata: map[string]string{"team": "payments"}}, nil, "metadata"},
		"too much with the role's": {Request{Metadata: many}, nil, "metadata"},
		"shorter":                  {Request{TTL: ttl(time.Minute)}, func(i *Issued) bool { return i.TTL == time.Minute }, ""},
		"shortest":                 {Request{TTL: ttl(time.Second)}, func(i *Issued) bool { return i.TTL == time.Second }, ""},
		"too short":                {Request{TTL: ttl(time.Second - 1)}, nil, "ttl"},
		"negative":                 {Request{TTL: ttl(-time.Hour)}, nil, "ttl"},
		"just as long":             {Request{TTL: ttl(10 * time.Minute)}, func(i *Issued) bool { return i.TTL == 10*time.Minute }, ""},
		"longer":                   {Request{TTL: ttl(10*time.Minute + 1)}, nil, "ttl"},
		"bound by DPoP":            {Request{Cnf: &map[string]string{"jkt": strings.Repeat("A", 43)}}, func(i *Issued) bool { return i.Cnf.JKT == strings.Repeat("A", 43) && i.Cnf.X5T == "" }, ""},
		"bound by both":            {Request{Cnf: &map[string]string{"jkt": strings.Repeat("A", 43), "x5t#S256": strings.Repeat("B", 42) + "A"}}, func(i *Issued) bool { return i.Cnf.X5T == strings.Repeat("B", 42)+"A" }, ""},
		"bound by nothing":         {Request{Cnf: &map[string]string{}}, nil, "cnf"},
		"bound by something else":  {Request{Cnf: &map[string]string{"jwk": strings.Repeat("A", 43)}}, nil, "cnf"},
		"bound by half":            {Request{Cnf: &map[string]string{"jkt": strings.Repeat("A", 43), "x5t#S256": ""}}, nil, "cnf"},
		"no such role":             {Request{Role: "never"}, nil, "role"},
	} {
		for _, tokenType := range role.TokenTypes() {
			t.Run(name+"/"+string(tokenType), func(t *testing.T) {
				f := newFixture(t)
				f.configure(func(c *config.Config) { c.AllowedScopes = []string{"orders:read", "orders:write"} })
				r := role.New("r", tokenType)
				r.AllowedScopes, r.DefaultScopes = []string{"orders:read", "orders:write", "orders:delete"}, []string{"orders:read"}
				r.Audiences, r.Metadata, r.TTL = []string{"api", "web"}, map[string]string{"team": "payments"}, 10*time.Minute
				r.AllowedMetadata = []string{"a", "k*", "Team"}
				// Written as before the ceiling was lowered.
				if err := f.roles.Put(f.ctx, f.storage, "r", r); err != nil {
					t.Fatal(err)
				}
				request := test.request
				request.Caller = caller
				if request.Role == "" {
					request.Role = "r"
				}
				before := f.storage.Writes.Load()
				issued, err := f.Issue(f.ctx, f.storage, request)
				wantMistake(t, "issue", err, test.field)
				if test.field != "" {
					if issued != nil || f.storage.Writes.Load() != before {
						t.Errorf("a refusal wrote the storage, or issued %v", issued)
					}
					return
				}
				if err == nil && (!test.want(issued) || !f.active(issued)) {
					t.Errorf("issued %+v, active %v", issued.Record, f.active(issued))
				}
			})
		}
	}
}

// The lowest of all maxima holds, and the ceiling as it is now.
func TestCeilings(t *testing.T) {
	for name, test := range map[string]struct {
		ttl, maxTTL, ceiling, mount time.Duration
		want, wantMax               time.Duration
	}{
		"role's ttl":      {time.Hour, 0, 0, 48 * time.Hour, time.Hour, 0},
		"mount's default": {0, 0, 0, 48 * time.Hour, 24 * time.Hour, 0},
		"mount's maximum": {72 * time.Hour, 0, 0, 48 * time.Hour, 48 * time.Hour, 0},
		"role's maximum":  {0, 2 * time.Hour, 0, 48 * time.Hour, 2 * time.Hour, 2 * time.Hour},
		"ceiling":         {4 * time.Hour, 5 * time.Hour, 3 * time.Hour, 48 * time.Hour, 3 * time.Hour, 3 * time.Hour},
		"role below it":   {4 * time.Hour, 5 * time.Hour, 6 * time.Hour, 48 * time.Hour, 4 * time.Hour, 5 * time.Hour},
	} {
		t.Run(name, func(t *testing.T) {
			f := newFixture(t)
			f.change("api_key", func(r *role.Role) { r.TTL, r.MaxTTL = test.ttl, test.maxTTL })
			f.configure(func(c *config.Config) { c.MaxTTL = test.ceiling })
			f.system.MaxLeaseTTLVal = test.mount
			f.restart()
			issued := f.issue("api_key")
			if issued.TTL != test.want || issued.MaxTTL != test.wantMax || !issued.ExpiresAt.Equal(f.now.Add(test.want)) {
				t.Errorf("lives for %s of at most %s until %s, want %s of %s", issued.TTL, issued.MaxTTL, issued.ExpiresAt, test.want, test.wantMax)
			}
		})
	}
	f := newFixture(t)
	f.configure(func(c *config.Config) { c.AllowedScopes = []string{"orders:write"} })
	_, err := f.Issue(f.ctx, f.storage, Request{Role: "bearer", Caller: caller})
	wantMistake(t, "a default scope above the ceiling", err, "scopes")
	f.configure(func(c *config.Config) { c.AllowedScopes, c.Issuer = []string{"*"}, "" })
	_, err = f.Issue(f.ctx, f.storage, Request{Role: "jwt", Caller: caller})
	wantMistake(t, "a JWT without an issuer", err, "issuer")
}

func TestCallerWithoutEntity(t *testing.T) {
	f := newFixture(t)
	root := template.Caller{DisplayName: "root"}
	issued, err := f.Issue(f.ctx, f.storage, Request{Role: "bearer", Caller: root})
	if err != nil || issued.Subject != "root" || issued.ClientID != "root" || issued.EntityID != "" {
		t.Errorf("issued %+v, %v", issued, err)
	}
	f.change("bearer", func(r *role.Role) { r.Subject = "{{identity.entity.id}}" })
	_, err = f.Issue(f.ctx, f.storage, Request{Role: "bearer", Caller: root})
	wantMistake(t, "a subject that the caller has not", err, "subject")
}

// A token whose issue failed was never handed out, and what is left of it
// counts for nothing.
func TestIssueOnFaults(t *testing.T) {
	puts := storetest.Fail("", storetest.Put)
	for _, name := range []string{"api_key", "jwt"} {
		for fault, inject := range map[string]func(f *fixture){
			"write refused":  func(f *fixture) { f.storage.Before(puts) },
			"reply lost":     func(f *fixture) { f.storage.After(puts) },
			"role unread":    func(f *fixture) { f.storage.Before(storetest.Fail("role/", storetest.Get)) },
			"config unread":  func(f *fixture) { f.storage.Before(storetest.Fail("config/", storetest.Get)) },
			"caller gone":    func(f *fixture) { f.ctx = cancelled() },
			"no randomness":  func(f *fixture) { f.random = iotest.ErrReader(errors.New("no entropy")); f.restart() },
			"little of that": func(f *fixture) { f.random = strings.NewReader("0123456789"); f.restart() },
		} {
			t.Run(name+"/"+fault, func(t *testing.T) {
				f := newFixture(t)
				f.restart() // so that nothing is in memory
				ctx, random := f.ctx, f.random
				inject(f)
				if issued, err := f.Issue(f.ctx, f.storage, Request{Role: name, Caller: caller}); err == nil {
					t.Errorf("issued %s", issued.ID)
				}
				f.storage.Heal()
				f.ctx, f.random = ctx, random
				if fault == "no randomness" || fault == "little of that" {
					f.restart()
				}
				if issued := f.issue(name); !f.active(issued) {
					t.Error("the next token is inactive")
				}
			})
		}
	}
}

// A JWT is never longer than what can be verified.
func TestLongestJWT(t *testing.T) {
	f := newFixture(t)
	f.change("jwt", func(r *role.Role) {
		r.Claims = json.RawMessage(`{"a":"` + strings.Repeat("<", 8000) + `"}`)
		r.ClaimsTemplate = `{"b":"` + strings.Repeat("<", 8000) + `"}`
	})
	issued, err := f.Issue(f.ctx, f.storage, Request{Role: "jwt", Caller: caller})
	if err != nil {
		wantMistake(t, "issue", err, "metadata")
		return
	}
	if len(issued.Token) > maxTokenLength || !f.active(issued) {
		t.Errorf("a JWT of %d bytes is active: %v", len(issued.Token), f.active(issued))
	}
}
