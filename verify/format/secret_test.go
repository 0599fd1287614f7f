package format

import (
	"strings"
	"testing"
)

// The encoded parts of a JWT are of letters and digits alone, or are not, as
// chance has it: nothing of one may be left in either case.
func TestRedact(t *testing.T) {
	long := strings.Repeat("aB3", 20)
	for _, test := range []struct{ name, text, want string }{
		{"opaque token", `"app_` + long + `" is not a scope`, `"app_[redacted]" is not a scope`},
		{"JWT whose parts have gaps", `x: "eyJhbGciOi-a.eyJpc3MiOi_b.q-w_e" is wrong`, `x: "[redacted]" is wrong`},
		{"JWT whose header has none", `x: "eyJ` + long + `.eyJ` + long + `_1.` + long + `_Ctj3C8NRAAWq5SJiwVQiWhhpboGsMXw" is wrong`, `x: "[redacted]" is wrong`},
		{"its end", `x: "` + long + `_Ctj3C8NRAAWq5SJiwVQiWhhpboGsMXw"`, `x: "[redacted]"`},
		{"behind a letter", `xeyJ` + long + `.eyJpc3MiOi_b.q-w_e`, `[redacted]`},
		{"ordinary names", `role "payments-reader_2" in keys/default`, `role "payments-reader_2" in keys/default`},
	} {
		if got := Redact(test.text); got != test.want {
			t.Errorf("%s: %q, want %q", test.name, got, test.want)
		}
	}
}
