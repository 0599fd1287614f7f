package scope

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/vault-tokens/vault-plugin-secrets-tokens/backend/usererror"
)

func many(n int, format string) (list []string) {
	for i := range n {
		list = append(list, fmt.Sprintf(format, i))
	}
	return list
}

func TestValidate(t *testing.T) {
	tests := map[string]struct {
		scopes             []string
		scopeOK, patternOK bool
	}{
		"none":                    {nil, true, true},
		"one character":           {[]string{"a"}, true, true},
		"all of RFC 6749":         {[]string{"!#$%&'()+,-./09:;<=>?@AZ[]^_`az{|}~"}, true, true},
		"case makes a difference": {[]string{"a", "A"}, true, true},
		"most entries":            {many(MaxCount, "s%d"), true, true},
		"longest entry":           {[]string{strings.Repeat("a", MaxLength)}, true, true},
		"most bytes":              {many(16, "%0256d"), true, true},
		"wildcard":                {[]string{"orders:*"}, false, true},
		"nothing but a wildcard":  {[]string{"*"}, false, true},

		"empty entry":       {[]string{"a", ""}, false, false},
		"space":             {[]string{"a b"}, false, false},
		"quote":             {[]string{`a"b`}, false, false},
		"backslash":         {[]string{`a\b`}, false, false},
		"control character": {[]string{"a\x1f"}, false, false},
		"delete character":  {[]string{"a\x7f"}, false, false},
		"not ASCII":         {[]string{"é"}, false, false},
		"not UTF-8":         {[]string{"\xff"}, false, false},
		"listed twice":      {[]string{"a", "b", "a"}, false, false},
		"too many entries":  {many(MaxCount+1, "s%d"), false, false},
		"too long an entry": {[]string{strings.Repeat("a", MaxLength+1)}, false, false},
		"too many bytes":    {append(many(16, "%0256d"), "a"), false, false},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			check(t, "a scope", Validate("f", test.scopes), test.scopeOK)
			check(t, "a pattern", ValidatePatterns("f", test.scopes), test.patternOK)
		})
	}
}

func check(t *testing.T, what string, err error, ok bool) {
	t.Helper()
	var mistake *usererror.Error
	switch {
	case ok && err != nil:
		t.Errorf("refused as %s: %v", what, err)
	case !ok && (!errors.As(err, &mistake) || mistake.Field != "f"):
		t.Errorf("as %s: %v, want a mistake in field f", what, err)
	}
}

func TestOutside(t *testing.T) {
	for _, test := range []struct {
		patterns, scopes string // separated by spaces
		outside          string // the first one, if any
	}{
		{"a b", "b a", ""},
		{"a b", "a c b d", "c"},
		{"", "a", "a"},
		{"", "", ""},
		{"a", "", ""},
		{"*", "a orders:read *", ""},
		{"orders:*", "orders:read orders:", ""},
		{"orders:*", "orders", "orders"},
		{"orders:*", "preorders:read", "preorders:read"},
		{"*:read", "orders:read", ""},
		{"*:read", "orders:reads", "orders:reads"},
		{"orders:*:read", "orders:eu:read orders::read orders:a:b:read", ""},
		{"orders:*:read", "orders:read", "orders:read"},
		{"a*a", "a", "a"}, // one character is not both ends
		{"Orders", "orders", "orders"},

		// An allow-list within an allow-list: all that it allows must be allowed.
		{"orders:*", "orders:* orders:e* orders:*:read", ""},
		{"orders:*", "*", "*"},
		{"orders:*", "order*", "order*"},
		{"*:read", "orders:*", "orders:*"},
		{"*:read", "orders:*:read *:read", ""},
		{"orders:* invoices:*", "invoices:2*", ""},
		{"orders:e* orders:f*", "orders:*", "orders:*"},
		{"a b", "*", "*"},
		{"", "*", "*"},
		{"**", "* a*", ""},
		{"a*b*c", "a*c", "a*c"},
		{"a*c", "a*b*c", ""},
	} {
		got, found := Outside(strings.Fields(test.patterns), strings.Fields(test.scopes))
		if got != test.outside || found != (test.outside != "") {
			t.Errorf("of %q, %q is outside of %q; want %q", test.scopes, got, test.patterns, test.outside)
		}
	}
}

// What an allow-list allows within another, the other allows too, whatever the
// scope.
func FuzzOutside(f *testing.F) {
	f.Add("orders:*", "orders:*:read", "orders:eu:read")
	f.Add("a*b*c", "a*c", "abc")
	f.Add("**a", "*a", "a")
	f.Fuzz(func(t *testing.T, outer, inner, scope string) {
		if slices.Contains([]string{outer, inner, scope}, "") || strings.Contains(scope, "*") {
			return
		}
		_, patternOutside := Outside([]string{outer}, []string{inner})
		_, outsideInner := Outside([]string{inner}, []string{scope})
		_, outsideOuter := Outside([]string{outer}, []string{scope})
		if !patternOutside && !outsideInner && outsideOuter {
			t.Errorf("%q is within %q, and allows %q, which that does not", inner, outer, scope)
		}
	})
}

func TestValidateAudiences(t *testing.T) {
	for name, test := range map[string]struct {
		audiences []string
		ok        bool
	}{
		"none":              {nil, true},
		"text":              {[]string{"orders", "Orders", "https://api.example.com/", "größe"}, true},
		"most":              {many(MaxAudiences, "a%d"), true},
		"longest":           {[]string{strings.Repeat("a", 512)}, true},
		"too many":          {many(MaxAudiences+1, "a%d"), false},
		"too long":          {[]string{strings.Repeat("a", 513)}, false},
		"empty":             {[]string{"a", ""}, false},
		"twice":             {[]string{"a", "b", "a"}, false},
		"control character": {[]string{"a\x00"}, false},
		"not UTF-8":         {[]string{"\xff"}, false},
	} {
		t.Run(name, func(t *testing.T) {
			var mistake *usererror.Error
			err := ValidateAudiences("audience", test.audiences)
			if test.ok != (err == nil) || err != nil && (!errors.As(err, &mistake) || mistake.Field != "audience") {
				t.Errorf("got %v", err)
			}
		})
	}
}

func TestAudiencePatterns(t *testing.T) {
	patterns := []string{"https://*.example.com", "größe"}
	if err := ValidateAudiencePatterns("allowed_audiences", patterns); err != nil {
		t.Error(err)
	}
	for audience, inside := range map[string]bool{
		"https://api.example.com": true, "größe": true, "https://example.com": false, "http://api.example.com": false, "https://api.example.com/": false, "*": false,
	} {
		if _, outside := Outside(patterns, []string{audience}); outside == inside {
			t.Errorf("%s: inside is %v", audience, !outside)
		}
	}
	if _, outside := Outside(nil, []string{"a"}); !outside {
		t.Error("an empty list allows an audience")
	}
}
