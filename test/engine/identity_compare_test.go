package engine

import (
	"errors"
	"fmt"
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

// TestBesideIdentityTokens holds the table of docs/verifying.md, which compares the
// engine with the identity tokens that Vault has built in, against both.
func TestBesideIdentityTokens(t *testing.T) {
	const section = "Beside Vault's own identity tokens"
	table, err := comparisonTable(suite.Read(t, "docs/verifying.md"), section)
	if err != nil {
		t.Fatal(err)
	}
	c := newComparison(common(t, 2*time.Minute))
	for _, feature := range slices.Sorted(maps.Keys(c.checks())) {
		if _, there := table[feature]; !there {
			t.Errorf("docs/verifying.md has no row %q", feature)
		}
	}
	for feature, says := range table {
		check, ok := c.checks()[feature]
		if !ok {
			t.Errorf("the row %q of docs/verifying.md says yes or no, and nothing checks it", feature)
			continue
		}
		t.Run(feature, func(t *testing.T) {
			c := *c
			c.session = c.sub(t)
			ours, theirs := check(&c)
			if says.ours != ours || says.theirs != theirs {
				t.Errorf("docs/verifying.md says %+v, but it is %+v", says, claim{ours, theirs})
			}
		})
	}
}

// claim is what a row says of the engine and of Vault's identity tokens.
type claim struct{ ours, theirs bool }

// comparisonTable reads the rows whose cells start with yes or no.
func comparisonTable(doc, section string) (map[string]claim, error) {
	_, text, found := strings.Cut(doc, "\n## "+section+"\n")
	if !found {
		return nil, fmt.Errorf("no section %q", section)
	}
	text, _, _ = strings.Cut(text, "\n## ")
	table, row := map[string]claim{}, regexp.MustCompile(`(?m)^\| (.+?) \| (yes|no)\b.*? \| (yes|no)\b.* \|$`)
	for _, m := range row.FindAllStringSubmatch(text, -1) {
		if _, twice := table[m[1]]; twice {
			return nil, fmt.Errorf("two rows %q", m[1])
		}
		table[m[1]] = claim{m[2] == "yes", m[3] == "yes"}
	}
	if len(table) == 0 {
		return nil, errors.New("the table has no rows")
	}
	return table, nil
}

// comparison is a key, a role and a caller on either side.
type comparison struct {
	*session
	caller string // Vault token with an entity, that may issue on both sides
	entity string
	number *int // of names that were given out
}

const (
	compareKey  = "identity/oidc/key/compare"
	compareRole = "identity/oidc/role/compare"
)

func newComparison(s *session) *comparison {
	s.T.Helper()
	c := &comparison{session: s.at("compare"), number: new(int)}
	if err := s.Enable(s.Ctx, c.Mount, nil); err != nil {
		s.T.Fatal(err)
	}
	if err := s.SetIssuer(s.Ctx, c.Mount); err != nil {
		s.T.Fatal(err)
	}
	c.Must("POST", c.Mount+"/keys/compare", nil)
	c.Role("compare", vaulttest.JWT.RoleBody().With(fields{"key": "compare"}))
	c.Must("POST", compareKey, fields{"algorithm": "ES256", "allowed_client_ids": "*"})
	c.Must("POST", compareRole, fields{"key": "compare", "ttl": "10m"})
	c.caller, c.entity = c.newCaller()
	return c
}

// newCaller logs in somebody new.
func (c *comparison) newCaller() (token, entity string) {
	c.T.Helper()
	*c.number++
	token, entity, err := c.NewUser(c.Ctx, fmt.Sprintf("compare-%d", *c.number), vaulttest.Policy("compare/creds/*", "read", "update")+
		vaulttest.Policy("identity/oidc/token/*", "read", "update"))
	if err != nil {
		c.T.Fatal(err)
	}
	return token, entity
}

// ours issues a JWT of the engine, by read unless body says otherwise.
func (c *comparison) ours(role string, body fields) (*issued, error) {
	return c.IssueAt(c.Ctx, c.Client(c.caller), c.Mount, role, body)
}

// theirs issues an identity token.
func (c *comparison) theirs(role string) (*vaulttest.Response, string, error) {
	resp, err := c.Client(c.caller).Must(c.Ctx, "GET", "identity/oidc/token/"+role, nil)
	if err != nil {
		return nil, "", err
	}
	token := resp.String("token")
	c.Secrets.Add(token, "an identity token")
	return resp, token, nil
}

// both issues one of each, and returns the tokens.
func (c *comparison) both() (ours, theirs string) {
	c.T.Helper()
	issued, err := c.ours("compare", nil)
	if err != nil {
		c.T.Fatal(err)
	}
	_, theirs, err = c.theirs("compare")
	if err != nil {
		c.T.Fatal(err)
	}
	return issued.Data.Token, theirs
}

func (c *comparison) parts(token string) (header, claims map[string]any) {
	c.T.Helper()
	parts := strings.Split(token, ".")
	if err := errors.Join(decodePart(parts[0], &header), decodePart(parts[1], &claims)); err != nil {
		c.T.Fatal(err)
	}
	return header, claims
}

// keySet is what a side publishes.
func (c *comparison) keySet(ours bool) []byte {
	c.T.Helper()
	path := map[bool]string{true: c.Mount + "/jwks", false: "identity/oidc/.well-known/keys"}[ours]
	resp, err := c.Anonymous().Must(c.Ctx, "GET", path, nil)
	if err != nil {
		c.T.Fatal(err)
	}
	return resp.Raw
}

func (c *comparison) verifies(token string, keySet []byte) bool {
	_, _, err := verifyJWT(token, keySet)
	return err == nil
}

func (c *comparison) theirsActive(token string) bool {
	c.T.Helper()
	active, ok := c.Must("POST", "identity/oidc/introspect", fields{"token": token}).Body["active"].(bool)
	if !ok {
		c.T.Fatal("identity/oidc/introspect has no active")
	}
	return active
}

func (c *comparison) oursActive(token string) bool {
	c.T.Helper()
	return c.Introspect(token, nil)["active"] == true
}

// there reports whether anybody may read a path.
func (c *comparison) there(path string) bool {
	c.T.Helper()
	resp, err := c.Anonymous().Do(c.Ctx, "GET", path, nil)
	if err != nil {
		c.T.Fatal(err)
	}
	return resp.Status == http.StatusOK
}

// takes reports whether a write succeeds.
func (c *comparison) takes(path string, body fields) bool {
	c.T.Helper()
	resp, err := c.Root().Do(c.Ctx, "POST", path, body)
	if err != nil {
		c.T.Fatal(err)
	}
	return resp.Status < http.StatusBadRequest
}

// signsWith reports whether either side makes keys of all of these algorithms.
func (c *comparison) signsWith(algorithms ...string) (ours, theirs bool) {
	ours, theirs = true, true
	for _, alg := range algorithms {
		ours = c.takes(c.Mount+"/keys/alg-"+alg, fields{"algorithm": alg}) && ours
		theirs = c.takes("identity/oidc/key/alg-"+alg, fields{"algorithm": alg}) && theirs
	}
	return ours, theirs
}

func (c *comparison) checks() map[string]func(c *comparison) (ours, theirs bool) {
	return map[string]func(c *comparison) (ours, theirs bool){
		"Signs with ES256, ES384, RS256, EdDSA": func(c *comparison) (bool, bool) {
			return c.signsWith("ES256", "ES384", "RS256", "EdDSA")
		},
		"Signs with PS256, Ed25519":                 func(c *comparison) (bool, bool) { return c.signsWith("PS256", "Ed25519") },
		"Signs with RS384, RS512, ES512":            func(c *comparison) (bool, bool) { return c.signsWith("RS384", "RS512", "ES512") },
		"RFC 9068 access token":                     (*comparison).accessToken,
		"Keys rotate by themselves":                 (*comparison).rotationPeriod,
		"The next key is published first":           (*comparison).nextPublished,
		"Old tokens outlive a rotation":             (*comparison).oldTokens,
		"The key that signs can be dropped at once": (*comparison).dropsSigning,
		"All versions can be dropped at once":       (*comparison).dropsAll,
		"OpenID Connect Discovery":                  (*comparison).openID,
		"RFC 8414 metadata":                         (*comparison).rfc8414,
		"Claims from a template":                    (*comparison).template,
		"An empty claim refuses the token":          (*comparison).emptyClaim,
		"Any subject":                               (*comparison).subject,
		"Callers without an entity":                 (*comparison).noEntity,
		"Scopes, TTL, audience by request":          (*comparison).byRequest,
		"Proof of possession":                       (*comparison).proof,
		"Introspection":                             (*comparison).introspection,
		"Introspection returns the claims":          (*comparison).introspectionClaims,
		"Introspection heeds the entity":            (*comparison).introspectionEntity,
		"A lease":                                   (*comparison).lease,
		"Ends with the caller's login":              (*comparison).login,
		"One token can be revoked":                  (*comparison).revocation,
		"Offline verifiers learn of it":             (*comparison).offline,
		"Opaque tokens too":                         (*comparison).opaque,
		"People log in to applications":             (*comparison).provider,
	}
}

func (c *comparison) accessToken() (ours, theirs bool) {
	is := func(token string) bool {
		header, claims := c.parts(token)
		for _, required := range []string{"iss", "exp", "aud", "sub", "client_id", "iat", "jti"} {
			if claims[required] == nil {
				return false
			}
		}
		return header["typ"] == "at+jwt"
	}
	mine, vaults := c.both()
	return is(mine), is(vaults)
}

func (c *comparison) rotationPeriod() (ours, theirs bool) {
	c.Must("POST", c.Mount+"/keys/rotates", fields{"rotation_period": "24h"})
	c.Must("POST", "identity/oidc/key/rotates", fields{"rotation_period": "24h"})
	return c.key("rotates").NextRotation != "",
		c.Must("GET", "identity/oidc/key/rotates", nil).Data()["rotation_period"] == float64(24*60*60)
}

// rotate rotates both keys.
func (c *comparison) rotate() {
	c.T.Helper()
	c.Must("POST", c.Mount+"/keys/compare/rotate", fields{"force": true})
	c.Must("POST", compareKey+"/rotate", nil)
}

func (c *comparison) nextPublished() (ours, theirs bool) {
	mySet, vaultsSet := c.keySet(true), c.keySet(false)
	c.rotate()
	mine, vaults := c.both()
	return c.verifies(mine, mySet), c.verifies(vaults, vaultsSet)
}

func (c *comparison) oldTokens() (ours, theirs bool) {
	mine, vaults := c.both()
	c.rotate()
	return c.verifies(mine, c.keySet(true)), c.verifies(vaults, c.keySet(false))
}

// drop rotates as for a key that leaked.
func (c *comparison) drop() {
	c.T.Helper()
	c.Must("POST", c.Mount+"/keys/compare/rotate-emergency", nil)
	c.Must("POST", compareKey+"/rotate", fields{"verification_ttl": 0})
}

func (c *comparison) dropsSigning() (ours, theirs bool) {
	mine, vaults := c.both()
	c.drop()
	return !c.verifies(mine, c.keySet(true)), !c.verifies(vaults, c.keySet(false))
}

func (c *comparison) dropsAll() (ours, theirs bool) {
	mine, vaults := c.both()
	c.rotate()
	c.drop()
	return !c.verifies(mine, c.keySet(true)), !c.verifies(vaults, c.keySet(false))
}

func (c *comparison) openID() (ours, theirs bool) {
	return c.there(c.Mount + "/.well-known/openid-configuration"), c.there("identity/oidc/.well-known/openid-configuration")
}

func (c *comparison) rfc8414() (ours, theirs bool) {
	return c.there(c.Mount + "/.well-known/oauth-authorization-server"), c.there("identity/oidc/.well-known/oauth-authorization-server")
}

// withTemplate gives both sides a role with a template, and returns what claim
// comes out; nil if none does.
func (c *comparison) withTemplate(name, template string) (ours, theirs any, errOurs, errTheirs error) {
	c.T.Helper()
	c.Role(name, vaulttest.JWT.RoleBody().With(fields{"claims_template": template}))
	c.Must("POST", "identity/oidc/role/"+name, fields{"key": "compare", "template": template})
	value := func(token string) any {
		_, claims := c.parts(token)
		return claims["rendered"]
	}
	issued, errOurs := c.ours(name, nil)
	if errOurs == nil {
		ours = value(issued.Data.Token)
	}
	_, token, errTheirs := c.theirs(name)
	if errTheirs == nil {
		theirs = value(token)
	}
	return ours, theirs, errOurs, errTheirs
}

func (c *comparison) template() (ours, theirs bool) {
	mine, vaults, errOurs, errTheirs := c.withTemplate("rendered", `{"rendered": {{identity.entity.id}}}`)
	if err := errors.Join(errOurs, errTheirs); err != nil {
		c.T.Fatal(err)
	}
	return mine == c.entity, vaults == c.entity
}

func (c *comparison) emptyClaim() (ours, theirs bool) {
	_, _, errOurs, errTheirs := c.withTemplate("unrendered", `{"rendered": {{identity.entity.metadata.nobody_has_this}}}`)
	return errOurs != nil, errTheirs != nil
}

func (c *comparison) subject() (ours, theirs bool) {
	c.Role("subject", vaulttest.JWT.RoleBody().With(fields{"subject": "orders-service"}))
	mine, err := c.ours("subject", nil)
	if err != nil {
		c.T.Fatal(err)
	}
	_, claims := c.parts(mine.Data.Token)
	// There is no field for it, and the template may not name it.
	theirs = c.takes("identity/oidc/role/subject", fields{"key": "compare", "template": `{"sub": "orders-service"}`})
	return claims["sub"] == "orders-service", theirs
}

func (c *comparison) noEntity() (ours, theirs bool) {
	token, err := c.NewToken(c.Ctx, "compare-no-entity", vaulttest.Policy("compare/creds/*", "read")+vaulttest.Policy("identity/oidc/token/*", "read"), "service", "1h")
	if err != nil {
		c.T.Fatal(err)
	}
	nobody := *c
	nobody.caller = token
	_, errOurs := nobody.ours("compare", nil)
	_, _, errTheirs := nobody.theirs("compare")
	return errOurs == nil, errTheirs == nil
}

func (c *comparison) byRequest() (ours, theirs bool) {
	narrow := fields{"scopes": "orders:read", "ttl": "1m", "audience": vaulttest.Audiences[:1]}
	issued, err := c.ours("compare", narrow)
	ours = err == nil && issued.Data.Scope == "orders:read" && issued.Data.ExpiresIn == 60 && len(issued.Data.Audience) == 1
	resp, err := c.Client(c.caller).Do(c.Ctx, "POST", "identity/oidc/token/compare", narrow)
	if err != nil {
		c.T.Fatal(err)
	}
	return ours, resp.Status == http.StatusOK
}

func (c *comparison) proof() (ours, theirs bool) {
	body := fields{"cnf": fields{"jkt": strings.Repeat("A", 43)}}
	issued, err := c.ours("compare", body)
	if err != nil {
		c.T.Fatal(err)
	}
	_, claims := c.parts(issued.Data.Token)
	resp, err := c.Client(c.caller).Do(c.Ctx, "POST", "identity/oidc/token/compare", body)
	if err != nil {
		c.T.Fatal(err)
	}
	return claims["cnf"] != nil, resp.Status == http.StatusOK
}

func (c *comparison) introspection() (ours, theirs bool) {
	mine, vaults := c.both()
	return c.oursActive(mine), c.theirsActive(vaults)
}

func (c *comparison) introspectionClaims() (ours, theirs bool) {
	mine, vaults := c.both()
	answer := c.Must("POST", "identity/oidc/introspect", fields{"token": vaults}).Body
	return c.Introspect(mine, nil)["exp"] != nil, answer["exp"] != nil
}

func (c *comparison) introspectionEntity() (ours, theirs bool) {
	disabled := *c
	disabled.caller, disabled.entity = c.newCaller()
	mine, vaults := disabled.both()
	c.Must("POST", "identity/entity/id/"+disabled.entity, fields{"disabled": true})
	return !c.oursActive(mine), !c.theirsActive(vaults)
}

func (c *comparison) lease() (ours, theirs bool) {
	issued, err := c.ours("compare", nil)
	if err != nil {
		c.T.Fatal(err)
	}
	resp, _, err := c.theirs("compare")
	if err != nil {
		c.T.Fatal(err)
	}
	return issued.LeaseID != "", resp.Body["lease_id"] != ""
}

func (c *comparison) login() (ours, theirs bool) {
	leaving := *c
	leaving.caller, leaving.entity = c.newCaller()
	mine, vaults := leaving.both()
	if _, err := c.Client(leaving.caller).Must(c.Ctx, "POST", "auth/token/revoke-self", nil); err != nil {
		c.T.Fatal(err)
	}
	// A login's leases are revoked behind its back.
	err := suite.Poll(c.Ctx, 10*time.Second, func() (bool, error) { return !c.oursActive(mine), nil })
	return err == nil, !c.theirsActive(vaults)
}

func (c *comparison) revocation() (ours, theirs bool) {
	mine, vaults := c.both()
	c.Must("POST", c.Mount+"/revoke", fields{"token": mine})
	theirs = c.takes("identity/oidc/revoke", fields{"token": vaults})
	return !c.oursActive(mine), theirs
}

func (c *comparison) offline() (ours, theirs bool) {
	mine, vaults := c.both()
	_, errOurs := placeOf(mine)
	_, errTheirs := placeOf(vaults)
	return errOurs == nil, errTheirs == nil
}

func (c *comparison) opaque() (ours, theirs bool) {
	c.Role("opaque", vaulttest.Bearer.RoleBody())
	issued, err := c.ours("opaque", nil)
	if err != nil {
		c.T.Fatal(err)
	}
	_, vaults := c.both()
	return opaqueShape.MatchString(issued.Data.Token), opaqueShape.MatchString(vaults)
}

func (c *comparison) provider() (ours, theirs bool) {
	authorizes := func(path string) bool {
		resp, err := c.Anonymous().Must(c.Ctx, "GET", path, nil)
		if err != nil {
			c.T.Fatal(err)
		}
		return resp.Body["authorization_endpoint"] != nil
	}
	return authorizes(c.Mount + "/.well-known/openid-configuration"), authorizes("identity/oidc/provider/default/.well-known/openid-configuration")
}
