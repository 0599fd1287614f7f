package text

import (
	"encoding/json"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/vault-tokens/vault-plugin-secrets-tokens/verify/format"
)

func TestPrintable(t *testing.T) {
	for _, good := range []string{"", "orders", "größe ☃", "a b"} {
		if !Printable(good) {
			t.Errorf("%q is refused", good)
		}
	}
	for _, bad := range []string{"a\nb", "\x00", "\u009b", "\u202e", "\u2066", "\u2028", "\u2029", "\xff", "\x7f"} {
		if Printable(bad) {
			t.Errorf("%q passes", bad)
		}
	}
}

// Two names fold to the same if, and only if, encoding/json takes one for the other.
func TestFoldIsThatOfTheJSONDecoder(t *testing.T) {
	for _, spelling := range []string{"rank", "RANK", "Rank", "ran\u212a", "rank2", "rаnk", "ra\u0131k", "ran"} {
		var got struct{ Rank int }
		name, err := json.Marshal(spelling)
		if err != nil {
			t.Fatal(err)
		}
		if err := json.Unmarshal([]byte(`{`+string(name)+`:1}`), &got); err != nil {
			t.Fatal(err)
		}
		if same := Fold(spelling) == Fold("rank"); same != (got.Rank == 1) {
			t.Errorf("%q: folds to the same is %v, the decoder takes it is %v", spelling, same, got.Rank == 1)
		}
	}
	for a, b := range map[string]string{"class": "cla\u017fs", "größe": "GRÖẞE", "σίγμα": "ΣΊΓΜΑ", "ς": "σ"} {
		if Fold(a) != Fold(b) || !strings.EqualFold(a, b) {
			t.Errorf("%q and %q are told apart", a, b)
		}
	}
}

func TestClip(t *testing.T) {
	for given, want := range map[string]string{
		"":                         "",
		"orders:read":              "orders:read",
		strings.Repeat("a ", 32):   strings.Repeat("a ", 32),
		strings.Repeat("a ", 33):   strings.Repeat("a ", 32) + "…",
		strings.Repeat("E", 1<<20): "[redacted]…",
	} {
		if got := Clip(given); got != want {
			t.Errorf("%.40q… is clipped to %q, want %q", given, got, want)
		}
	}
	if got := Clip(strings.Repeat("é", 1000)); !utf8.ValidString(got) || len(got) > 70 {
		t.Errorf("clipped to %q", got)
	}
}

// A part of a token does not look like one: what is cut first shows it.
func TestClipShowsNoPartOfAToken(t *testing.T) {
	prefix := strings.Repeat("p", format.MaxPrefixLength)
	token, err := format.NewOpaque(strings.NewReader(strings.Repeat("random bits ", 4)), prefix)
	if err != nil {
		t.Fatal(err)
	}
	whole := token.Encode().Reveal()
	secret := whole[len(prefix)+1+format.IDLength:]
	for before := range 1100 {
		for _, text := range []string{
			strings.Repeat(" ", before) + whole,
			whole + strings.Repeat(" ", before) + whole,
			strings.Repeat("x", before) + " " + whole, // redacted to a few characters
		} {
			for _, got := range []string{Clip(text), ClipTo(text, 1024)} {
				if strings.Contains(got, secret[:5]) {
					t.Fatalf("with %d characters before it: %q", before, got)
				}
			}
		}
	}
}
