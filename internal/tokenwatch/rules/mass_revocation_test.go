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
	for _, kind := range []tokenwatch.Kind{tokenwatch.KindLeasePrefix, tokenwatch.KindMountDisable, tokenwatch.KindRoleRevoke, tokenwatch.KindEntityRevoke} {
		e := tokenwatch.Event{Time: start, Kind: kind, Operation: "update", Path: "some/path"}
		if a := observe(r, e); len(a) != 1 || !strings.Contains(a[0].Detail, "some/path") {
			t.Errorf("%s: %+v", kind, a)
		}
		if e.Denied = true; len(observe(r, e)) != 0 {
			t.Errorf("%s: an alert although Vault refused it", kind)
		}
	}
	for _, kind := range []tokenwatch.Kind{tokenwatch.KindRoleDelete, tokenwatch.KindTokenRead, tokenwatch.KindTidy, tokenwatch.KindTidyCancel} {
		if a := observe(r, tokenwatch.Event{Time: start, Kind: kind}); len(a) != 0 {
			t.Errorf("%s: %+v", kind, a)
		}
	}
}

func TestMassRevocationByKillSwitch(t *testing.T) {
	r := newRule(t, Defaults(), nil, "mass_revocation")
	kill := tokenwatch.Event{Time: start, Kind: tokenwatch.KindRoleRevoke, Operation: "update", Mount: "tokens/", Path: "tokens/roles/orders/revoke", Name: "orders", Role: "orders", EntityID: "ops", StatusLists: 3}
	again := kill
	again.StatusLists = 0
	a := observe(r, kill, again)
	if len(a) != 2 || a[0].Key != a[1].Key || a[0].Role != "orders" || a[0].Who != "entity ops" || !strings.Contains(a[0].Detail, "of the role: 3.") || !strings.Contains(a[1].Detail, "of the role: 0.") {
		t.Errorf("%+v", a)
	}
	other := kill
	other.Kind, other.Path, other.Name, other.Role = tokenwatch.KindEntityRevoke, "tokens/entities/orders/revoke", "orders", ""
	if b := observe(r, other); len(b) != 1 || b[0].Key == a[0].Key || b[0].Detail != "update tokens/entities/orders/revoke." || b[0].EntityID != "ops" {
		t.Errorf("%+v", b)
	}
}
