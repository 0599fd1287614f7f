// Package usererror marks the mistakes of callers where they are found, so that
// one place can turn them into a 400. Every other error is a defect or a fault
// of the storage, and becomes a 500.
package usererror

import (
	"fmt"

	"github.com/vault-tokens/vault-plugin-secrets-tokens/backend/text"
)

// maxProblem bounds the text of a mistake, in bytes: it appears in the answer and,
// in clear, in both logs.
const maxProblem = 1024

// Error is a caller's mistake. Its text names the field and says what to do. It
// never holds a secret: a caller may have put a token where something else
// belongs, so what may be one is replaced.
type Error struct {
	Field   string // the request field, or the path parameter
	Problem string
}

func (e *Error) Error() string { return e.Field + ": " + e.Problem }

// Field reports a mistake in the named field. Repeat a value of the caller through
// Clip, unless it is known to be short.
func Field(field, format string, args ...any) error {
	return &Error{Field: Clip(field), Problem: text.ClipTo(fmt.Sprintf(format, args...), maxProblem)}
}

// Clip shortens a value of the caller that an error repeats.
func Clip(value string) string { return text.Clip(value) }
