package rules

import (
	"fmt"
	"net/netip"
	"testing"
	"time"

	"github.com/vault-tokens/vault-plugin-secrets-tokens/internal/tokenwatch"
	"github.com/vault-tokens/vault-plugin-secrets-tokens/internal/tokenwatch/geo"
)

var start = time.Date(2026, 1, 1, 12, 0, 0, 0, time.UTC)

func newRules(t testing.TB, s Settings, locate geo.Locator) []tokenwatch.Rule {
	t.Helper()
	list, err := New(s, locate)
	if err != nil {
		t.Fatal(err)
	}
	return list
}

func newRule(t testing.TB, s Settings, locate geo.Locator, name string) tokenwatch.Rule {
	t.Helper()
	for _, r := range newRules(t, s, locate) {
		if r.Name() == name {
			return r
		}
	}
	t.Fatalf("no rule %s", name)
	return nil
}

// observe shows events to a rule and gives its alerts.
func observe(r tokenwatch.Rule, events ...tokenwatch.Event) (alerts []tokenwatch.Alert) {
	for _, e := range events {
		r.Observe(&e, func(a tokenwatch.Alert) { alerts = append(alerts, a) })
	}
	return alerts
}

func introspection(at time.Duration, active bool, token string) tokenwatch.Event {
	return tokenwatch.Event{
		Time: start.Add(at), Kind: tokenwatch.KindIntrospect, Mount: "tokens/", Active: &active, Accessor: "a", RemoteAddress: "10.0.0.1",
		TokenHash: fmt.Sprintf("%s%032x%032d", tokenwatch.HashPrefix, hash(token), 0), TokenID: token, Expires: start.Add(time.Hour),
	}
}

// places is a geo database.
type places map[string]geo.Location

func (p places) Locate(addr netip.Addr) (geo.Location, bool) {
	found, ok := p[addr.String()]
	return found, ok
}
