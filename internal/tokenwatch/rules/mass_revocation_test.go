package rules

import (
	"strings"
	"testing"
	"time"

	"github.com/vault-tokens/vault-plugin-secrets-tokens/internal/tokenwatch"
)

func TestMassRevocationOneByOne(t *testing.T) {
	r := newRule(t, Defaults(), nil, "mass_revocation")
	revoke := func(i int, caller string) []tokenwatch.Alert {
		return observe(r, tokenwatch.Event{Time: start.Add(time.Duration(i) * time.Second), Kind: tokenwatch.KindRevoke, Mount: "tokens/", EntityID: caller, TokenID: "t"})
	}
	for i := range 49 {
		if a := append(revoke(i, "one"), revoke(i, "other")...); len(a) != 0 {
			t.Fatalf("an alert at %d", i+1)
		}
	}
	if a := revoke(50, "one"); len(a) != 1 || a[0].Count != 50 || a[0].EntityID != "one" || a[0].TokenID != "" {
		t.Errorf("%+v", a)
	}
}

func TestMassRevocationAtOnce(t *testing.T) {
	r := newRule(t, Defaults(), nil, "mass_revocation")
	for _, kind := range []tokenwatch.Kind{tokenwatch.KindLeasePrefix, tokenwatch.KindMountDisable} {
		e := tokenwatch.Event{Time: start, Kind: kind, Operation: "update", Path: "some/path"}
		if a := observe(r, e); len(a) != 1 || !strings.Contains(a[0].Detail, "some/path") {
			t.Errorf("%s: %+v", kind, a)
		}
		if e.Denied = true; len(observe(r, e)) != 0 {
			t.Errorf("%s: an alert although Vault refused it", kind)
		}
	}
	if a := observe(r, tokenwatch.Event{Time: start, Kind: tokenwatch.KindRoleDelete}); len(a) != 0 {
		t.Errorf("a role was deleted: %+v", a)
	}
}
