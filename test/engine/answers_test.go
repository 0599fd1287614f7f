package engine

import (
	"maps"
	"slices"
	"strings"
	"testing"
	"time"
)

// wantKeys compares the names of an answer's fields, so that nothing more is
// said than what is documented.
func wantKeys(t *testing.T, what string, got map[string]any, want ...string) {
	t.Helper()
	names := slices.Sorted(maps.Keys(got))
	slices.Sort(want)
	if !slices.Equal(names, want) {
		t.Errorf("%s has the fields %q, want %q", what, names, want)
	}
}

func parseTime(t *testing.T, s string) time.Time {
	t.Helper()
	parsed, err := time.Parse(time.RFC3339, s)
	if err != nil {
		t.Fatal(err)
	}
	return parsed
}

// redact keeps tokens out of the output of tests.
func redact(text, token string) string { return strings.ReplaceAll(text, token, "[token]") }
