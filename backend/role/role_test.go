package role

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/vault-tokens/vault-plugin-secrets-tokens/backend/config"
	"github.com/vault-tokens/vault-plugin-secrets-tokens/backend/usererror"
	"github.com/vault-tokens/vault-plugin-secrets-tokens/verify/format"
)

// wantMistake wants a caller's mistake in a field, or none if field is empty.
func wantMistake(t *testing.T, err error, field string) {
	t.Helper()
	var mistake *usererror.Error
	switch {
	case field == "" && err != nil:
		t.Errorf("refused: %v", err)
	case field != "" && (!errors.As(err, &mistake) || mistake.Field != field):
		t.Errorf("got %v, want a mistake in %s", err, field)
	}
}

func numbered(n int, format string) (list []string) {
	for i := range n {
		list = append(list, fmt.Sprintf(format, i))
	}
	return list
}

func TestNew(t *testing.T) {
	for tokenType, want := range map[TokenType]Role{
		APIKey: {Prefix: "vtk"},
		Bearer: {Prefix: "vtb", TTL: time.Hour},
		JWT:    {TTL: 15 * time.Minute, Key: DefaultKey, NotBeforeLeeway: 30 * time.Second},
	} {
		want.Name, want.TokenType, want.GenerateLease = "a", tokenType, true
		got := New("a", tokenType)
		if !reflect.DeepEqual(*got, want) {
			t.Errorf("%s: %+v, want %+v", tokenType, *got, want)
		}
		if tokenType.Opaque() != (got.Prefix != "") {
			t.Errorf("%s: Opaque() = %v", tokenType, tokenType.Opaque())
		}
		if tokenType == JWT {
			got.Audiences = []string{"api"}
		}
		wantMistake(t, got.Validate(config.Default()), "")
	}
}

func TestParseTokenType(t *testing.T) {
	for _, want := range TokenTypes() {
		if got, err := ParseTokenType(string(want)); err != nil || got != want {
			t.Errorf("%s: %q, %v", want, got, err)
		}
	}
	for _, bad := range []string{"", "JWT", "jwt ", "api-key", "opaque"} {
		_, err := ParseTokenType(bad)
		wantMistake(t, err, "token_type")
	}
}

func TestValidateName(t *testing.T) {
	for _, good := range []string{"a", "_", "7", "a-b.c_D", "a1", strings.Repeat("a", MaxNameLength)} {
		if err := ValidateName("role", good); err != nil {
			t.Errorf("%q: %v", good, err)
		}
	}
	for _, bad := range []string{"", ".", "-", ".a", "a.", "-a", "a-", "a..b", "a/b", "a b", "a\n", "é", "a*", "a%2fb", strings.Repeat("a", MaxNameLength+1)} {
		wantMistake(t, ValidateName("role", bad), "role")
	}
}

// jwtRole, bearerRole and their changes are the rows of the table below.
func jwtRole() *Role {
	r := New("a", JWT)
	r.Audiences = []string{"api"}
	return r
}

func TestValidate(t *testing.T) {
	ceiling := config.Default()
	ceiling.AllowedScopes = []string{"orders:*", "invoices:read"}
	ceiling.AllowedAudiences = []string{"a*", "https://*.example.com"}
	scopes := func(allowed, defaults string) func(*Role) {
		return func(r *Role) {
			r.AllowedScopes, r.DefaultScopes = strings.Fields(allowed), strings.Fields(defaults)
		}
	}
	type rows map[string]struct {
		change func(*Role)
		field  string // that is refused; empty: none
	}
	both := rows{
		"as it is":                          {func(*Role) {}, ""},
		"name":                              {func(r *Role) { r.Name = "a b" }, "name"},
		"scopes within the ceiling":         {scopes("orders:* invoices:read", "orders:read"), ""},
		"pattern within the ceiling":        {scopes("orders:*:read", ""), ""},
		"scope above the ceiling":           {scopes("invoices:write", ""), "allowed_scopes"},
		"pattern above the ceiling":         {scopes("*", ""), "allowed_scopes"},
		"pattern half above the ceiling":    {scopes("invoices:*", ""), "allowed_scopes"},
		"allowed_scopes that are none":      {func(r *Role) { r.AllowedScopes = []string{"a b"} }, "allowed_scopes"},
		"default that is not allowed":       {scopes("orders:read", "orders:write"), "default_scopes"},
		"default where nothing is allowed":  {scopes("", "orders:read"), "default_scopes"},
		"default that is a pattern":         {scopes("orders:*", "orders:*"), "default_scopes"},
		"negative ttl":                      {func(r *Role) { r.TTL = -1 }, "ttl"},
		"negative max_ttl":                  {func(r *Role) { r.MaxTTL = -1 }, "max_ttl"},
		"ttl up to max_ttl":                 {func(r *Role) { r.TTL, r.MaxTTL = time.Hour, time.Hour }, ""},
		"ttl longer than max_ttl":           {func(r *Role) { r.TTL, r.MaxTTL = time.Hour+1, time.Hour }, "ttl"},
		"audiences":                         {func(r *Role) { r.Audiences = []string{"a", "https://b.example.com"} }, ""},
		"audience above the ceiling":        {func(r *Role) { r.Audiences = []string{"a", "b"} }, "audiences"},
		"allowed_metadata":                  {func(r *Role) { r.AllowedMetadata = []string{"job", "x-*", "größe"} }, ""},
		"allowed_metadata without a name":   {func(r *Role) { r.AllowedMetadata = []string{""} }, "allowed_metadata"},
		"allowed_metadata with a control":   {func(r *Role) { r.AllowedMetadata = []string{"a\n"} }, "allowed_metadata"},
		"allowed_metadata twice":            {func(r *Role) { r.AllowedMetadata = []string{"a", "a"} }, "allowed_metadata"},
		"too much allowed_metadata":         {func(r *Role) { r.AllowedMetadata = numbered(65, "k%d") }, "allowed_metadata"},
		"require_cnf":                       {func(r *Role) { r.RequireCnf = true }, ""},
		"empty audience":                    {func(r *Role) { r.Audiences = []string{""} }, "audiences"},
		"subject":                           {func(r *Role) { r.Subject = "svc:{{identity.entity.name}}" }, ""},
		"subject with an unknown directive": {func(r *Role) { r.Subject = "{{identity.entity.password}}" }, "subject"},
		"subject of a list":                 {func(r *Role) { r.Subject = "{{identity.entity.groups.names}}" }, "subject"},
		"subject with a line break":         {func(r *Role) { r.Subject = "a\nb" }, "subject"},
		"most networks":                     {func(r *Role) { r.BoundCIDRs = make([]netip.Prefix, 100) }, ""},
		"too many networks":                 {func(r *Role) { r.BoundCIDRs = make([]netip.Prefix, 101) }, "bound_cidrs"},
		"metadata":                          {func(r *Role) { r.Metadata = map[string]string{"team": "payments"} }, ""},
		"metadata without a key":            {func(r *Role) { r.Metadata = map[string]string{"": "payments"} }, "metadata"},
	}
	opaque := rows{
		"prefix":                  {func(r *Role) { r.Prefix = "acme_live" }, ""},
		"no prefix":               {func(r *Role) { r.Prefix = "" }, "prefix"},
		"upper case prefix":       {func(r *Role) { r.Prefix = "Acme" }, "prefix"},
		"prefix with an end":      {func(r *Role) { r.Prefix = "acme_" }, "prefix"},
		"too long a prefix":       {func(r *Role) { r.Prefix = strings.Repeat("a", format.MaxPrefixLength+1) }, "prefix"},
		"max_tokens":              {func(r *Role) { r.MaxTokens = 1 }, ""},
		"negative max_tokens":     {func(r *Role) { r.MaxTokens = -1 }, "max_tokens"},
		"no audience":             {func(r *Role) { r.Audiences = nil }, ""},
		"claims":                  {func(r *Role) { r.Claims = json.RawMessage(`{"a":1}`) }, "claims"},
		"claims_template":         {func(r *Role) { r.ClaimsTemplate = `{}` }, "claims_template"},
		"key":                     {func(r *Role) { r.Key = DefaultKey }, "key"},
		"not_before_leeway":       {func(r *Role) { r.NotBeforeLeeway = time.Second }, "not_before_leeway"},
		"leeway that no kind has": {func(r *Role) { r.NotBeforeLeeway = -1 }, "not_before_leeway"},
	}
	signed := rows{
		"no audience":         {func(r *Role) { r.Audiences = nil }, "audiences"},
		"prefix":              {func(r *Role) { r.Prefix = "vtb" }, "prefix"},
		"max_tokens":          {func(r *Role) { r.MaxTokens = 1 }, "max_tokens"},
		"key":                 {func(r *Role) { r.Key = "team-a" }, ""},
		"no key":              {func(r *Role) { r.Key = "" }, "key"},
		"key that is no name": {func(r *Role) { r.Key = "a/b" }, "key"},
		"no leeway":           {func(r *Role) { r.NotBeforeLeeway = 0 }, ""},
		"longest leeway":      {func(r *Role) { r.NotBeforeLeeway = 5 * time.Minute }, ""},
		"too long a leeway":   {func(r *Role) { r.NotBeforeLeeway = 5*time.Minute + 1 }, "not_before_leeway"},
		"negative leeway":     {func(r *Role) { r.NotBeforeLeeway = -1 }, "not_before_leeway"},
	}
	run := func(name string, role func() *Role, tables ...rows) {
		for _, table := range tables {
			for row, test := range table {
				t.Run(name+"/"+row, func(t *testing.T) {
					r := role()
					test.change(r)
					wantMistake(t, r.Validate(ceiling), test.field)
				})
			}
		}
	}
	run("api_key", func() *Role { return New("a", APIKey) }, both, opaque)
	run("bearer", func() *Role { return New("a", Bearer) }, both, opaque)
	run("jwt", jwtRole, both, signed)
}

func TestClaims(t *testing.T) {
	nested := func(levels int) string {
		return strings.Repeat(`{"a":`, levels-1) + `{}` + strings.Repeat(`}`, levels-1)
	}
	for name, test := range map[string]struct {
		claims, template string
		field            string
	}{
		"values of every type":       {`{"a":"x","b":1,"c":true,"d":null,"e":[1],"f":{"g":1}}`, "", ""},
		"nested as deep as may be":   {nested(32), "", ""},
		"nested too deep":            {nested(33), "", "claims"},
		"lists nested too deep":      {`{"a":` + strings.Repeat("[", 32) + strings.Repeat("]", 32) + `}`, "", "claims"},
		"wide, and not deep":         {`{"a":[` + strings.Repeat(`{},`, 100) + `{}]}`, "", ""},
		"as many bytes as may be":    {`{"a":"` + strings.Repeat("x", 8*1024-len(`{"a":""}`)) + `"}`, "", ""},
		"too many bytes":             {`{"a":"` + strings.Repeat("x", 8*1024-len(`{"a":""}`)+1) + `"}`, "", "claims"},
		"not an object":              {`[1]`, "", "claims"},
		"null":                       {`null`, "", "claims"},
		"not JSON":                   {`{`, "", "claims"},
		"empty name":                 {`{"":1}`, "", "claims"},
		"control character in name":  {`{"a\n":1}`, "", "claims"},
		"change of direction":        {`{"a\u202e":1}`, "", "claims"},
		"name with a namespace":      {`{"https://example.com/team":1}`, "", ""},
		"reserved name further down": {`{"a":{"exp":1}}`, "", ""},

		"template":                          {"", `{"team": {{identity.entity.metadata.team}}}`, ""},
		"template beside claims":            {`{"a":1}`, `{"b": {{identity.entity.name}}}`, ""},
		"claims in two cases":               {`{"rank":1,"RANK":2}`, "", "claims"},
		"a claim twice":                     {`{"a":1,"a":2}`, "", "claims"},
		"a claim twice, escaped":            {`{"a":1,"\u0061":2}`, "", "claims"},
		"a member twice further down":       {`{"a":[{"b":1,"b":2}]}`, "", "claims"},
		"rubbish behind claims":             {`{"a":1}}`, "", "claims"},
		"a second object":                   {`{"a":1}{"b":1}`, "", "claims"},
		"template of a claim in a case":     {`{"rank":1}`, `{"RANK": 2}`, "claims_template"},
		"template of a claim in a letter":   {`{"rank":1}`, `{"ran\u212a": 2}`, "claims_template"},
		"template of two spellings":         {"", `{"rank":1,"Rank":2}`, "claims_template"},
		"template of a member twice":        {"", `{"acl":{"tenant":"a","tenant":"b"}}`, "claims_template"},
		"template of a claim twice":         {"", `{"a":1,"a":2}`, "claims_template"},
		"template as deep as may be":        {"", nested(32), ""},
		"template too deep":                 {"", nested(33), "claims_template"},
		"template with a directive as name": {"", `{"{{identity.entity.name}}": 1}`, "claims_template"},
		"template with one in a name":       {"", `{"a": {"x-{{identity.entity.name}}": 1}}`, "claims_template"},
		"template of a claim that is there": {`{"a":1}`, `{"a": {{identity.entity.name}}}`, "claims_template"},
		"template that is no object":        {"", `[{{identity.entity.name}}]`, "claims_template"},
		"template with a reserved name":     {"", `{"sub": {{identity.entity.name}}}`, "claims_template"},
		"template with an empty name":       {"", `{"": {{identity.entity.name}}}`, "claims_template"},
		"template that is open":             {"", `{"a": {{identity.entity.name}`, "claims_template"},
	} {
		t.Run(name, func(t *testing.T) {
			r := jwtRole()
			if test.claims != "" {
				r.Claims = json.RawMessage(test.claims)
			}
			r.ClaimsTemplate = test.template
			wantMistake(t, r.Validate(config.Default()), test.field)
		})
	}
}

// Whatever their case, and in letters that fold into ASCII, too: some verifiers
// do not tell them apart.
func TestReservedClaims(t *testing.T) {
	for _, name := range []string{"iss", "sub", "aud", "exp", "nbf", "iat", "jti", "client_id", "scope", "status", "cnf", "bound_cidrs", "metadata"} {
		for _, spelling := range []string{name, strings.ToUpper(name), strings.ToUpper(name[:1]) + name[1:], strings.ReplaceAll(name, "s", "ſ")} {
			wantMistake(t, CheckClaimNames("claims", []string{"a", spelling}), "claims")
		}
		wantMistake(t, CheckClaimNames("claims", []string{name + "2", "x" + name}), "")
	}
}

func TestStaticClaims(t *testing.T) {
	r := jwtRole()
	if claims, err := r.StaticClaims(); err != nil || len(claims) != 0 {
		t.Errorf("a role without claims has %v, %v", claims, err)
	}
	r.Claims = json.RawMessage(`{"id":12345678901234567890,"team":"a"}`)
	claims, err := r.StaticClaims()
	if err != nil || string(claims["id"]) != "12345678901234567890" || string(claims["team"]) != `"a"` || len(claims) != 2 {
		t.Errorf("got %s, %v", claims, err)
	}
}

func TestParseCIDRs(t *testing.T) {
	for given, want := range map[string]string{
		"10.0.0.0/8":     "10.0.0.0/8",
		"10.1.2.3/8":     "10.0.0.0/8", // masked, so that what is shown is what holds
		"192.0.2.7":      "192.0.2.7/32",
		"2001:db8::/32":  "2001:db8::/32",
		"2001:DB8::1/32": "2001:db8::/32",
		"2001:db8::1":    "2001:db8::1/128",
		"0.0.0.0/0":      "0.0.0.0/0",
		"::/0":           "::/0",
	} {
		prefixes, err := ParseCIDRs("bound_cidrs", []string{given})
		if err != nil || len(prefixes) != 1 || prefixes[0].String() != want {
			t.Errorf("%s: %v, %v; want %s", given, prefixes, err, want)
		}
	}
	for _, bad := range []string{
		"", " ", "10.0.0.0/33", "10.0.0.0/-1", "10.0.0.0/08", "10.0.0.0/", "10.0.0", "010.0.0.1", "10.0.0.0/8 ", "10.0.0.0/255.0.0.0",
		"localhost", "10.0.0.1:80", "[::1]", "fe80::1%eth0", "fe80::%eth0/64", "::ffff:10.0.0.1", "::ffff:10.0.0.0/104", "::/129",
	} {
		if prefixes, err := ParseCIDRs("bound_cidrs", []string{"10.0.0.0/8", bad}); err == nil {
			t.Errorf("%q is taken for %v", bad, prefixes)
		} else {
			wantMistake(t, err, "bound_cidrs")
		}
	}
	_, err := ParseCIDRs("bound_cidrs", []string{strings.Repeat("é", 1000)})
	if err == nil || len(err.Error()) > 300 {
		t.Errorf("the error repeats all of a long mistake: %v", err)
	}
	if prefixes, err := ParseCIDRs("bound_cidrs", nil); err != nil || len(prefixes) != 0 {
		t.Errorf("no networks: %v, %v", prefixes, err)
	}
}

func TestValidateMetadata(t *testing.T) {
	entries := func(n int, valueLength int) map[string]string {
		return maps.Collect(func(yield func(string, string) bool) {
			for _, key := range numbered(n, "k%03d") {
				if !yield(key, strings.Repeat("v", valueLength)) {
					return
				}
			}
		})
	}
	for name, test := range map[string]struct {
		metadata map[string]string
		ok       bool
	}{
		"none":                    {nil, true},
		"empty value":             {map[string]string{"a": ""}, true},
		"not ASCII":               {map[string]string{"größe": "☃"}, true},
		"most entries":            {entries(64, 60), true}, // 64 × (4 + 60) bytes, the most in all
		"too many entries":        {entries(65, 1), false},
		"too many bytes in all":   {entries(64, 61), false},
		"longest key":             {map[string]string{strings.Repeat("k", 128): ""}, true},
		"too long a key":          {map[string]string{strings.Repeat("k", 129): ""}, false},
		"longest value":           {map[string]string{"a": strings.Repeat("v", 512)}, true},
		"too long a value":        {map[string]string{"a": strings.Repeat("v", 513)}, false},
		"empty key":               {map[string]string{"": "v"}, false},
		"line break in a value":   {map[string]string{"a": "b\nc"}, false},
		"line separator in a key": {map[string]string{"a\u2028": "b"}, false},
		"change of direction":     {map[string]string{"a": "\u202eb"}, false},
		"not UTF-8":               {map[string]string{"a": "\xff"}, false},
		"keys alike":              {map[string]string{"tier": "a", "tiers": "b", "tıer": "c"}, true},
		"a key in two cases":      {map[string]string{"tier": "a", "Tier": "b"}, false},
		"a Kelvin sign":           {map[string]string{"rank": "a", "ran\u212a": "b"}, false},
		"a long s":                {map[string]string{"class": "a", "cla\u017fs": "b"}, false},
	} {
		t.Run(name, func(t *testing.T) {
			field := "metadata"
			if test.ok {
				field = ""
			}
			wantMistake(t, ValidateMetadata("metadata", test.metadata), field)
		})
	}
}

func TestValidateSubject(t *testing.T) {
	for _, good := range []string{"a", "svc:billing", "größe", strings.Repeat("a", 512)} {
		wantMistake(t, ValidateSubject(good), "")
	}
	for _, bad := range []string{"", "a\tb", "a\u009b", "\u2066a", "\u2029", "\xff", strings.Repeat("a", 513)} {
		wantMistake(t, ValidateSubject(bad), "subject")
	}
}

// A clone's fields are its own: a change that is refused must not show.
func TestClone(t *testing.T) {
	r := jwtRole()
	want := *r
	c := r.Clone()
	c.TTL, c.Audiences, c.Metadata = time.Minute, slices.Clone(c.Audiences), map[string]string{"a": "b"}
	if !reflect.DeepEqual(*r, want) {
		t.Errorf("the original became %+v", *r)
	}
}

// What is fixed in a role is checked each time, too: it may have been stored by a
// version that knew fewer reserved names, or come from a restored snapshot.
func TestStoredClaimsAreChecked(t *testing.T) {
	for _, stored := range []string{`{"sub":"admin"}`, `{"Exp":99999999999}`, `{"a":1,"a":2}`, strings.Repeat(`{"a":`, 40) + "1" + strings.Repeat("}", 40)} {
		r := jwtRole()
		r.Claims = json.RawMessage(stored)
		_, err := r.AllClaims(nil)
		wantMistake(t, err, "claims")
	}
	r := jwtRole()
	r.Claims, r.ClaimsTemplate = json.RawMessage(`{"rank":1}`), `{"{{identity.entity.name}}":2}`
	for _, name := range []string{"rank", "RANK", "ran\u212a", "sub", "Exp"} {
		claims, err := r.AllClaims(func(string) (map[string]json.RawMessage, error) {
			return map[string]json.RawMessage{name: json.RawMessage("2")}, nil
		})
		if err == nil {
			t.Errorf("a caller called %s has the claims %s", name, claims)
			continue
		}
		wantMistake(t, err, "claims_template")
	}
}
