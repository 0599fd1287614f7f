package format

import (
	"bytes"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"regexp"
	"slices"
	"strings"
	"testing"
)

func newToken(t *testing.T, prefix string) Opaque {
	t.Helper()
	token, err := NewOpaque(rand.Reader, prefix)
	if err != nil {
		t.Fatal(err)
	}
	return token
}

func TestOpaqueRoundTrip(t *testing.T) {
	pattern := regexp.MustCompile(OpaquePattern)
	for _, prefix := range []string{"vtk", "a", "0", "my_team_key", strings.Repeat("x", MaxPrefixLength)} {
		token := newToken(t, prefix)
		text := token.Encode().Reveal()
		if want := len(prefix) + 1 + 71; len(text) != want {
			t.Errorf("%s: %d characters, want %d", prefix, len(text), want)
		}
		parsed, err := ParseOpaque(text)
		if err != nil || parsed != token {
			t.Errorf("%s: parsed to %v, %v", prefix, parsed, err)
		}
		if found := pattern.FindString("key = '" + text + "';"); found != text {
			t.Errorf("the pattern finds %q in text, want %q", found, text)
		}
	}
}

// The format itself, so that a change of it cannot pass unseen: tokens that
// were issued must stay readable.
func TestOpaqueFormatIsFixed(t *testing.T) {
	zero, err := NewOpaque(bytes.NewReader(make([]byte, 48)), "vtk")
	if err != nil {
		t.Fatal(err)
	}
	if got, want := zero.Encode().Reveal(), "vtk_"+strings.Repeat("0", 65); !strings.HasPrefix(got, want) {
		t.Errorf("all zero bits encode to %s", got)
	}
	ones, err := NewOpaque(bytes.NewReader(bytes.Repeat([]byte{0xFF}, 48)), "vtk")
	if err != nil {
		t.Fatal(err)
	}
	// 2^128-1 and 2^256-1 in base 62.
	if got := ones.ID; got != "7n42DGM5Tflk9n8mt7Fhc7" {
		t.Errorf("128 one bits encode to %s", got)
	}
	if got := ones.secret; got != "yhjskwdA6OZ1AL1YmHWZWm8LLG7HjnuCA2j5rOw8Xp1" {
		t.Errorf("256 one bits encode to %s", got)
	}
}

func TestMistypedOpaqueIsRefused(t *testing.T) {
	text := newToken(t, "my_key").Encode().Reveal()
	for i := range len(text) {
		for _, c := range []byte{'0', 'z', '_', ' ', 0, 0xC3} {
			if text[i] == c {
				continue
			}
			mistyped := text[:i] + string(c) + text[i+1:]
			if _, err := ParseOpaque(mistyped); !errors.Is(err, ErrMalformed) {
				t.Fatalf("character %d replaced by %q: %v", i, c, err)
			}
		}
		if _, err := ParseOpaque(text[:i]); !errors.Is(err, ErrMalformed) {
			t.Fatalf("cut to %d characters: %v", i, err)
		}
	}
	for _, s := range []string{"", "_", text + "0", " " + text, text + "\n", strings.ToUpper(text), strings.Repeat("a", 1<<20)} {
		if _, err := ParseOpaque(s); !errors.Is(err, ErrMalformed) {
			t.Errorf("%.20q: %v", s, err)
		}
	}
}

func TestPrefixes(t *testing.T) {
	for _, bad := range []string{"", "_", "a_", "_a", "a__b", "A", "a-b", "é", "a b", strings.Repeat("x", MaxPrefixLength+1)} {
		if ValidPrefix(bad) {
			t.Errorf("%q passes for a prefix", bad)
		}
		if _, err := NewOpaque(rand.Reader, bad); err == nil {
			t.Errorf("a token was made with the prefix %q", bad)
		}
	}
}

func TestShortOfRandomBits(t *testing.T) {
	if _, err := NewOpaque(bytes.NewReader(make([]byte, 47)), "vtk"); err == nil {
		t.Error("a token was made of 47 random bytes")
	}
}

func TestSecretsRedactThemselves(t *testing.T) {
	token := newToken(t, "vtk")
	secret := token.Encode()
	var log bytes.Buffer
	slog.New(slog.NewJSONHandler(&log, nil)).Info("test", "secret", secret, "token", token)
	encoded, err := json.Marshal(map[string]any{"secret": secret})
	if err != nil {
		t.Fatal(err)
	}
	shown := []string{log.String(), string(encoded)}
	verbs := []string{"%d", "%x", "%X", "% x", "%#x", "%t", "%e", "%c", "%v", "%+v", "%#v", "%s", "%q", "%#q", "%200s", "%.3s"}
	for c := 'A'; c <= 'z'; c++ {
		if c != 'T' && c != 'p' && c != 'w' { // fmt's own: type, pointers, errors
			verbs = append(verbs, "%"+string(c), "%+#"+string(c))
		}
	}
	type holder struct {
		S Secret
		O Opaque
	}
	values := []any{secret, token, &token, []Secret{secret}, map[string]any{"s": secret}, holder{secret, token}, &holder{secret, token}}
	for _, value := range values {
		for _, verb := range verbs {
			shown = append(shown, fmt.Sprintf(verb, value))
		}
		shown = append(shown, fmt.Sprint(value), fmt.Sprintln(value), fmt.Sprintf(oneMore("none"), value))
	}
	forms := []string{token.secret}
	for _, verb := range []string{"%x", "%X", "% x", "%#x", "%d", "%v", "%c"} {
		forms = append(forms, fmt.Sprintf(verb, token.secret), strings.Trim(fmt.Sprintf(verb, []byte(token.secret)), "[]"))
	}
	for _, s := range shown {
		if slices.ContainsFunc(forms, func(form string) bool { return strings.Contains(s, form) }) {
			t.Errorf("the secret shows in %q", s)
		}
	}
}

// oneMore keeps the linter from seeing a format that lacks a verb, on purpose.
func oneMore(format string) string { return format }

func FuzzParseOpaque(f *testing.F) {
	f.Add("vtk_4109mqr7D1iAczWyKVT0JgUp0s2Sge6nXIg5jfuW6FedimywKBBTDpckWW47FKACi29GYva")
	f.Add("")
	f.Fuzz(func(t *testing.T, s string) {
		token, err := ParseOpaque(s)
		if err == nil && token.Encode().Reveal() != s {
			t.Errorf("%q parses, but encodes to something else", s)
		}
	})
}
