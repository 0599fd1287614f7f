// Package usererror marks the mistakes of callers where they are found, so that
// one place can turn them into a 400. Every other error is a defect or a fault
// of the storage, and becomes a 500.
package usererror

import "fmt"

// Error is a caller's mistake. Its text names the field and says what to do; it
// never holds a secret.
type Error struct {
	Field   string // the request field, or the path parameter
	Problem string
}

func (e *Error) Error() string { return e.Field + ": " + e.Problem }

// Field reports a mistake in the named field.
func Field(field, format string, args ...any) error {
	return &Error{Field: field, Problem: fmt.Sprintf(format, args...)}
}
