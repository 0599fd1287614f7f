package rules

import (
	"fmt"
	"runtime"
	"testing"
	"time"

	"github.com/vault-tokens/vault-plugin-secrets-tokens/internal/tokenwatch"
)

// TestStateSurvives saves in the middle of what fires a rule, and restores into
// a new one.
func TestStateSurvives(t *testing.T) {
	for _, r := range newRules(t, Defaults(), nil) {
		fresh := newRule(t, Defaults(), nil, r.Name())
		through := newRule(t, Defaults(), nil, r.Name())
		all := mix(3000)
		want := observe(through, all...)
		got := observe(r, all[:1500]...)
		state, err := r.Save()
		if err != nil {
			t.Fatal(err)
		}
		if len(state) > 0 {
			if err := fresh.Restore(state); err != nil {
				t.Fatal(err)
			}
		}
		got = append(got, observe(fresh, all[1500:]...)...)
		if len(got) != len(want) {
			t.Errorf("%s: %d alerts with a restart, %d without", r.Name(), len(got), len(want))
		}
	}
}

// restarted is a rule after a restart of tokenwatch.
func restarted(t *testing.T, r tokenwatch.Rule) tokenwatch.Rule {
	t.Helper()
	state, err := r.Save()
	if err != nil {
		t.Fatal(err)
	}
	fresh := newRule(t, Defaults(), nil, r.Name())
	if err := fresh.Restore(state); err != nil {
		t.Fatal(err)
	}
	return fresh
}

// mix are events of all kinds, by many clients.
func mix(n int) []tokenwatch.Event {
	events := make([]tokenwatch.Event, n)
	kinds := []tokenwatch.Kind{tokenwatch.KindIssue, tokenwatch.KindIntrospect, tokenwatch.KindIntrospect, tokenwatch.KindRevoke, tokenwatch.KindRoleWrite, tokenwatch.KindIntrospect, tokenwatch.KindKeyRotate, tokenwatch.KindLeaseRevoke, tokenwatch.KindRoleRevoke}
	for i := range events {
		e := introspection(time.Duration(i)*100*time.Millisecond, i%3 != 0, fmt.Sprint("token", i%97))
		e.Kind = kinds[i%len(kinds)]
		e.EntityID, e.RemoteAddress, e.ClientIP = fmt.Sprint("entity", i%13), fmt.Sprintf("10.0.%d.1", i%17), fmt.Sprintf("192.0.2.%d", i%19)
		e.Role, e.Root, e.Denied = fmt.Sprint("role", i%7), i%50 == 0, i%11 == 0
		if e.Kind != tokenwatch.KindIntrospect {
			e.Active = nil
		}
		if e.Kind == tokenwatch.KindRoleWrite {
			ttl := time.Duration(i) * time.Second
			e.Settings, e.Operation = &tokenwatch.RequestSettings{MaxTTL: &ttl, AllowedScopes: []string{fmt.Sprint("s", i%5)}}, "update"
		}
		events[i] = e
	}
	return events
}

// TestMemoryIsBounded shows three million clients and tokens to all rules.
func TestMemoryIsBounded(t *testing.T) {
	list := newRules(t, Defaults(), places{})
	heap := func() uint64 {
		runtime.GC()
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return m.HeapAlloc >> 20
	}
	clients := 3_000_000
	if testing.Short() {
		clients = 300_000
	}
	before, most := heap(), uint64(0)
	active, dead := true, false
	for i := range clients {
		id := fmt.Sprintf("%08x-0000-0000-0000-%012x", i, i)
		e := tokenwatch.Event{
			Time: start.Add(time.Duration(i) * time.Millisecond), Kind: tokenwatch.KindIntrospect, Mount: fmt.Sprintf("mount%d/", i%5000), Active: &active,
			EntityID: id, Accessor: id, ClientID: id, RemoteAddress: fmt.Sprintf("10.%d.%d.%d", i>>16&255, i>>8&255, i&255), ClientIP: fmt.Sprintf("2001:db8:%x::1", i),
			TokenID: id, TokenType: []string{"api_key", "jwt"}[i%2], TokenHash: fmt.Sprintf("%s%032x%032d", tokenwatch.HashPrefix, i, 0), Expires: start.Add(100 * time.Hour), Role: id, LeaseID: id,
		}
		switch i % 5 {
		case 0:
			e.Kind, e.Active = tokenwatch.KindIssue, nil
		case 1:
			e.Active = &dead
		case 2:
			e.Kind, e.Active, e.Denied = tokenwatch.KindIssue, nil, true
		case 3:
			e.Kind, e.Active = tokenwatch.KindRevoke, nil
		}
		if i%7 == 0 {
			e.Kind, e.Active, e.Name = tokenwatch.KindEntityRevoke, nil, id
		}
		for _, r := range list {
			r.Observe(&e, func(tokenwatch.Alert) {})
		}
		if i%(clients/10) == 0 {
			most = max(most, heap())
		}
	}
	most = max(most, heap())
	t.Logf("%d MiB for %d clients", most-before, clients)
	if most-before > 120 {
		t.Errorf("the rules hold %d MiB", most-before)
	}
	runtime.KeepAlive(list)
}
