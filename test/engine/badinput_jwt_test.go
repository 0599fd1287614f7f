package engine

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/vault-tokens/vault-plugin-secrets-tokens/test/vaulttest"
)

// The fixtures of this table: key used, of role jwt; key closed, which allows
// the roles closed-* only; roles jwt and opaque; list, the status list of jwt.
func badJWTInputs(list string) []badInput {
	return slices.Concat(badRotations(), badRotationPeriods(), badAllowedRoles(), badConfirmations(), badStatusSettings(),
		badStatusLists(list), badDiscovery(), badClaims())
}

func badRotations() []badInput {
	rotate := func(name string, body any, field string) badInput {
		return badInput{"rotate: " + name, "POST", "keys/used/rotate", body, 400, field}
	}
	return []badInput{
		rotate("force is no bool", fields{"force": "perhaps"}, "force"),
		rotate("force is a number", fields{"force": 2}, "force"),
		rotate("force is a list", fields{"force": []bool{true}}, "force"),
		rotate("force is null", fields{"force": nil}, "force"),
		rotate("the next version is young", nil, "force"),
		rotate("the next version is young, and nobody insists", fields{"force": false}, "force"),
		rotate("unknown field", fields{"emergency": true}, "emergency"),
		rotate("field in another case", fields{"Force": true}, "Force"),
		rotate("algorithm", fields{"algorithm": "RS256"}, "algorithm"),
		rotate("verification_ttl, as of Vault's own keys", fields{"verification_ttl": 0}, "verification_ttl"),
		rotate("name in the body", fields{"name": "other"}, "name"),
		{"rotate: no such key", "POST", "keys/missing/rotate", nil, 400, "name"},
		{"rotate-emergency: no such key", "POST", "keys/missing/rotate-emergency", nil, 400, "name"},
		{"rotate-emergency: unknown field", "POST", "keys/used/rotate-emergency", fields{"force": true}, 400, "force"},
		{"rotate-emergency: a name that is none", "POST", "keys/%20/rotate-emergency", nil, 400, "name"},
		{"rotate-emergency: read", "GET", "keys/used/rotate-emergency", nil, 405, ""},
		{"rotate-emergency: delete", "DELETE", "keys/used/rotate-emergency", nil, 405, ""},
		{"rotate: a name that is none", "POST", "keys/%20/rotate", nil, 400, "name"},
		{"rotate: a long name", "POST", "keys/" + strings.Repeat("k", 129) + "/rotate", nil, 400, "name"},
		{"rotate: read", "GET", "keys/used/rotate", nil, 405, ""},
		{"rotate: delete", "DELETE", "keys/used/rotate", nil, 405, ""},
		{"keys: used by a role", "DELETE", "keys/used", nil, 400, "name"},
		{"keys: the algorithm of a version", "POST", "keys/used", fields{"algorithm": "Ed25519"}, 400, "algorithm"},
	}
}

func badRotationPeriods() []badInput {
	var rows []badInput
	for name, period := range map[string]any{
		"a second": 1, "a minute": "1m", "just too short": "1499s", "negative": -1, "negative text": "-24h", "no duration": "monthly",
		"empty": "", "fraction": 600.5, "list": []int{600}, "object": fields{"days": 30}, "bool": true, "null": nil, "beyond a century": "100000d",
		"infinity": "Infinity", "huge": huge,
	} {
		rows = append(rows,
			badInput{"keys: rotation_period " + name, "POST", "keys/new", fields{"rotation_period": period}, 400, "rotation_period"},
			badInput{"keys: rotation_period of a key that exists, " + name, "POST", "keys/used", fields{"rotation_period": period}, 400, "rotation_period"})
	}
	for name, algorithm := range map[string]string{
		"ed25519": "ed25519", "Ed448": "Ed448", "HS512": "HS512", "ES256K": "ES256K", "none": "NONE", "with a space": "ES256 ",
	} {
		rows = append(rows, badInput{"keys: unknown algorithm " + name, "POST", "keys/new", fields{"algorithm": algorithm, "rotation_period": "24h"}, 400, "algorithm"})
	}
	return rows
}

func badAllowedRoles() []badInput {
	many := make([]string, 101)
	for i := range many {
		many[i] = fmt.Sprintf("role-%d", i)
	}
	var rows []badInput
	for name, roles := range map[string]any{
		"with a space": []string{"a b"}, "with a slash": []string{"a/b"}, "with a question mark": []string{"a?"}, "unicode": []string{"größe"},
		"empty entry": []string{""}, "too many": many, "too long": []string{strings.Repeat("a", 129)}, "number": 5, "object": fields{"a": 1},
		"bool": true, "null": nil, "null among them": []any{"a", nil}, "list of lists": [][]string{{"a"}}, "control character": []string{"a\u0007"},
	} {
		rows = append(rows, badInput{"keys: allowed_roles " + name, "POST", "keys/new", fields{"allowed_roles": roles}, 400, "allowed_roles"})
	}
	jwt := vaulttest.JWT.RoleBody()
	return append(rows,
		badInput{"role: key does not allow it", "POST", "roles/bad-new", jwt.With(fields{"key": "closed"}), 400, "key"},
		badInput{"role: key does not allow it, as default does", "POST", "roles/jwt", fields{"key": "closed"}, 400, "key"},
		badInput{"role: key does not allow another case", "POST", "roles/Closed-new", jwt.With(fields{"key": "closed"}), 400, "key"},
		badInput{"role: key that is not there", "POST", "roles/bad-new", jwt.With(fields{"key": "missing"}), 400, "key"},
		badInput{"creds: key allows the role no more", "GET", "creds/closed-out", nil, 400, "key"},
	)
}

func badConfirmations() []badInput {
	thumbprint := strings.Repeat("A", 43)
	var rows []badInput
	for name, cnf := range map[string]any{
		"jkt too short":           fields{"jkt": thumbprint[1:]},
		"jkt too long":            fields{"jkt": thumbprint + "A"},
		"jkt with padding":        fields{"jkt": thumbprint + "="},
		"jkt in standard base64":  fields{"jkt": "+/" + thumbprint[2:]},
		"jkt with stray bits":     fields{"jkt": thumbprint[1:] + "B"}, // encodes nothing: 43 characters hold two bits too many
		"jkt in hex":              fields{"jkt": strings.Repeat("ab", 32)},
		"jkt empty":               fields{"jkt": ""},
		"jkt with a newline":      fields{"jkt": thumbprint[1:] + "\n"},
		"jkt huge":                fields{"jkt": huge},
		"jkt null":                fields{"jkt": nil},
		"jkt is a number":         fields{"jkt": 5},
		"jkt is a list":           fields{"jkt": []string{thumbprint}},
		"x5t too short":           fields{"x5t#S256": "abc"},
		"x5t with colons":         fields{"x5t#S256": "AA:BB:CC"},
		"SHA-1 of a certificate":  fields{"x5t": thumbprint},
		"key itself":              fields{"jwk": fields{"kty": "oct"}},
		"key id":                  fields{"kid": "me"},
		"member in another case":  fields{"JKT": thumbprint},
		"unknown member as well":  fields{"jkt": thumbprint, "other": thumbprint},
		"text":                    thumbprint,
		"list":                    []string{thumbprint},
		"number":                  5,
		"bool":                    true,
		"null":                    nil,
		"JSON in text, bad inner": `{"jkt":"abc"}`,
	} {
		rows = append(rows,
			badInput{"creds: cnf of a JWT, " + name, "POST", "creds/jwt", fields{"cnf": cnf}, 400, "cnf"},
			badInput{"creds: cnf of an opaque token, " + name, "POST", "creds/opaque", fields{"cnf": cnf}, 400, "cnf"})
	}
	return append(rows,
		badInput{"role: cnf", "POST", "roles/jwt", fields{"cnf": fields{"jkt": thumbprint}}, 400, "cnf"},
		badInput{"creds: cnf in the URL", "GET", "creds/jwt?cnf=x", nil, 400, "cnf"},
	)
}

func badStatusSettings() []badInput {
	var rows []badInput
	for field, values := range map[string]map[string]any{
		"status_list_ttl": {"zero": 0, "too long": "2h", "negative": -5, "text": "soon", "fraction": 1.5, "list": []int{5}, "null": nil, "beyond int64": "9999999999999h"},
		"status_list_lifetime": {
			"zero": 0, "too short": "59s", "too long": "25h", "negative": -1, "text": "a day", "null": nil, "object": fields{},
		},
	} {
		for name, value := range values {
			rows = append(rows, badInput{"config: " + field + " " + name, "POST", "config", fields{field: value}, 400, field})
		}
	}
	return append(rows,
		badInput{"config: ttl above half the lifetime", "POST", "config", fields{"status_list_ttl": "40m"}, 400, "status_list_lifetime"},
		badInput{"config: lifetime below twice the ttl", "POST", "config", fields{"status_list_ttl": "10m", "status_list_lifetime": "15m"}, 400, "status_list_lifetime"},
		badInput{"config: bits", "POST", "config", fields{"status_list_bits": 8}, 400, "status_list_bits"},
	)
}

func badStatusLists(list string) []badInput {
	swapped := strings.Map(func(r rune) rune {
		switch {
		case 'a' <= r && r <= 'z':
			return r - 'a' + 'A'
		case 'A' <= r && r <= 'Z':
			return r - 'A' + 'a'
		}
		return r
	}, list)
	var rows []badInput
	for name, id := range map[string]string{
		"that does not exist": strings.Repeat("0", 22), "short": list[1:], "long": list + "0", "one letter": "x", "huge": strings.Repeat("0", 8000),
		"in another case": swapped, "with a dot": list[:21] + ".", "with a suffix": list + ".jwt", "unicode": "%C3%A9", "a path": list + "/0",
		"a parent": "%2e%2e%2fconfig", "space": "%20" + list[1:],
	} {
		rows = append(rows, badInput{"status: list " + name, "GET", "status/" + id, nil, 404, ""})
	}
	return append(rows,
		badInput{"status: list with a NUL", "GET", "status/" + list[:21] + "%00", nil, 400, ""}, // by Vault
		badInput{"status: no list, with a slash", "GET", "status/", nil, 404, ""},
		badInput{"status: write", "POST", "status/" + list, nil, 405, ""},
		badInput{"status: write a field", "POST", "status/" + list, fields{"bits": 8}, 400, "bits"},
		badInput{"status: delete", "DELETE", "status/" + list, nil, 405, ""},
		badInput{"status: list of lists", "LIST", "status", nil, 404, ""},
	)
}

func badDiscovery() []badInput {
	var rows []badInput
	for _, name := range []string{"openid-configuration", "oauth-authorization-server"} {
		path := ".well-known/" + name
		rows = append(rows,
			badInput{path + ": without an issuer", "GET", "../bad-discovery/" + path, nil, 404, ""},
			badInput{path + ": write", "POST", path, nil, 405, ""},
			badInput{path + ": delete", "DELETE", path, nil, 405, ""},
			badInput{path + ": something below", "GET", path + "/x", nil, 404, ""})
	}
	return append(rows,
		badInput{".well-known: nothing", "GET", ".well-known", nil, 404, ""},
		badInput{".well-known: another document", "GET", ".well-known/jwks.json", nil, 404, ""},
		badInput{".well-known: the dot is one", "GET", "xwell-known/openid-configuration", nil, 404, ""},
		badInput{"creds: JWT without an issuer", "GET", "../bad-discovery/creds/jwt", nil, 400, "issuer"},
	)
}

func badClaims() []badInput {
	jwt := vaulttest.JWT.RoleBody()
	deep := strings.Repeat(`{"a":`, 2000) + "1" + strings.Repeat("}", 2000)
	return []badInput{
		{"claims: over-long", "POST", "roles/bad-new", jwt.With(fields{"claims": fields{"a": strings.Repeat("x", 9000)}}), 400, "claims"},
		{"claims: over-long by many", "POST", "roles/bad-new", jwt.With(fields{"claims": manyClaims(900)}), 400, "claims"},
		{"claims: deep and long", "POST", "roles/bad-new", jwt.With(fields{"claims": deep}), 400, "claims"},
		{"claims_template: over-long", "POST", "roles/bad-new", jwt.With(fields{"claims_template": `{"a":"` + strings.Repeat("x", 9000) + `"}`}), 400, "claims_template"},
		{"claims: status", "POST", "roles/bad-new", jwt.With(fields{"claims": fields{"status": fields{"status_list": fields{"idx": 0, "uri": "https://other.example.com"}}}}), 400, "claims"},
		{"claims: cnf", "POST", "roles/bad-new", jwt.With(fields{"claims": fields{"cnf": fields{"jkt": strings.Repeat("A", 43)}}}), 400, "claims"},
		{"claims_template: status", "POST", "roles/bad-new", jwt.With(fields{"claims_template": `{"status":{}}`}), 400, "claims_template"},
		{"claims_template: a field that is none", "POST", "roles/bad-new", jwt.With(fields{"claims_template": `{"a":{{identity.entity.email}}}`}), 400, "claims_template"},
		{"claims_template: a noun that is none", "POST", "roles/bad-new", jwt.With(fields{"claims_template": `{"a":{{request.path}}}`}), 400, "claims_template"},
		{"claims_template: rendered, over-long", "GET", "creds/grows", nil, 400, "claims_template"},
		{"claims_template: metadata that nobody has", "GET", "creds/unrendered", nil, 400, "claims_template"},
	}
}

func manyClaims(n int) fields {
	claims := fields{}
	for i := range n {
		claims[fmt.Sprintf("claim-%d", i)] = i
	}
	return claims
}

// TestBadJWTInput is TestBadInput for keys, status lists, discovery and what
// goes into a JWT. The requests come from an application with an entity where
// one is needed, else from root: never is a refusal one of policy.
func TestBadJWTInput(t *testing.T) {
	s := common(t, 2*time.Minute).at("bad-jwt")
	caller, list := s.setUpBadJWTInput()
	before, published := s.everythingIn(s.Mount), s.published()
	rows := badJWTInputs(list)
	names := map[string]bool{}
	for _, row := range rows {
		if names[row.name] {
			t.Errorf("two rows are called %q", row.name)
		}
		names[row.name] = true
		as := s
		if row.method == "GET" && strings.HasPrefix(row.path, "creds/") {
			as = s.asCaller(caller)
		}
		if problem := as.refuses(row); problem != "" {
			t.Errorf("%s: %s %s: %s", row.name, row.method, clip(row.path), problem)
			s.Must("DELETE", s.Mount+"/roles/bad-new", nil)
			s.Must("DELETE", s.Mount+"/keys/new", nil)
		}
	}
	after := s.everythingIn(s.Mount)
	for path := range after {
		if after[path] != before[path] {
			t.Errorf("a refused request changed %s from %q to %q", path, before[path], after[path])
		}
	}
	if len(after) != len(before) {
		t.Errorf("refused requests left %d things written, %d were", len(after), len(before))
	}
	if now := s.published(); len(now) != len(published) {
		t.Errorf("refused requests left %d keys published, %d were", len(now), len(published))
	}
	t.Logf("%d bad inputs", len(rows))
}

// asCaller is the same session where root's requests are made with another
// Vault token.
func (s *session) asCaller(token string) *session {
	vault := *s.Server
	vault.RootToken = token
	server := *s.Deployment
	server.Server = &vault
	return in(s.T, &server, s.Ctx).at(s.Mount)
}

func (s *session) setUpBadJWTInput() (caller, list string) {
	s.T.Helper()
	for _, mount := range []string{s.Mount, "bad-discovery"} {
		if err := s.Enable(s.Ctx, mount, nil); err != nil {
			s.T.Fatal(err)
		}
	}
	if err := s.SetIssuer(s.Ctx, s.Mount); err != nil {
		s.T.Fatal(err)
	}
	s.at("bad-discovery").Role("jwt", vaulttest.JWT.RoleBody())
	s.Must("POST", s.Mount+"/keys/used", nil)
	s.Must("POST", s.Mount+"/keys/closed", nil)
	jwt := vaulttest.JWT.RoleBody()
	s.Role("jwt", jwt.With(fields{"key": "used"}))
	s.Role("opaque", vaulttest.Bearer.RoleBody())
	s.Role("closed-out", jwt.With(fields{"key": "closed"}))
	s.Must("POST", s.Mount+"/keys/closed", fields{"allowed_roles": "closed-in,closed-on*"})
	s.Role("unrendered", jwt.With(fields{"claims_template": `{"a": {{identity.entity.metadata.nobody_has_this}}}`}))
	long := strings.TrimSuffix(strings.Repeat("{{identity.entity.metadata.long}},", 100), ",")
	s.Role("grows", jwt.With(fields{"claims_template": `{"a": [` + long + `]}`}))

	caller, entity, err := s.NewUser(s.Ctx, "bad-jwt", vaulttest.Policy("+/creds/*", "read"))
	if err != nil {
		s.T.Fatal(err)
	}
	s.Must("POST", "identity/entity/id/"+entity, fields{"metadata": fields{"long": strings.Repeat("x", 500)}})
	place, err := placeOf(s.Issue("jwt", nil).Data.Token)
	if err != nil {
		s.T.Fatal(err)
	}
	return caller, place.List[strings.LastIndex(place.List, "/")+1:]
}

// everythingIn is all roles, keys and settings of a mount, by path.
func (s *session) everythingIn(mount string) map[string]string {
	s.T.Helper()
	all := map[string]string{}
	paths := []string{mount + "/config"}
	for _, noun := range []string{"roles", "keys"} {
		names, _ := s.Must("LIST", mount+"/"+noun, nil).Data()["keys"].([]any)
		for _, name := range names {
			paths = append(paths, fmt.Sprintf("%s/%s/%s", mount, noun, name))
		}
	}
	for _, path := range paths {
		all[path] = fmt.Sprint(s.Must("GET", path, nil).Data())
	}
	return all
}
