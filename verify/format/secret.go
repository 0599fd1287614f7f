package format

import (
	"fmt"
	"io"
	"log/slog"
	"regexp"
)

const redacted = "[redacted]"

// tokenLike matches what is, or is a large part of, an opaque token or a JWT, and
// what stands behind it without a gap: the rest of a signature.
var tokenLike = regexp.MustCompile(`(eyJ[0-9A-Za-z_-]{8,}|[0-9A-Za-z]{40,})[0-9A-Za-z_.-]*`)

// Redact returns text with everything that may be a token replaced.
func Redact(text string) string { return tokenLike.ReplaceAllString(text, redacted) }

// Secret is an issued token in the form that its bearer presents: an opaque
// token or a JWT in compact serialization. It redacts itself wherever values
// are printed, logged or encoded; only Reveal returns the text.
//
// Package fmt cannot be kept from it in an unexported field of a value that it
// prints, and under %p and %w, which are for pointers and errors.
type Secret string

// Reveal returns the token itself.
func (s Secret) Reveal() string { return string(s) }

// Format redacts the token under every verb, such as %d and %x, for which fmt
// would not ask String.
func (s Secret) Format(state fmt.State, _ rune) { _, _ = io.WriteString(state, redacted) }

// String redacts the token.
func (s Secret) String() string { return redacted }

// GoString redacts the token under %#v.
func (s Secret) GoString() string { return redacted }

// LogValue redacts the token in structured logs.
func (s Secret) LogValue() slog.Value { return slog.StringValue(redacted) }

// MarshalText redacts the token in JSON and other encodings.
func (s Secret) MarshalText() ([]byte, error) { return []byte(redacted), nil }
