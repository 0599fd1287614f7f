// Package sanitize makes text that somebody else chose safe to look at: in a
// terminal, where it could move the cursor or change colours, and anywhere,
// where it could reorder or hide what stands beside it. It does not escape for
// HTML or JSON.
package sanitize

import (
	"fmt"
	"strings"
	"unicode"
	"unicode/utf8"
)

// Text returns s with every character that cannot be seen as an escape (\x1b,
// \u202e), and with … for what is beyond max characters.
func Text(s string, max int) string {
	var out strings.Builder
	for count := 0; s != ""; count++ {
		if count == max {
			out.WriteString("…")
			break
		}
		r, size := utf8.DecodeRuneInString(s)
		switch {
		case r == utf8.RuneError && size == 1:
			fmt.Fprintf(&out, `\x%02x`, s[0])
		case seen(r):
			out.WriteRune(r)
		case r < 0x80:
			fmt.Fprintf(&out, `\x%02x`, r)
		case r < 0x10000:
			fmt.Fprintf(&out, `\u%04x`, r)
		default:
			fmt.Fprintf(&out, `\U%08x`, r)
		}
		s = s[size:]
	}
	return out.String()
}

// seen reports whether a character takes its own place in a line: it is none of
// the controls, line separators, bidirectional and zero-width marks, and no
// space that cannot be told from others.
func seen(r rune) bool {
	return r == ' ' || unicode.IsGraphic(r) && !unicode.Is(unicode.Zs, r) && !unicode.Is(unicode.Other_Default_Ignorable_Code_Point, r) &&
		!unicode.Is(unicode.Variation_Selector, r)
}
