package rules

import (
	"fmt"
	"strings"
	"testing"
	"time"
)

func TestInactiveBurst(t *testing.T) {
	for name, test := range map[string]struct {
		clientIP string
		tokens   int // different ones
		key      string
		detail   string
	}{
		"guessing, from a known address":    {"192.0.2.66", 20, "client ", "someone is guessing"},
		"guessing, from an unknown one":     {"", 20, "server ", "someone is guessing"},
		"one token again and again":         {"192.0.2.66", 1, "client ", "same few tokens"},
		"the same, from an unknown address": {"", 1, "server ", "same few tokens"},
	} {
		r := newRule(t, Defaults(), nil, "inactive_burst")
		for i := range 20 {
			e := introspection(time.Duration(i)*time.Second, false, fmt.Sprint("token", i%test.tokens))
			e.ClientIP = test.clientIP
			a := observe(r, e)
			if i < 19 {
				if len(a) != 0 {
					t.Fatalf("%s: an alert at %d", name, i+1)
				}
				continue
			}
			if len(a) != 1 || a[0].Count != 20 || !strings.HasPrefix(a[0].Key, test.key) || !strings.Contains(a[0].Detail, test.detail) || a[0].TokenID != "" {
				t.Errorf("%s: %+v", name, a)
			}
		}
	}
}

// A live token that failed a check was not guessed.
func TestFailedChecksAreNoInactiveBurst(t *testing.T) {
	r := newRule(t, Defaults(), nil, "inactive_burst")
	for i := range 100 {
		e := introspection(0, false, "t")
		e.ScopeFailed, e.AudienceFailed, e.ClientIPFailed = i%3 == 0, i%3 == 1, i%3 == 2
		if a := observe(r, e, introspection(0, true, "t")); len(a) != 0 {
			t.Fatalf("%+v", a)
		}
	}
}
