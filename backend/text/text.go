// Package text has the rules for text that callers, operators and identities
// choose: what it may hold, which spellings are the same, and how much of it an
// error repeats.
package text

import (
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/vault-tokens/vault-plugin-secrets-tokens/verify/format"
)

// Printable reports whether s is valid UTF-8 without characters that could garble
// a log line or a terminal: controls, line separators, and changes of the writing
// direction.
func Printable(s string) bool {
	return utf8.ValidString(s) && !strings.ContainsFunc(s, func(c rune) bool {
		return unicode.IsControl(c) || unicode.In(c, unicode.Bidi_Control, unicode.Zl, unicode.Zp)
	})
}

// Fold returns s in the spelling that all its spellings share, as encoding/json
// folds the names of an object's members to find a field: whatever the case, and
// with letters such as the Kelvin sign and the long s, which fold into ASCII.
func Fold(s string) string {
	return strings.Map(func(c rune) rune {
		for { // to the smallest letter of the cycle that SimpleFold goes round
			next := unicode.SimpleFold(c)
			if next <= c {
				return next
			}
			c = next
		}
	}, s)
}

// Bounds on what Clip looks at and on what it returns, in bytes.
const (
	clipped  = 64
	examined = 1024
)

// Clip shortens a value that an error repeats to the caller. What may be a token
// is replaced first: a part of one would not look like one.
func Clip(s string) string { return clip(s, examined, clipped) }

// ClipTo is Clip with another bound than that of a single value.
func ClipTo(s string, most int) string { return clip(s, max(examined, 2*most), most) }

func clip(s string, examined, most int) string {
	cut := len(s) > examined
	if cut {
		s = s[:examined]
	}
	s = format.Redact(strings.ToValidUTF8(s, "\uFFFD"))
	if cut { // the start of a token may be left at the end
		s = strings.TrimRightFunc(s, isTokenCharacter)
	}
	if len(s) <= most {
		if cut {
			s += "…"
		}
		return s
	}
	return strings.ToValidUTF8(s[:most], "") + "…"
}

func isTokenCharacter(c rune) bool {
	return c >= '0' && c <= '9' || c >= 'A' && c <= 'Z' || c >= 'a' && c <= 'z' || c == '_' || c == '-' || c == '.'
}
