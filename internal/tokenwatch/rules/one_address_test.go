package rules

import (
	"fmt"
	"testing"

	"github.com/vault-tokens/vault-plugin-secrets-tokens/internal/tokenwatch"
)

func TestOneAddress(t *testing.T) {
	for name, test := range map[string]struct {
		clients int
		other   string // address of one request among them
		alerts  int
	}{
		"a proxy":                 {3, "", 2},
		"too few different ones":  {2, "", 0},
		"one that comes directly": {3, "10.0.0.2", 0},
	} {
		r := newRule(t, Defaults(), nil, "one_address")
		alerts := 0
		for i := range 2000 {
			e := tokenwatch.Event{Time: start, Kind: tokenwatch.KindIssue, Mount: "tokens/", RemoteAddress: "10.0.0.1", EntityID: fmt.Sprint("entity", i%test.clients)}
			if i == 500 && test.other != "" {
				e.RemoteAddress = test.other
			}
			alerts += len(observe(r, e))
		}
		if alerts != test.alerts {
			t.Errorf("%s: %d alerts, want %d", name, alerts, test.alerts)
		}
	}
}
