package engine

import (
	"bytes"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/vault-tokens/vault-plugin-secrets-tokens/test/vaulttest"
)

// badInput is a request that must be refused, and how.
type badInput struct {
	name   string
	method string
	path   string // below the mount, or with ../ on another
	body   any
	status int
	// field is what the error names, as "<field>: <problem>". Empty where Vault
	// itself refuses, before the engine sees the request.
	field string
}

// huge is just under what Vault 1.21 takes as one string in JSON. A longer one,
// deeper nesting and JSON that is cut off are refused by Vault itself, with a
// 500, before the engine sees them.
var huge = strings.Repeat("E", 1<<20-8)

// silent is a bad token, for which introspection answers active=false and
// revocation 204: neither may tell why.
type silent struct {
	name  string
	token string
}

// The fixtures of the table: roles bad-api, bad-bearer, bad-jwt; key bad-key,
// used by bad-jwt; role bad-full, whose one token is taken.
func badInputs() []badInput {
	return slices.Concat(
		badRoles(), badRoleScopes(), badRoleTimes(), badRoleJWT(), badRoleOpaque(), badRoleLists(),
		badNames(), badPatches(), badConfig(), badCreds(), badIntrospections(), badRevocations(), badTokenIDs(), badKeys(), badBodies(),
	)
}

// create is a row that tries to create a role.
func create(name, kind string, body fields, field string) badInput {
	all := fields{"token_type": kind}
	if kind == "jwt" {
		all["audiences"] = vaulttest.Audiences
	}
	return badInput{"role: " + name, "POST", "roles/bad-new", all.With(body), 400, field}
}

func badRoles() []badInput {
	role := func(name string, body any, field string) badInput {
		return badInput{"role: " + name, "POST", "roles/bad-new", body, 400, field}
	}
	return []badInput{
		role("no token_type", fields{}, "token_type"),
		role("no body", nil, "token_type"),
		role("unknown token_type", fields{"token_type": "oauth"}, "token_type"),
		role("token_type in another case", fields{"token_type": "Bearer"}, "token_type"),
		role("token_type with a space", fields{"token_type": "bearer "}, "token_type"),
		role("token_type of another script", fields{"token_type": "bеarer"}, "token_type"), // Cyrillic е
		role("empty token_type", fields{"token_type": ""}, "token_type"),
		role("number as token_type", fields{"token_type": 5}, "token_type"),
		role("list as token_type", fields{"token_type": []string{"bearer"}}, "token_type"),
		role("null as token_type", fields{"token_type": nil}, "token_type"),
		role("huge token_type", fields{"token_type": huge}, "token_type"),
		role("unknown field", fields{"token_type": "bearer", "allowed_scope": "a"}, "allowed_scope"),
		role("unknown field beside a mistake", fields{"nonsense": 1}, "nonsense"),
		role("field in another case", fields{"token_type": "bearer", "TTL": "5m"}, "TTL"),
		role("name in the body", fields{"token_type": "bearer", "name": "other"}, "name"),
		role("unicode field", fields{"token_type": "bearer", "größe": 1}, "größe"),
		{"role: token_type changes", "POST", "roles/bad-bearer", fields{"token_type": "api_key"}, 400, "token_type"},
		{"role: token_type changes to jwt", "POST", "roles/bad-api", fields{"token_type": "jwt", "audiences": vaulttest.Audiences}, 400, "token_type"},
	}
}

func badRoleScopes() []badInput {
	many := make([]string, 10_000)
	for i := range many {
		many[i] = fmt.Sprintf("scope-%d", i)
	}
	bearer := func(name string, body fields, field string) badInput { return create(name, "bearer", body, field) }
	return []badInput{
		bearer("space in a scope", fields{"allowed_scopes": []string{"a b"}}, "allowed_scopes"),
		bearer("quote in a scope", fields{"allowed_scopes": []string{`a"b`}}, "allowed_scopes"),
		bearer("backslash in a scope", fields{"allowed_scopes": []string{`a\b`}}, "allowed_scopes"),
		bearer("unicode scope", fields{"allowed_scopes": []string{"bücher:lesen"}}, "allowed_scopes"),
		bearer("control character in a scope", fields{"allowed_scopes": []string{"a\u0007b"}}, "allowed_scopes"),
		bearer("empty scope", fields{"allowed_scopes": []string{"a", ""}}, "allowed_scopes"),
		bearer("scope twice", fields{"allowed_scopes": []string{"a", "a"}}, "allowed_scopes"),
		bearer("10,000 scopes", fields{"allowed_scopes": many}, "allowed_scopes"),
		bearer("scope of 100 kB", fields{"allowed_scopes": []string{strings.Repeat("a", 100_000)}}, "allowed_scopes"),
		bearer("object as scopes", fields{"allowed_scopes": fields{"a": 1}}, "allowed_scopes"),
		bearer("numbers as scopes", fields{"allowed_scopes": []int{1, 2}}, "allowed_scopes"),
		bearer("number as scopes", fields{"allowed_scopes": 1}, "allowed_scopes"),
		bearer("bool as scopes", fields{"allowed_scopes": true}, "allowed_scopes"),
		bearer("nested list of scopes", fields{"allowed_scopes": [][]string{{"a"}}}, "allowed_scopes"),
		bearer("null among scopes", fields{"allowed_scopes": []any{"a", nil}}, "allowed_scopes"),
		bearer("null as scopes", fields{"allowed_scopes": nil}, "allowed_scopes"),
		bearer("default outside of allowed", fields{"allowed_scopes": "a", "default_scopes": "a,b"}, "default_scopes"),
		bearer("default without allowed", fields{"default_scopes": "a"}, "default_scopes"),
		bearer("default with a wildcard", fields{"allowed_scopes": "*", "default_scopes": "orders:*"}, "default_scopes"),
		bearer("default in another case", fields{"allowed_scopes": "orders", "default_scopes": "Orders"}, "default_scopes"),
		bearer("null as default", fields{"allowed_scopes": "a", "default_scopes": nil}, "default_scopes"),
		{"role: allowed shrinks under default", "POST", "roles/bad-bearer", fields{"allowed_scopes": "stock:read"}, 400, "default_scopes"},
		{"role: scope above the mount's ceiling", "POST", "../capped/roles/bad-new", fields{"token_type": "bearer", "allowed_scopes": "*"}, 400, "allowed_scopes"},
	}
}

func badRoleTimes() []badInput {
	var rows []badInput
	for name, value := range map[string]any{
		"no number":                "abc",
		"empty":                    "",
		"negative":                 -1,
		"negative text":            "-5m",
		"beyond int64 hours":       "9999999999999h",
		"beyond int64 seconds":     json.Number("9223372036854775808"),
		"beyond nanoseconds":       json.Number("9223372036854775807"),
		"1e30":                     json.Number("1e30"),
		"1e30 as text":             "1e30",
		"a century too long":       "100000d",
		"unknown unit":             "5 fortnights",
		"fraction of a second":     "1.5s",
		"fraction as number":       1.5,
		"milliseconds":             "10ms",
		"NaN":                      "NaN",
		"infinity":                 "Infinity",
		"the sign for infinity":    "∞",
		"digits of another script": "１０m",
		"object":                   fields{"m": 5},
		"list":                     []int{5},
		"bool":                     true,
		"null":                     nil,
	} {
		rows = append(rows, create("ttl "+name, "bearer", fields{"ttl": value}, "ttl"), create("max_ttl "+name, "api_key", fields{"max_ttl": value}, "max_ttl"))
	}
	return append(rows,
		create("ttl above max_ttl", "bearer", fields{"ttl": "2h", "max_ttl": "1h"}, "ttl"),
		badInput{"role: max_ttl falls under ttl", "POST", "roles/bad-bearer", fields{"max_ttl": "1m"}, 400, "ttl"},
		create("leeway too long", "jwt", fields{"not_before_leeway": "1h"}, "not_before_leeway"),
		create("leeway negative", "jwt", fields{"not_before_leeway": "-1s"}, "not_before_leeway"),
		create("leeway of an opaque role", "bearer", fields{"not_before_leeway": "5s"}, "not_before_leeway"),
	)
}

func badRoleJWT() []badInput {
	jwt := func(name string, body fields, field string) badInput { return create(name, "jwt", body, field) }
	rows := []badInput{
		create("no audience", "jwt", fields{"audiences": []string{}}, "audiences"),
		jwt("claims are no JSON", fields{"claims": "not json"}, "claims"),
		jwt("a bracket behind claims", fields{"claims": `{"a":1}}`}, "claims"),
		jwt("rubbish behind claims", fields{"claims": `{"a":1}]garbage`}, "claims"),
		jwt("a claim twice", fields{"claims": `{"a":1,"a":2}`}, "claims"),
		jwt("a member twice further down", fields{"claims": `{"a":{"b":1,"b":2}}`}, "claims"),
		jwt("claims in two cases", fields{"claims": fields{"rank": 1, "RANK": 2}}, "claims"),
		jwt("claims that fold to one", fields{"claims": fields{"rank": 1, "ran\u212a": 2}}, "claims"),
		jwt("template of a claim in another case", fields{"claims": fields{"plan": 1}, "claims_template": `{"PLAN":2}`}, "claims_template"),
		jwt("template with a member twice", fields{"claims_template": `{"acl":{"tenant":"a","tenant":"b"}}`}, "claims_template"),
		jwt("template that is nested too deep", fields{"claims_template": strings.Repeat(`{"a":`, 33) + "1" + strings.Repeat("}", 33)}, "claims_template"),
		jwt("template with a directive as a name", fields{"claims_template": `{"{{identity.entity.name}}":1}`}, "claims_template"),
		jwt("template with a directive in a name", fields{"claims_template": `{"a":{"x{{identity.entity.name}}":1}}`}, "claims_template"),
		jwt("claims are cut off", fields{"claims": `{"a":1`}, "claims"),
		jwt("claims go on after the object", fields{"claims": `{"a":1} x`}, "claims"),
		jwt("two objects as claims", fields{"claims": `{"a":1}{"b":2}`}, "claims"),
		jwt("list as claims", fields{"claims": []int{1}}, "claims"),
		jwt("list as claims in text", fields{"claims": "[1]"}, "claims"),
		jwt("number as claims", fields{"claims": 5}, "claims"),
		jwt("null as claims", fields{"claims": nil}, "claims"),
		jwt("null as claims in text", fields{"claims": "null"}, "claims"),
		jwt("claims of 20 kB", fields{"claims": fields{"a": strings.Repeat("x", 20_000)}}, "claims"),
		jwt("claim without a name", fields{"claims": fields{"": 1}}, "claims"),
		jwt("claim with a control character", fields{"claims": fields{"a\u0000": 1}}, "claims"),
		jwt("template is no object", fields{"claims_template": "[]"}, "claims_template"),
		jwt("template is cut off", fields{"claims_template": `{"a":1`}, "claims_template"),
		jwt("template with an open directive", fields{"claims_template": `{"a":"{{identity.entity.name"}`}, "claims_template"),
		jwt("template with an unknown directive", fields{"claims_template": `{"a":{{identity.entity.password}}}`}, "claims_template"),
		jwt("template with a Go action", fields{"claims_template": `{"a":"{{printf \"%s\" .}}"}`}, "claims_template"),
		jwt("template with a bad time", fields{"claims_template": `{"a":{{time.now.plus.soon}}}`}, "claims_template"),
		jwt("template of 20 kB", fields{"claims_template": `{"a":"` + strings.Repeat("x", 20_000) + `"}`}, "claims_template"),
		jwt("template repeats a claim", fields{"claims": fields{"plan": 1}, "claims_template": `{"plan":2}`}, "claims_template"),
		jwt("number as template", fields{"claims_template": 5}, "claims_template"),
		jwt("null as template", fields{"claims_template": nil}, "claims_template"),
		jwt("key that is not there", fields{"key": "bad-missing"}, "key"),
		jwt("key with a slash", fields{"key": "../config"}, "key"),
		jwt("empty key", fields{"key": ""}, "key"),
		jwt("unicode key", fields{"key": "ключ"}, "key"),
		jwt("list as key", fields{"key": []string{"default"}}, "key"),
		jwt("prefix", fields{"prefix": "abc"}, "prefix"),
		jwt("max_tokens", fields{"max_tokens": 5}, "max_tokens"),
	}
	// Readers that compare names without case, such as Go's JSON decoder, would
	// take the last three for the engine's own.
	for _, reserved := range []string{
		"iss", "sub", "aud", "exp", "nbf", "iat", "jti", "client_id", "scope", "status", "cnf", "metadata", "bound_cidrs",
		"EXP", "Aud", "Client_ID", "iſs",
	} {
		rows = append(rows,
			jwt("reserved claim "+reserved, fields{"claims": fields{reserved: "x"}}, "claims"),
			jwt("reserved claim in a template "+reserved, fields{"claims_template": `{"` + reserved + `":"x"}`}, "claims_template"))
	}
	return rows
}

func badRoleOpaque() []badInput {
	rows := []badInput{
		create("claims", "bearer", fields{"claims": fields{"a": 1}}, "claims"),
		create("claims_template", "api_key", fields{"claims_template": `{"a":1}`}, "claims_template"),
		create("key", "bearer", fields{"key": "bad-key"}, "key"),
		create("max_tokens negative", "bearer", fields{"max_tokens": -1}, "max_tokens"),
		create("max_tokens fraction", "bearer", fields{"max_tokens": 1.5}, "max_tokens"),
		create("max_tokens text", "bearer", fields{"max_tokens": "many"}, "max_tokens"),
		create("max_tokens huge", "bearer", fields{"max_tokens": json.Number("1e30")}, "max_tokens"),
		create("max_tokens beyond int64", "bearer", fields{"max_tokens": json.Number("99999999999999999999")}, "max_tokens"),
		create("max_tokens bool", "bearer", fields{"max_tokens": true}, "max_tokens"),
		create("max_tokens null", "bearer", fields{"max_tokens": nil}, "max_tokens"),
		create("max_tokens list", "bearer", fields{"max_tokens": []int{1}}, "max_tokens"),
		create("generate_lease text", "bearer", fields{"generate_lease": "maybe"}, "generate_lease"),
		create("generate_lease list", "bearer", fields{"generate_lease": []bool{true}}, "generate_lease"),
		create("generate_lease null", "bearer", fields{"generate_lease": nil}, "generate_lease"),
		create("subject with an open directive", "bearer", fields{"subject": "{{identity.entity.id"}, "subject"),
		create("subject with an unknown directive", "bearer", fields{"subject": "{{identity.token}}"}, "subject"),
		create("subject with a map", "bearer", fields{"subject": "{{identity.entity.metadata}}"}, "subject"),
		create("subject of 20 kB", "bearer", fields{"subject": strings.Repeat("x", 20_000)}, "subject"),
		create("subject number", "bearer", fields{"subject": 5}, "subject"),
		create("subject null", "bearer", fields{"subject": nil}, "subject"),
	}
	for name, prefix := range map[string]any{
		"capitals": "VTK", "leading underscore": "_a", "trailing underscore": "a_", "double underscore": "a__b",
		"hyphen": "a-b", "dot": "a.b", "space": "a b", "unicode": "ключ", "newline": "a\n", "too long": strings.Repeat("a", 33),
		"empty": "", "number": 5, "null": nil,
	} {
		rows = append(rows, create("prefix "+name, "bearer", fields{"prefix": prefix}, "prefix"))
	}
	return rows
}

func badRoleLists() []badInput {
	rows := []badInput{
		create("audience empty", "bearer", fields{"audiences": []string{""}}, "audiences"),
		create("audience twice", "bearer", fields{"audiences": []string{"a", "a"}}, "audiences"),
		create("audience with a control character", "bearer", fields{"audiences": []string{"a\u0001"}}, "audiences"),
		create("audience of 10 kB", "bearer", fields{"audiences": []string{strings.Repeat("a", 10_000)}}, "audiences"),
		create("number as audience", "bearer", fields{"audiences": 5}, "audiences"),
		create("object as audience", "bearer", fields{"audiences": fields{"a": "b"}}, "audiences"),
		create("null as audience", "jwt", fields{"audiences": nil}, "audiences"),
		create("allowed_metadata empty", "bearer", fields{"allowed_metadata": []string{""}}, "allowed_metadata"),
		create("allowed_metadata twice", "bearer", fields{"allowed_metadata": []string{"a", "a"}}, "allowed_metadata"),
		create("allowed_metadata with a control character", "bearer", fields{"allowed_metadata": []string{"a\u0001"}}, "allowed_metadata"),
		create("allowed_metadata of 10 kB", "jwt", fields{"allowed_metadata": []string{strings.Repeat("a", 10_000)}}, "allowed_metadata"),
		create("object as allowed_metadata", "bearer", fields{"allowed_metadata": fields{"a": "b"}}, "allowed_metadata"),
		create("null as allowed_metadata", "bearer", fields{"allowed_metadata": nil}, "allowed_metadata"),
		create("require_cnf text", "bearer", fields{"require_cnf": "maybe"}, "require_cnf"),
		create("require_cnf null", "jwt", fields{"require_cnf": nil}, "require_cnf"),
		create("metadata keys in two cases", "bearer", fields{"metadata": fields{"tier": "a", "Tier": "b"}}, "metadata"),
		create("metadata without a key", "bearer", fields{"metadata": fields{"": "x"}}, "metadata"),
		create("metadata key of 10 kB", "bearer", fields{"metadata": fields{strings.Repeat("k", 10_000): "x"}}, "metadata"),
		create("metadata value of 10 kB", "bearer", fields{"metadata": fields{"k": strings.Repeat("x", 10_000)}}, "metadata"),
		create("metadata with a control character", "bearer", fields{"metadata": fields{"k": "a\u001b[2J"}}, "metadata"),
		create("nested metadata", "bearer", fields{"metadata": fields{"k": fields{"a": 1}}}, "metadata"),
		create("metadata list without =", "bearer", fields{"metadata": []string{"novalue"}}, "metadata"),
		create("number as metadata", "bearer", fields{"metadata": 5}, "metadata"),
		create("null as metadata", "bearer", fields{"metadata": nil}, "metadata"),
	}
	for name, cidr := range map[string]any{
		"mask too long": "10.0.0.0/33", "no address": "300.1.1.1", "word": "localhost", "negative mask": "10.0.0.0/-1",
		"two masks": "10.0.0.0/8/8", "IPv6 mask too long": "2001:db8::/129", "IPv4 in IPv6": "::ffff:10.0.0.1/120",
		"with a zone": "fe80::1%eth0", "with a port": "10.0.0.1:80", "digits of another script": "１０.0.0.0/8",
		"empty": []string{""}, "number": 5, "object": fields{"a": 1}, "numbers": []int{10}, "null": nil,
		"one of two": []string{"10.0.0.0/8", "x"}, "500 of them": strings.TrimSuffix(strings.Repeat("10.0.0.0/8,", 500), ","),
	} {
		rows = append(rows, create("bound_cidrs "+name, "bearer", fields{"bound_cidrs": cidr}, "bound_cidrs"))
	}
	many, manyAudiences := fields{}, []string{}
	for i := range 200 {
		many[fmt.Sprint("k", i)] = "v"
		manyAudiences = append(manyAudiences, fmt.Sprint("a", i))
	}
	return append(rows,
		create("200 metadata entries", "bearer", fields{"metadata": many}, "metadata"),
		create("200 audiences", "bearer", fields{"audiences": manyAudiences}, "audiences"))
}

func badNames() []badInput {
	var rows []badInput
	for what, segment := range map[string]string{
		"unicode":           "r%C3%B4le",
		"another script":    "%D1%80%D0%BE%D0%BB%D1%8C",
		"space":             "a%20b",
		"slash":             "a/b",
		"encoded slash":     "a%2Fb",
		"parent":            "%2e%2e%2fconfig",
		"parent inside":     "a%2f%2e%2e%2fb",
		"two dots":          "a..b",
		"leading dot":       ".hidden",
		"leading hyphen":    "-x",
		"trailing hyphen":   "x-",
		"trailing dot":      "x.",
		"backslash":         "a%5Cb",
		"semicolon":         "a%3Bb",
		"wildcard":          "%2A",
		"shell":             "%24%28id%29",
		"template":          "%7B%7Ba%7D%7D",
		"quote":             "a%22b",
		"129 characters":    strings.Repeat("n", 129),
		"10,000 characters": strings.Repeat("n", 10_000),
		"percent":           "a%25b",
	} {
		rows = append(rows,
			badInput{"name of a role: " + what, "POST", "roles/" + segment, fields{"token_type": "bearer"}, 400, "name"},
			badInput{"name of a role to read: " + what, "GET", "roles/" + segment, nil, 400, "name"},
			badInput{"name of a key: " + what, "POST", "keys/" + segment, nil, 400, "name"},
			badInput{"role to issue: " + what, "GET", "creds/" + segment, nil, 400, "role"},
			badInput{"role to narrow: " + what, "POST", "creds/" + segment, fields{}, 400, "role"},
		)
	}
	return append(rows,
		badInput{"name with a NUL", "POST", "roles/a%00b", fields{"token_type": "bearer"}, 400, ""},
		badInput{"name with a newline", "POST", "roles/a%0Ab", fields{"token_type": "bearer"}, 400, ""},
		badInput{"name with a line separator", "POST", "roles/a%E2%80%A8b", fields{"token_type": "bearer"}, 400, ""},
		badInput{"name with a right-to-left mark", "POST", "roles/a%E2%80%8Fb", fields{"token_type": "bearer"}, 400, ""},
		badInput{"write to the list of roles", "POST", "roles/", fields{"token_type": "bearer"}, 400, ""},
		badInput{"write to roles", "POST", "roles", fields{"token_type": "bearer"}, 400, "token_type"},
		badInput{"empty write to roles", "POST", "roles", fields{}, 405, ""},
		badInput{"delete of roles", "DELETE", "roles", nil, 405, ""},
		badInput{"role that is not there", "GET", "roles/bad-missing", nil, 404, ""},
		badInput{"role in another case", "GET", "roles/Bad-api", nil, 404, ""},
		badInput{"path that is not there", "GET", "nonsense", nil, 404, ""},
		badInput{"path below config", "GET", "config/x", nil, 404, ""},
		badInput{"the mount itself", "GET", "", nil, 404, ""},
		badInput{"parameters of a role's read", "GET", "roles/bad-api?verbose=1", nil, 400, "verbose"},
		badInput{"parameters of a role's delete", "DELETE", "roles/bad-api?force=1", nil, 400, "force"},
	)
}

func badPatches() []badInput {
	return []badInput{
		{"patch: no such role", "PATCH", "roles/bad-missing", fields{"ttl": "5m"}, 400, "name"},
		{"patch: token_type", "PATCH", "roles/bad-bearer", fields{"token_type": "jwt"}, 400, "token_type"},
		{"patch: token_type null", "PATCH", "roles/bad-bearer", fields{"token_type": nil}, 400, "token_type"},
		{"patch: unknown field", "PATCH", "roles/bad-bearer", fields{"scopes": "a"}, 400, "scopes"},
		{"patch: unknown field null", "PATCH", "roles/bad-bearer", fields{"scopes": nil}, 400, "scopes"},
		{"patch: ttl", "PATCH", "roles/bad-bearer", fields{"ttl": "-1"}, 400, "ttl"},
		{"patch: a member that is no text", "PATCH", "roles/bad-bearer", fields{"metadata": fields{"a": 1}}, 400, "metadata"},
		{"patch: a member in another case", "PATCH", "roles/bad-bearer", fields{"metadata": fields{"Team": "x"}}, 400, "metadata"},
		{"patch: a reserved claim", "PATCH", "roles/bad-jwt", fields{"claims": fields{"sub": "x"}}, 400, "claims"},
		{"patch: reset leaves default outside", "PATCH", "roles/bad-bearer", fields{"allowed_scopes": nil}, 400, "default_scopes"},
		{"patch: reset leaves no audience", "PATCH", "roles/bad-jwt", fields{"audiences": nil}, 400, "audiences"},
		{"patch: config", "PATCH", "config", fields{"max_ttl": "1h"}, 405, ""},
		{"patch: creds", "PATCH", "creds/bad-bearer", fields{"ttl": "1m"}, 405, ""},
	}
}

func badConfig() []badInput {
	config := func(name string, body any, field string) badInput {
		return badInput{"config: " + name, "POST", "config", body, 400, field}
	}
	rows := []badInput{
		config("unknown field", fields{"issuers": "https://vault.example.com"}, "issuers"),
		config("max_ttl negative", fields{"max_ttl": "-1h"}, "max_ttl"),
		config("max_ttl overflows", fields{"max_ttl": "9999999999999h"}, "max_ttl"),
		config("max_ttl list", fields{"max_ttl": []int{1}}, "max_ttl"),
		config("max_ttl null", fields{"max_ttl": nil}, "max_ttl"),
		config("allowed_scopes with a space", fields{"allowed_scopes": []string{"a b"}}, "allowed_scopes"),
		config("allowed_scopes object", fields{"allowed_scopes": fields{"a": 1}}, "allowed_scopes"),
		config("allowed_scopes null", fields{"allowed_scopes": nil}, "allowed_scopes"),
		config("allowed_audiences empty", fields{"allowed_audiences": []string{""}}, "allowed_audiences"),
		config("allowed_audiences with a control character", fields{"allowed_audiences": []string{"a\u0001"}}, "allowed_audiences"),
		config("allowed_audiences object", fields{"allowed_audiences": fields{"a": 1}}, "allowed_audiences"),
		{"keys: allowed_audiences empty", "POST", "keys/new", fields{"allowed_audiences": []string{""}}, 400, "allowed_audiences"},
		{"keys: allowed_audiences null", "POST", "keys/new", fields{"allowed_audiences": nil}, 400, "allowed_audiences"},
		config("allowed_audiences null", fields{"allowed_audiences": nil}, "allowed_audiences"),
		config("standby_introspection word", fields{"standby_introspection": "both"}, "standby_introspection"),
		config("standby_introspection empty", fields{"standby_introspection": ""}, "standby_introspection"),
		config("standby_introspection bool", fields{"standby_introspection": true}, "standby_introspection"),
		config("standby_introspection null", fields{"standby_introspection": nil}, "standby_introspection"),
		config("good and bad", fields{"issuer": "https://vault.example.com/v1/tokens", "max_ttl": "x"}, "max_ttl"),
		{"config: delete", "DELETE", "config", nil, 405, ""},
		{"config: list", "LIST", "config", nil, 404, ""},
		{"config: parameter", "GET", "config?raw=1", nil, 400, "raw"},
	}
	for name, issuer := range map[string]any{
		"no URL": "not a url", "no scheme": "vault.example.com/v1/tokens", "plain http": "http://vault.example.com/v1/tokens",
		"http that looks like loopback": "http://localhost.example.com/v1/tokens", "ftp": "ftp://vault.example.com",
		"javascript": "javascript:alert(1)", "no host": "https://", "no host but a port": "https://:8200/v1/tokens",
		"user": "https://user:pass@vault.example.com", "query": "https://vault.example.com/?a=b", "empty query": "https://vault.example.com/?",
		"fragment": "https://vault.example.com/#x", "empty fragment": "https://vault.example.com/#",
		"control character": "https://vault.example.com/\u0000", "space in the host": "https://vault example.com",
		"bad escape": "https://vault.example.com/%zz", "too long": "https://vault.example.com/" + strings.Repeat("a", 2000),
		"number": 5, "list": []string{"https://vault.example.com"}, "null": nil,
		"scheme in capitals": "HTTPS://vault.example.com/v1/tokens", "host in capitals": "https://Vault.example.com/v1/tokens",
		"dot segments": "https://vault.example.com/v1/x/../tokens", "empty segments": "https://vault.example.com//v1//tokens",
		"backslash": `https://vault.example.com/v1\tokens`, "escaped NUL": "https://vault.example.com/%00", "escaped dots": "https://vault.example.com/%2e%2e/tokens",
		"port 0": "https://vault.example.com:0/v1/tokens", "IPv6 zone": "https://[fe80::1%25eth0]/v1/tokens", "quotes": `https://vault.example.com/"><script>`,
		"bad port": "https://vault.example.com:99999999/v1/tokens", "unicode path": "https://vault.example.com/v1/töken",
	} {
		rows = append(rows, config("issuer "+name, fields{"issuer": issuer}, "issuer"))
	}
	return rows
}

func badCreds() []badInput {
	narrow := func(name string, body any, field string) badInput {
		return badInput{"creds: " + name, "POST", "creds/bad-bearer", body, 400, field}
	}
	rows := []badInput{
		{"creds: no such role", "GET", "creds/bad-missing", nil, 400, "role"},
		{"creds: narrow no such role", "POST", "creds/bad-missing", fields{"ttl": "1m"}, 400, "role"},
		{"creds: role in another case", "GET", "creds/BAD-bearer", nil, 400, "role"},
		{"creds: no role", "GET", "creds", nil, 404, ""},
		{"creds: list", "LIST", "creds/bad-bearer", nil, 405, ""},
		{"creds: delete", "DELETE", "creds/bad-bearer", nil, 405, ""},
		{"creds: ttl in the query", "GET", "creds/bad-bearer?ttl=1m", nil, 400, "ttl"},
		{"creds: unknown in the query", "GET", "creds/bad-bearer?x=1", nil, 400, "x"},
		{"creds: max_tokens is reached", "GET", "creds/bad-full", nil, 400, "role"},
		{"creds: entity is missing for the subject", "GET", "creds/bad-template", nil, 400, "subject"},
		{"creds: no issuer is configured", "GET", "../capped/creds/jwt", nil, 400, "issuer"},
		{"creds: default scope above the mount's ceiling", "GET", "../capped/creds/wide", nil, 400, "scopes"},
		{"creds: audience above the mount's ceiling", "GET", "../capped/creds/audience", nil, 400, "audience"},
		{"role: audience above the mount's ceiling", "POST", "../capped/roles/bad-new", fields{"token_type": "bearer", "audiences": "https://other.example.com"}, 400, "audiences"},
		{"creds: no key where the role wants one", "GET", "creds/bad-bound", nil, 400, "cnf"},
		{"creds: no key where the role wants one, narrowed", "POST", "creds/bad-bound", fields{"ttl": "1m"}, 400, "cnf"},
		{"creds: scope above the mount's ceiling", "POST", "../capped/creds/wide", fields{"scopes": "admin"}, 400, "scopes"},
		narrow("scope that is not allowed", fields{"scopes": []string{"orders:read", "admin"}}, "scopes"),
		narrow("wildcard as scope", fields{"scopes": "*"}, "scopes"),
		narrow("pattern as scope", fields{"scopes": "orders:*"}, "scopes"),
		narrow("scope in another case", fields{"scopes": "Orders:read"}, "scopes"),
		narrow("scopes by space", fields{"scopes": "orders:read stock:read"}, "scopes"),
		narrow("empty scope", fields{"scopes": []string{""}}, "scopes"),
		narrow("scope twice", fields{"scopes": []string{"stock:read", "stock:read"}}, "scopes"),
		narrow("unicode scope", fields{"scopes": []string{"orders:lésen"}}, "scopes"),
		narrow("scope of 1 MB", fields{"scopes": []string{huge}}, "scopes"),
		narrow("number as scopes", fields{"scopes": 7}, "scopes"),
		narrow("object as scopes", fields{"scopes": fields{"orders:read": true}}, "scopes"),
		narrow("null as scopes", fields{"scopes": nil}, "scopes"),
		narrow("ttl above the role's", fields{"ttl": "601s"}, "ttl"),
		narrow("ttl zero", fields{"ttl": 0}, "ttl"),
		narrow("ttl negative", fields{"ttl": -5}, "ttl"),
		narrow("ttl overflows", fields{"ttl": "9999999999999h"}, "ttl"),
		narrow("ttl 1e30", fields{"ttl": json.Number("1e30")}, "ttl"),
		narrow("ttl wraps around to 60", fields{"ttl": json.Number("18446744073709551676")}, "ttl"), // 2^64 + 60
		narrow("ttl wraps around in nanoseconds", fields{"ttl": json.Number("18446744134")}, "ttl"),
		narrow("ttl text", fields{"ttl": "soon"}, "ttl"),
		narrow("ttl object", fields{"ttl": fields{}}, "ttl"),
		narrow("ttl null", fields{"ttl": nil}, "ttl"),
		narrow("audience of another API", fields{"audience": []string{"https://other.example.com"}}, "audience"),
		narrow("audience with a slash more", fields{"audience": []string{vaulttest.Audiences[0] + "/"}}, "audience"),
		narrow("no audience", fields{"audience": []string{}}, "audience"),
		narrow("empty audience", fields{"audience": []string{""}}, "audience"),
		narrow("audience number", fields{"audience": 5}, "audience"),
		narrow("audience null", fields{"audience": nil}, "audience"),
		narrow("metadata of the role", fields{"metadata": fields{"team": "red"}}, "metadata"),
		narrow("metadata of the role in another case", fields{"metadata": fields{"Team": "red"}}, "metadata"),
		narrow("metadata that the role does not allow", fields{"metadata": fields{"tenant": "acme"}}, "metadata"),
		narrow("metadata that is allowed in another case", fields{"metadata": fields{"Job": "x"}}, "metadata"),
		narrow("nested metadata", fields{"metadata": fields{"k": fields{"a": 1}}}, "metadata"),
		narrow("metadata of 10 kB", fields{"metadata": fields{"k": strings.Repeat("x", 10_000)}}, "metadata"),
		narrow("metadata text", fields{"metadata": "novalue"}, "metadata"),
		narrow("metadata null", fields{"metadata": nil}, "metadata"),
		narrow("scope for scopes", fields{"scope": "orders:read"}, "scope"),
		narrow("audiences for audience", fields{"audiences": vaulttest.Audiences[:1]}, "audiences"),
		narrow("another role in the body", fields{"role": "bad-api"}, "role"),
		narrow("token of one's own", fields{"token": "vtb_x"}, "token"),
		narrow("claims of one's own", fields{"claims": fields{"admin": true}}, "claims"),
	}
	return append(rows,
		badInput{"creds: jwt audience of another API", "POST", "creds/bad-jwt", fields{"audience": "x"}, 400, "audience"},
		badInput{"creds: jwt ttl above the role's", "POST", "creds/bad-jwt", fields{"ttl": "1h"}, 400, "ttl"},
		badInput{"creds: jwt scope", "POST", "creds/bad-jwt", fields{"scopes": "admin"}, 400, "scopes"})
}

func badIntrospections() []badInput {
	ask := func(name string, body any, field string) badInput {
		return badInput{"introspect: " + name, "POST", "introspect", body, 400, field}
	}
	return []badInput{
		ask("no token", fields{}, "token"),
		ask("no body", nil, "token"),
		ask("empty token", fields{"token": ""}, "token"),
		ask("token null", fields{"token": nil}, "token"),
		ask("token number", fields{"token": 5}, "token"),
		ask("token list", fields{"token": []string{"x"}}, "token"),
		ask("token object", fields{"token": fields{"token": "x"}}, "token"),
		ask("tokens", fields{"tokens": []string{"x"}}, "tokens"),
		ask("token_type_hint", fields{"token": "x", "token_type_hint": "access_token"}, "token_type_hint"),
		ask("client_ip word", fields{"token": "x", "client_ip": "localhost"}, "client_ip"),
		ask("client_ip with a port", fields{"token": "x", "client_ip": "10.0.0.1:443"}, "client_ip"),
		ask("client_ip network", fields{"token": "x", "client_ip": "10.0.0.0/8"}, "client_ip"),
		ask("client_ip with a space", fields{"token": "x", "client_ip": " 10.0.0.1"}, "client_ip"),
		ask("client_ip list", fields{"token": "x", "client_ip": "10.0.0.1, 10.0.0.2"}, "client_ip"),
		ask("client_ip octal", fields{"token": "x", "client_ip": "010.0.0.1"}, "client_ip"),
		ask("client_ip number", fields{"token": "x", "client_ip": 167772161}, "client_ip"),
		ask("client_ip null", fields{"token": "x", "client_ip": nil}, "client_ip"),
		ask("client_ip of 1 MB", fields{"token": "x", "client_ip": huge}, "client_ip"),
		ask("required_scopes with a wildcard", fields{"token": "x", "required_scopes": "orders:*"}, "required_scopes"),
		ask("required_scopes empty", fields{"token": "x", "required_scopes": []string{""}}, "required_scopes"),
		ask("required_scopes of an unset variable", fields{"token": "x", "required_scopes": ""}, "required_scopes"),
		ask("required_scopes without an entry", fields{"token": "x", "required_scopes": []string{}}, "required_scopes"),
		ask("audience of an unset variable", fields{"token": "x", "audience": ""}, "audience"),
		ask("client_ip of an unset variable", fields{"token": "x", "client_ip": ""}, "client_ip"),
		ask("required_scopes by space", fields{"token": "x", "required_scopes": "a b"}, "required_scopes"),
		ask("required_scopes object", fields{"token": "x", "required_scopes": fields{"a": 1}}, "required_scopes"),
		ask("required_scopes null", fields{"token": "x", "required_scopes": nil}, "required_scopes"),
		ask("audience list", fields{"token": "x", "audience": vaulttest.Audiences}, "audience"),
		ask("audience null", fields{"token": "x", "audience": nil}, "audience"),
		ask("batch_input empty", fields{"batch_input": []any{}}, "batch_input"),
		ask("batch_input null", fields{"batch_input": nil}, "batch_input"),
		ask("batch_input object", fields{"batch_input": fields{"token": "x"}}, "batch_input"),
		ask("batch_input list of tokens", fields{"batch_input": []string{"x"}}, "batch_input"),
		ask("batch_input text", fields{"batch_input": `[{"token":"x"}]`}, "batch_input"),
		ask("batch_input of 1001 items", fields{"batch_input": slices.Repeat([]fields{{"token": "x"}}, 1001)}, "batch_input"),
		ask("batch_input beside a token", fields{"batch_input": []fields{{"token": "x"}}, "token": "x"}, "token"),
		ask("batch_input beside a check", fields{"batch_input": []fields{{"token": "x"}}, "audience": "x"}, "audience"),
		ask("reference without batch_input", fields{"token": "x", "reference": "x"}, "reference"),
		{"introspect: read", "GET", "introspect", nil, 405, ""},
		{"introspect: token in the query", "GET", "introspect?token=x", nil, 400, "token"},
		{"introspect: delete", "DELETE", "introspect", nil, 405, ""},
	}
}

func badRevocations() []badInput {
	return []badInput{
		{"revoke: no token", "POST", "revoke", fields{}, 400, "token"},
		{"revoke: empty token", "POST", "revoke", fields{"token": ""}, 400, "token"},
		{"revoke: token null", "POST", "revoke", fields{"token": nil}, 400, "token"},
		{"revoke: token number", "POST", "revoke", fields{"token": 5}, 400, "token"},
		{"revoke: token list", "POST", "revoke", fields{"token": []string{"x"}}, 400, "token"},
		{"revoke: unknown field", "POST", "revoke", fields{"token": "x", "reason": "leak"}, 400, "reason"},
		{"revoke: token_id", "POST", "revoke", fields{"token_id": "x"}, 400, "token_id"},
		{"revoke: read", "GET", "revoke", nil, 405, ""},
	}
}

func badTokenIDs() []badInput {
	const unknown = "0000000000000000000000"
	rows := []badInput{
		{"tokens: unknown id", "GET", "tokens/" + unknown, nil, 404, ""},
		{"tokens: write", "POST", "tokens/" + unknown, fields{}, 405, ""},
		{"tokens: write to the list", "POST", "tokens", fields{}, 405, ""},
		{"tokens: limit zero", "LIST", "tokens?limit=0", nil, 400, "limit"},
		{"tokens: limit negative", "LIST", "tokens?limit=-1", nil, 400, "limit"},
		{"tokens: limit huge", "LIST", "tokens?limit=1000000", nil, 400, "limit"},
		{"tokens: limit 1e30", "LIST", "tokens?limit=1e30", nil, 400, "limit"},
		{"tokens: limit text", "LIST", "tokens?limit=all", nil, 400, "limit"},
		{"tokens: limit fraction", "LIST", "tokens?limit=1.5", nil, 400, "limit"},
		{"tokens: after is no id", "LIST", "tokens?after=x", nil, 400, "after"},
		{"tokens: after is a path", "LIST", "tokens?after=../config", nil, 400, "after"},
		{"tokens: after is unicode", "LIST", "tokens?after=%C3%A9", nil, 400, "after"},
		{"tokens: unknown parameter", "LIST", "tokens?page=2", nil, 400, "page"},
		{"tokens: role of an unset variable", "LIST", "tokens?role=", nil, 400, "role"},
		{"tokens: role with a slash", "LIST", "tokens?role=a/b", nil, 400, "role"},
		{"tokens: entity_id of an unset variable", "LIST", "tokens?entity_id=", nil, 400, "entity_id"},
		{"tokens: token_type unknown", "LIST", "tokens?token_type=key", nil, 400, "token_type"},
		{"tokens: expires_before of an unset variable", "LIST", "tokens?expires_before=", nil, 400, "expires_before"},
		{"tokens: expires_before in seconds", "LIST", "tokens?expires_before=1790000000", nil, 400, "expires_before"},
		{"tokens: expires_before with a bare plus", "LIST", "tokens?expires_before=2027-01-31T00:00:00+01:00", nil, 400, "expires_before"},
	}
	for name, id := range map[string]string{
		"short": "abc", "long": strings.Repeat("0", 23), "huge": strings.Repeat("0", 8000), "hyphen": "000000000000000000000-",
		"unicode": "%C3%A9%C3%A9%C3%A9%C3%A9%C3%A9%C3%A9%C3%A9%C3%A9%C3%A9%C3%A9%C3%A9", "slash": "00000000000/0000000000",
		"parent": "%2e%2e%2fconfig", "space": "0000000000%200000000000",
	} {
		rows = append(rows,
			badInput{"tokens: read id " + name, "GET", "tokens/" + id, nil, 400, "id"},
			badInput{"tokens: delete id " + name, "DELETE", "tokens/" + id, nil, 400, "id"})
	}
	return rows
}

func badKeys() []badInput {
	var rows []badInput
	for name, algorithm := range map[string]any{
		"HS256": "HS256", "none": "none", "lower case": "es256", "empty": "", "number": 256, "list": []string{"ES256"}, "null": nil,
		"ES512": "ES512", "huge": huge, "unicode": "ЕS256",
	} {
		rows = append(rows, badInput{"keys: algorithm " + name, "POST", "keys/bad-new", fields{"algorithm": algorithm}, 400, "algorithm"})
	}
	return append(rows,
		badInput{"keys: algorithm changes", "POST", "keys/bad-key", fields{"algorithm": "EdDSA"}, 400, "algorithm"},
		badInput{"keys: unknown field", "POST", "keys/bad-new", fields{"type": "EC"}, 400, "type"},
		badInput{"keys: private key of one's own", "POST", "keys/bad-new", fields{"private_key": "x"}, 400, "private_key"},
		badInput{"keys: not there", "GET", "keys/bad-missing", nil, 404, ""},
		badInput{"keys: a role uses it", "DELETE", "keys/bad-key", nil, 400, "name"},
		badInput{"keys: a role uses default", "DELETE", "keys/default", nil, 400, "name"},
		badInput{"keys: its tokens live", "DELETE", "keys/bad-live", nil, 400, "name"},
		badInput{"keys: patch", "PATCH", "keys/bad-key", fields{"algorithm": "EdDSA"}, 405, ""},
		badInput{"jwks: write", "POST", "jwks", fields{}, 405, ""},
		badInput{"jwks: write with a body", "POST", "jwks", fields{"keys": []string{}}, 400, "keys"},
		badInput{"jwks: delete", "DELETE", "jwks", nil, 405, ""},
	)
}

func badBodies() []badInput {
	return []badInput{
		{"body: no JSON", "POST", "introspect", vaulttest.RawBody("token=x"), 400, ""},
		{"body: list", "POST", "introspect", vaulttest.RawBody(`["x"]`), 400, ""},
		{"body: text", "POST", "introspect", vaulttest.RawBody(`"x"`), 400, ""},
		{"body: null", "POST", "introspect", vaulttest.RawBody("null"), 400, "token"},
		{"body: claims 100 levels deep and too long", "POST", "roles/bad-new", fields{
			"token_type": "jwt", "audiences": "a", "claims": strings.Repeat(`{"aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa":`, 100) + "1" + strings.Repeat("}", 100),
		}, 400, "claims"},
	}
}

func TestBadInput(t *testing.T) {
	s := common(t, 2*time.Minute).at("bad")
	s.setUpBadInput()
	before := s.everythingWritten()
	rows := badInputs()
	if len(rows) < 120 {
		t.Fatalf("%d rows, want at least 120", len(rows))
	}
	names := map[string]bool{}
	for _, row := range rows {
		if names[row.name] {
			t.Errorf("two rows are called %q", row.name)
		}
		names[row.name] = true
		if problem := s.refuses(row); problem != "" {
			t.Errorf("%s: %s %s: %s", row.name, row.method, clip(row.path), problem)
			// So that what was taken by mistake does not stand in the way of others.
			s.Must("DELETE", s.Mount+"/roles/bad-new", nil)
			s.Must("DELETE", s.Mount+"/keys/bad-new", nil)
		}
	}
	for path, after := range s.everythingWritten() {
		if before[path] != after {
			t.Errorf("a refused request changed %s from %q to %q", path, before[path], after)
		}
		delete(before, path)
	}
	if len(before) > 0 {
		t.Errorf("a refused request deleted %q", slices.Sorted(maps.Keys(before)))
	}
	t.Logf("%d bad inputs", len(rows))
}

// refuses makes the request of a row and says what is wrong with the answer.
func (s *session) refuses(row badInput) string {
	path, onOther := strings.CutPrefix(row.path, "../")
	if !onOther {
		path = s.Mount + "/" + path
	}
	resp, err := s.Root().Do(s.Ctx, row.method, path, row.body)
	if err != nil {
		return err.Error()
	}
	answer := fmt.Sprintf("%d %s", resp.Status, clip(string(bytes.TrimSpace(resp.Raw))))
	switch {
	case resp.Status != row.status:
		return fmt.Sprintf("%s, want %d", answer, row.status)
	case row.field != "" && !vaulttest.ErrorNames(resp, row.field):
		return fmt.Sprintf("%s, want an error that starts with %q", answer, row.field+": ")
	case len(resp.Raw) > 4096:
		return fmt.Sprintf("an answer of %d bytes repeats too much", len(resp.Raw))
	}
	return ""
}

func clip(s string) string {
	if len(s) > 300 {
		return s[:300] + "…"
	}
	return s
}

func (s *session) setUpBadInput() {
	s.T.Helper()
	for _, mount := range []string{s.Mount, "capped"} {
		if err := s.Enable(s.Ctx, mount, nil); err != nil {
			s.T.Fatal(err)
		}
	}
	if err := s.SetIssuer(s.Ctx, s.Mount); err != nil {
		s.T.Fatal(err)
	}
	for _, key := range []string{"bad-key", "bad-live"} {
		s.Must("POST", s.Mount+"/keys/"+key, nil)
	}
	s.Role("bad-api", vaulttest.APIKey.RoleBody())
	s.Role("bad-bearer", vaulttest.Bearer.RoleBody())
	s.Role("bad-jwt", vaulttest.JWT.RoleBody().With(fields{"key": "bad-key"}))
	s.Role("bad-default", vaulttest.JWT.RoleBody())
	s.Role("bad-bound", fields{"token_type": "bearer", "require_cnf": true})
	s.Role("bad-full", fields{"token_type": "bearer", "max_tokens": 1})
	s.Issue("bad-full", nil)
	s.Role("bad-template", fields{"token_type": "bearer", "subject": "{{identity.entity.name}}"})
	s.Role("bad-gone", vaulttest.JWT.RoleBody().With(fields{"key": "bad-live"}))
	s.Issue("bad-gone", nil)
	s.Must("DELETE", s.Mount+"/roles/bad-gone", nil)

	capped := s.at("capped")
	capped.Role("jwt", vaulttest.JWT.RoleBody())
	capped.Role("wide", fields{"token_type": "bearer", "allowed_scopes": "*", "default_scopes": "admin"})
	capped.Role("audience", fields{"token_type": "bearer", "audiences": "https://partners.example.com"})
	s.Must("POST", "capped/config", fields{"allowed_scopes": "orders:*,stock:*", "allowed_audiences": vaulttest.Audiences})
}

// everythingWritten is all roles, keys and settings of the two mounts, by path.
func (s *session) everythingWritten() map[string]string {
	s.T.Helper()
	all := map[string]string{}
	for _, mount := range []string{s.Mount, "capped"} {
		paths := []string{mount + "/config"}
		for _, noun := range []string{"roles", "keys"} {
			keys, _ := s.Must("LIST", mount+"/"+noun, nil).Data()["keys"].([]any)
			for _, key := range keys {
				paths = append(paths, fmt.Sprintf("%s/%s/%s", mount, noun, key))
			}
		}
		for _, path := range paths {
			data, err := json.Marshal(s.Must("GET", path, nil).Data())
			if err != nil {
				s.T.Fatal(err)
			}
			all[path] = string(data)
		}
	}
	return all
}

// TestBadTokens presents tokens that are no live ones: introspection says
// active=false and nothing else, revocation 204, and the token that a bad one
// was made from stays active.
func TestBadTokens(t *testing.T) {
	s := common(t, 2*time.Minute)
	for _, k := range vaulttest.TokenTypes {
		s.Role("mistyped-"+k.Name, k.RoleBody())
		token := s.Issue("mistyped-"+k.Name, nil)
		other := s.Issue("mistyped-"+k.Name, nil)
		bad := slices.Concat(mistyped(token.Data.Token), malformed())
		if k.Opaque {
			bad = append(bad, forgedOpaque(token, other)...)
		} else {
			jwks, err := s.Anonymous().Must(s.Ctx, "GET", "tokens/jwks", nil)
			if err != nil {
				t.Fatal(err)
			}
			bad = append(bad, forgedJWT(t, token.Data.Token, other.Data.Token, jwks.Raw)...)
		}
		for _, b := range bad {
			resp, err := s.Client(s.API).Do(s.Ctx, "POST", "tokens/introspect", fields{"token": b.token})
			if err != nil {
				t.Fatal(err)
			}
			if data := resp.Data(); resp.Status != http.StatusOK || len(data) != 1 || data["active"] != false {
				t.Errorf("%s, %s: introspection answers %d %s, want exactly active=false", k.Name, b.name, resp.Status, clip(string(resp.Raw)))
			}
			if err := s.Expect(s.Ctx, s.RootToken, "POST", "tokens/revoke", fields{"token": b.token}, http.StatusNoContent); err != nil {
				t.Errorf("%s, %s: %v", k.Name, b.name, err)
			}
		}
		s.WantActive(token)
		s.WantActive(other)
		t.Logf("%s: %d bad tokens", k.Name, len(bad))
	}
}

// mistyped are the mistakes of people who copy tokens.
func mistyped(token string) []silent {
	half := len(token) / 2
	swapped := []byte(token)
	for i := half; i+1 < len(swapped); i++ {
		if swapped[i] != swapped[i+1] {
			swapped[i], swapped[i+1] = swapped[i+1], swapped[i]
			break
		}
	}
	flip := func(at int) string {
		replacement := "x"
		if token[at] == 'x' {
			replacement = "y"
		}
		return token[:at] + replacement + token[at+1:]
	}
	return []silent{
		{"the first half", token[:half]},
		{"the second half", token[half:]},
		{"last character missing", token[:len(token)-1]},
		{"first character missing", token[1:]},
		{"one character more", token + "0"},
		{"trailing newline", token + "\n"},
		{"leading space", " " + token},
		{"with its scheme", "Bearer " + token},
		{"in quotes", `"` + token + `"`},
		{"twice", token + token},
		{"two neighbours swapped", string(swapped)},
		{"in capitals", strings.ToUpper(token)},
		{"in small letters", strings.ToLower(token)},
		{"a character in the middle", flip(half)},
		{"the first character", flip(0)},
		{"NUL at the end", token + "\x00"},
	}
}

// malformed are strings that never were tokens.
func malformed() []silent {
	return []silent{
		{"one letter", "x"},
		{"a space", " "},
		{"dots", ".."},
		{"three letters with dots", "a.b.c"},
		{"a thousand dots", strings.Repeat(".", 1000)},
		{"unicode", "токен"},
		{"1 MB", huge},
		{"half a MB with two dots", "eyJ" + huge[:1<<19] + ".eyJ.x"},
		{"a path", "../../config"},
		{"only a checksum", checksum("")},
		{"right checksum on nothing", "vtk_" + strings.Repeat("0", 65) + checksum("vtk_"+strings.Repeat("0", 65))},
		{"right checksum without a prefix", "_" + strings.Repeat("0", 65) + checksum("_"+strings.Repeat("0", 65))},
		{"a Vault token", "hvs.CAESIJlU9JMYEhOPYv4igdhm9PnZDrabYTobQ4Ymnlq1qY-wGhMKBGh2cw"},
		{"base64 of an empty object", "e30.e30.e30"},
		{"JSON", `{"token":"x"}`},
	}
}

// forgedOpaque are tokens with a right checksum.
func forgedOpaque(token, other *issued) []silent {
	sign := func(body string) string { return body + checksum(body) }
	text, id := token.Data.Token, token.Data.TokenID
	start := strings.Index(text, id)
	prefix, body := text[:start], text[start:len(text)-6]
	secret := body[len(id):]
	otherSecret := other.Data.Token[start+len(id) : len(text)-6]
	return []silent{
		{"unknown id", sign(prefix + strings.Repeat("0", len(id)) + secret)},
		{"secret of another token", sign(prefix + id + otherSecret)},
		{"secret of zeros", sign(prefix + id + strings.Repeat("0", len(secret)))},
		{"last character of the secret", sign(prefix + id + secret[:len(secret)-1] + map[bool]string{true: "1", false: "0"}[secret[len(secret)-1] == '0'])},
		{"another prefix", sign("vtx_" + body)},
		{"a longer prefix", sign("a_" + prefix + body)},
		{"id with a slash", sign(prefix + id[:10] + "/" + id[11:] + secret)},
	}
}

// forgedJWT are the known attacks on verifiers of JWTs.
func forgedJWT(t *testing.T, token, other string, jwks []byte) []silent {
	t.Helper()
	parts, otherParts := strings.Split(token, "."), strings.Split(other, ".")
	var header, claims map[string]any
	if err := decodePart(parts[0], &header); err != nil {
		t.Fatal(err)
	}
	if err := decodePart(parts[1], &claims); err != nil {
		t.Fatal(err)
	}
	encode := func(v any) string {
		raw, err := json.Marshal(v)
		if err != nil {
			t.Fatal(err)
		}
		return base64.RawURLEncoding.EncodeToString(raw)
	}
	withHeader := func(name string, value any) string {
		h := maps.Clone(header)
		h[name] = value
		return encode(h)
	}
	withClaim := func(name string, value any) string {
		c := maps.Clone(claims)
		c[name] = value
		return encode(c)
	}
	hs256 := func(key []byte) string {
		signed := withHeader("alg", "HS256") + "." + parts[1]
		mac := hmac.New(sha256.New, key)
		mac.Write([]byte(signed))
		return signed + "." + base64.RawURLEncoding.EncodeToString(mac.Sum(nil))
	}
	with := func(h, c, signature string) string { return h + "." + c + "." + signature }
	return []silent{
		{"alg none", with(withHeader("alg", "none"), parts[1], "")},
		{"alg None", with(withHeader("alg", "None"), parts[1], parts[2])},
		{"no signature", with(parts[0], parts[1], "")},
		{"HS256 with the key set", hs256(jwks)},
		{"HS256 with nothing", hs256(nil)},
		{"alg ES384", with(withHeader("alg", "ES384"), parts[1], parts[2])},
		{"signature of another token", with(parts[0], parts[1], otherParts[2])},
		{"claims of another token", with(parts[0], otherParts[1], parts[2])},
		{"signature of zeros", with(parts[0], parts[1], base64.RawURLEncoding.EncodeToString(make([]byte, 64)))},
		{"longer scope", with(parts[0], withClaim("scope", "admin"), parts[2])},
		{"later exp", with(parts[0], withClaim("exp", 9999999999), parts[2])},
		{"typ JWT", with(withHeader("typ", "JWT"), parts[1], parts[2])},
		{"kid unknown", with(withHeader("kid", "x"), parts[1], parts[2])},
		{"kid number", with(withHeader("kid", 1), parts[1], parts[2])},
		{"kid is a path", with(withHeader("kid", "../../dev/null"), parts[1], parts[2])},
		{"key of one's own", with(withHeader("jwk", map[string]any{"kty": "oct", "k": "AAAA"}), parts[1], parts[2])},
		{"crit", with(withHeader("crit", []string{"exp"}), parts[1], parts[2])},
		{"header is a list", with(encode([]string{"ES256"}), parts[1], parts[2])},
		{"claims are a list", with(parts[0], encode([]string{"x"}), parts[2])},
		{"padded signature", token + "=="},
		{"four parts", token + ".x"},
		{"standard base64", with(parts[0], parts[1], strings.NewReplacer("-", "+", "_", "/").Replace(parts[2])+"+")},
	}
}
