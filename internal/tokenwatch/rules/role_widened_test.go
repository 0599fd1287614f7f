package rules

import (
	"testing"
	"time"

	"github.com/vault-tokens/vault-plugin-secrets-tokens/internal/tokenwatch"
)

func TestWidened(t *testing.T) {
	d := func(d time.Duration) *time.Duration { return &d }
	for name, test := range map[string]struct {
		before, now tokenwatch.RequestSettings
		gains       int
	}{
		"nothing":                     {tokenwatch.RequestSettings{}, tokenwatch.RequestSettings{AllowedScopes: []string{"a"}, MaxTTL: d(1)}, 0},
		"covered by a pattern":        {tokenwatch.RequestSettings{AllowedScopes: []string{"a:*"}}, tokenwatch.RequestSettings{AllowedScopes: []string{"a:b", "a:*:c"}}, 0},
		"not covered":                 {tokenwatch.RequestSettings{AllowedScopes: []string{"a:*"}}, tokenwatch.RequestSettings{AllowedScopes: []string{"*"}}, 1},
		"hashed, fewer":               {tokenwatch.RequestSettings{AllowedScopes: []string{"hmac-sha256:1", "hmac-sha256:2"}}, tokenwatch.RequestSettings{AllowedScopes: []string{"hmac-sha256:2"}}, 0},
		"hashed, more":                {tokenwatch.RequestSettings{AllowedScopes: []string{"hmac-sha256:1"}}, tokenwatch.RequestSettings{AllowedScopes: []string{"hmac-sha256:2"}}, 1},
		"a smaller network":           {tokenwatch.RequestSettings{BoundCIDRs: []string{"10.0.0.0/8"}}, tokenwatch.RequestSettings{BoundCIDRs: []string{"10.2.0.0/16", "10.0.0.1"}}, 0},
		"a larger network":            {tokenwatch.RequestSettings{BoundCIDRs: []string{"10.2.0.0/16"}}, tokenwatch.RequestSettings{BoundCIDRs: []string{"10.0.0.0/8"}}, 1},
		"the other family":            {tokenwatch.RequestSettings{BoundCIDRs: []string{"0.0.0.0/0"}}, tokenwatch.RequestSettings{BoundCIDRs: []string{"::/0"}}, 1},
		"bound for the first time":    {tokenwatch.RequestSettings{BoundCIDRs: []string{}}, tokenwatch.RequestSettings{BoundCIDRs: []string{"10.0.0.0/8"}}, 0},
		"not bound any more":          {tokenwatch.RequestSettings{BoundCIDRs: []string{"10.0.0.0/8"}}, tokenwatch.RequestSettings{BoundCIDRs: []string{}}, 1},
		"no maximum to a maximum":     {tokenwatch.RequestSettings{MaxTTL: d(0)}, tokenwatch.RequestSettings{MaxTTL: d(1)}, 0},
		"a maximum to no maximum":     {tokenwatch.RequestSettings{MaxTTL: d(1)}, tokenwatch.RequestSettings{MaxTTL: d(0)}, 1},
		"longer":                      {tokenwatch.RequestSettings{TTL: d(1), MaxTTL: d(1)}, tokenwatch.RequestSettings{TTL: d(2), MaxTTL: d(3)}, 2},
		"no scopes to some":           {tokenwatch.RequestSettings{AllowedScopes: []string{}}, tokenwatch.RequestSettings{AllowedScopes: []string{"a"}}, 1},
		"what the request leaves out": {tokenwatch.RequestSettings{AllowedScopes: []string{"a"}, MaxTTL: d(1)}, tokenwatch.RequestSettings{}, 0},
	} {
		if gains := widened(&test.before, &test.now); len(gains) != test.gains {
			t.Errorf("%s: %q", name, gains)
		}
	}
}
