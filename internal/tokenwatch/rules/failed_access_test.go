package rules

import (
	"strings"
	"testing"
	"time"

	"github.com/vault-tokens/vault-plugin-secrets-tokens/internal/tokenwatch"
)

func TestThresholds(t *testing.T) {
	denied := func(at time.Duration) tokenwatch.Event {
		return tokenwatch.Event{Time: start.Add(at), Kind: tokenwatch.KindIssue, Denied: true, EntityID: "e", RemoteAddress: "10.0.0.1", Mount: "tokens/"}
	}
	r := newRule(t, Defaults(), nil, "failed_access")
	for i := range 9 {
		if len(observe(r, denied(time.Duration(i)*time.Second))) != 0 {
			t.Fatalf("an alert at %d", i+1)
		}
	}
	if a := observe(r, denied(10*time.Second)); len(a) != 1 || a[0].Count != 10 || !strings.HasPrefix(a[0].Key, "entity") {
		t.Fatalf("%+v", a)
	}
	if a := observe(r, denied(11*time.Second)); len(a) != 1 || a[0].Count != 1 {
		t.Fatalf("each one more counts as one: %+v", a)
	}
	if a := observe(r, denied(time.Hour)); len(a) != 0 {
		t.Fatalf("after an hour: %+v", a)
	}
}

func TestSlowFailuresAreNoBurst(t *testing.T) {
	r := newRule(t, Defaults(), nil, "failed_access")
	for i := range 500 { // nine in any five minutes
		e := tokenwatch.Event{Time: start.Add(time.Duration(i) * 36 * time.Second), Kind: tokenwatch.KindIssue, Denied: true, EntityID: "e", RemoteAddress: "10.0.0.1"}
		if a := observe(r, e); len(a) != 0 {
			t.Fatalf("%+v", a)
		}
	}
}
