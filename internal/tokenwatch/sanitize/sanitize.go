// Package sanitize makes untrusted text safe to display: in a terminal, where it
// could move the cursor or change colours, and anywhere else, where it could
// reorder or hide the text around it. It does not escape for HTML or JSON.
package sanitize

import (
	"fmt"
	"strings"
	"unicode"
	"unicode/utf8"
)

// Text returns s with every invisible character replaced by an escape (\x1b,
// \u202e), and everything after max characters by ….
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

// seen reports whether a character is visible in its own place: it is not a
// control, a line separator, a bidirectional or zero-width mark, nor a space
// that looks like another one.
func seen(r rune) bool {
	return r == ' ' || unicode.IsGraphic(r) && !unicode.Is(unicode.Zs, r) && !unicode.Is(unicode.Other_Default_Ignorable_Code_Point, r) &&
		!unicode.Is(unicode.Variation_Selector, r)
}
