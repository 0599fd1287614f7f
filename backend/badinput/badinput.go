// Package badinput marks the mistakes of callers where they are found, so
// that one place can turn them into a 4xx. Every other error is a defect or a
// fault of the storage, and becomes a 500.
package badinput

import (
	"fmt"
	"net/http"
)

// Error is a caller's mistake. Its text names the field and says what to do;
// it never holds a secret.
type Error struct {
	Status  int    // HTTP status code, 4xx
	Field   string // the request field, or the path parameter
	Problem string
}

func (e *Error) Error() string { return e.Field + ": " + e.Problem }

// Field reports a mistake in the named field: 400.
func Field(field, format string, args ...any) error {
	return &Error{Status: http.StatusBadRequest, Field: field, Problem: fmt.Sprintf(format, args...)}
}

// NotFound reports that what the named field refers to does not exist: 404.
func NotFound(field, format string, args ...any) error {
	return &Error{Status: http.StatusNotFound, Field: field, Problem: fmt.Sprintf(format, args...)}
}
