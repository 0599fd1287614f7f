package rules

import (
	"testing"

	"github.com/vault-tokens/vault-plugin-secrets-tokens/internal/tokenwatch"
)

func TestRootToken(t *testing.T) {
	r := newRule(t, Defaults(), nil, "root_token")
	for name, test := range map[string]struct {
		kind   tokenwatch.Kind
		root   bool
		alerts int
	}{
		"on the engine":       {tokenwatch.KindConfigRead, true, 1},
		"elsewhere":           {tokenwatch.KindAuditEnable, true, 0},
		"another Vault token": {tokenwatch.KindConfigRead, false, 0},
	} {
		if a := observe(r, tokenwatch.Event{Time: start, Kind: test.kind, Root: test.root}); len(a) != test.alerts {
			t.Errorf("%s: %+v", name, a)
		}
	}
}
