package tokenwatch

import "testing"

func TestShortHash(t *testing.T) {
	for value, want := range map[string]string{
		"":                              "",
		"10.0.0.1":                      "10.0.0.1",
		"0123456789abcdef0123456789":    "0123456789abcdef0123456789",
		"hmac-sha256:":                  "hmac-sha256:",
		"hmac-sha256:0123456789ab":      "hmac-sha256:0123456789ab",
		"hmac-sha256:0123456789abcdef0": "hmac-sha256:0123456789ab…",
	} {
		if got := ShortHash(value); got != want {
			t.Errorf("%q is shortened to %q, want %q", value, got, want)
		}
	}
}
