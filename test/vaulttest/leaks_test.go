package vaulttest

import (
	"strings"
	"testing"
)

func TestSecretsAreFoundWhereverTheyStand(t *testing.T) {
	secret := strings.Repeat("aB3", 14) + "z"
	token := "vtk_" + strings.Repeat("1", 22) + secret + "CHKSUM"
	signature := strings.Repeat("x-_9", 21) + "qq"
	jwt := "eyJhbGciOiJFUzI1NiJ9.eyJzdWIiOiJhIn0." + signature

	var s Secrets
	s.Add(token, "opaque")
	s.Add(jwt, "jwt")
	for name, tc := range map[string]struct{ text, want string }{
		"the full token":           {`{"token":"` + token + `"}`, "line 1: opaque"},
		"the secret alone":         {"first line\nx=" + secret + ".", "line 2: opaque"},
		"inside a longer run":      {"zzzz" + secret + "zzzz", "line 1: opaque"},
		"a full JWT":               {"Bearer " + jwt, "line 1: jwt"},
		"the signature alone":      {"\n\n(" + signature + ")", "line 3: jwt"},
		"id without secret":        {"vtk_" + strings.Repeat("1", 22), ""},
		"one character is missing": {secret[1:], ""},
		"a JWT without signature":  {strings.TrimSuffix(jwt, signature), ""},
		"a hexadecimal HMAC":       {"hmac-sha256:" + strings.Repeat("0123456789abcdef", 4), ""},
	} {
		t.Run(name, func(t *testing.T) {
			found, err := s.scan(strings.NewReader(tc.text))
			if err != nil {
				t.Fatal(err)
			}
			if got := strings.Join(found, ", "); got != tc.want {
				t.Errorf("found %q, want %q", got, tc.want)
			}
		})
	}
	if s.Len() != 2 {
		t.Errorf("Len() = %d, want 2", s.Len())
	}
}
