package sanitize

import (
	"strings"
	"testing"
	"unicode/utf8"
)

func TestText(t *testing.T) {
	for name, tc := range map[string]struct{ in, want string }{
		"plain":          {"orders-key", "orders-key"},
		"other scripts":  {"Łódź 東京 é", "Łódź 東京 é"},
		"markup is text": {"<b>&", "<b>&"},
		"terminal":       {"a\x1b[31mb\a\r\n\tc", `a\x1b[31mb\x07\x0d\x0a\x09c`},
		"C1 control":     {"a\u009bb", `a\u009bb`},
		"reordering":     {"a\u202eb\u2066c", `a\u202eb\u2066c`},
		"zero width":     {"a\u200b\ufeff\u00adb", `a\u200b\ufeff\u00adb`},
		"odd spaces":     {"a\u00a0\u2028b", `a\u00a0\u2028b`},
		"filler":         {"a\u115fb\ufe0f", `a\u115fb\ufe0f`},
		"tag characters": {"a\U000e0041", `a\U000e0041`},
		"invalid":        {"a\xff\xc3", `a\xff\xc3`},
		"too long":       {strings.Repeat("é", 41), strings.Repeat("é", 40) + "…"},
		"just fits":      {strings.Repeat("é", 40), strings.Repeat("é", 40)},
	} {
		t.Run(name, func(t *testing.T) {
			if got := Text(tc.in, 40); got != tc.want {
				t.Errorf("Text(%q) = %q, want %q", tc.in, got, tc.want)
			}
		})
	}
}

func FuzzText(f *testing.F) {
	f.Add("a\x1b[0m\u202e\xff", 3)
	f.Fuzz(func(t *testing.T, s string, max int) {
		got := Text(s, max)
		if !utf8.ValidString(got) {
			t.Errorf("%q is not UTF-8", got)
		}
		for _, r := range got {
			if !seen(r) {
				t.Errorf("%q still has %U", got, r)
			}
		}
	})
}
