// Package sink passes alerts on: to people at a terminal, to files of JSON
// lines, to webhooks and to Alertmanager.
package sink

import (
	"fmt"
	"strings"
	"unicode"
	"unicode/utf8"
)

// maxField is how much of a field is shown: enough for any name or path that
// people choose, and too little to flood a screen.
const maxField = 400

// Printable makes a string from the log harmless to a terminal: whoever writes
// a path or a name could otherwise move the cursor, change the title, or turn
// the direction of writing. What is replaced stays recognisable, as \x1b.
func Printable(s string) string {
	if len(s) > maxField {
		cut := maxField
		for cut > 0 && !utf8.RuneStart(s[cut]) {
			cut--
		}
		s = s[:cut] + "…"
	}
	if strings.IndexFunc(s, hidden) < 0 && utf8.ValidString(s) {
		return s
	}
	var b strings.Builder
	for i, r := range s {
		switch {
		case r == utf8.RuneError && !strings.HasPrefix(s[i:], string(utf8.RuneError)):
			fmt.Fprintf(&b, `\x%02x`, s[i])
		case !hidden(r):
			b.WriteRune(r)
		case r < 0x100:
			fmt.Fprintf(&b, `\x%02x`, r)
		default:
			fmt.Fprintf(&b, `\u%04x`, r)
		}
	}
	return b.String()
}

// hidden is what does not show as itself: controls, formats such as direction
// marks and zero-width joiners, separators of lines, private use.
func hidden(r rune) bool { return r != ' ' && !unicode.IsPrint(r) }
