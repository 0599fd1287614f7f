package rules

import (
	"testing"

	"github.com/vault-tokens/vault-plugin-secrets-tokens/internal/tokenwatch"
)

func TestIgnore(t *testing.T) {
	for _, ignore := range []string{"e", "app", "10.0.0.0/8", "10.0.0.1", "tokens/", "r"} {
		s := Defaults()
		s.RootToken.Ignore = []string{ignore}
		r := newRule(t, s, nil, "root_token")
		e := tokenwatch.Event{Time: start, Kind: tokenwatch.KindIssue, Root: true, EntityID: "e", DisplayName: "app", RemoteAddress: "10.0.0.1", Mount: "tokens/", Role: "r"}
		if a := observe(r, e); len(a) != 0 {
			t.Errorf("%s is not ignored", ignore)
		}
		other := tokenwatch.Event{Time: start, Kind: tokenwatch.KindIssue, Root: true, EntityID: "x", DisplayName: "x", RemoteAddress: "192.0.2.1", Mount: "x/", Role: "x"}
		if a := observe(r, other); len(a) != 1 {
			t.Errorf("%s makes the rule ignore everything", ignore)
		}
	}
}
