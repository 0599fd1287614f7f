package rules

import (
	"testing"
	"time"

	"github.com/vault-tokens/vault-plugin-secrets-tokens/internal/tokenwatch"
)

func TestIssuanceSpikeAndHabits(t *testing.T) {
	r := newRule(t, Defaults(), nil, "issuance_spike")
	issue := func(at time.Duration, n int) (alerts []tokenwatch.Alert) {
		for range n {
			alerts = append(alerts, observe(r, tokenwatch.Event{Time: start.Add(at), Kind: tokenwatch.KindIssue, Mount: "tokens/", Role: "r"})...)
		}
		return alerts
	}
	const window = 5 * time.Minute
	for day := range time.Duration(6) {
		for i := range time.Duration(288) {
			n := 10
			if i == 200 {
				n = 300 // a nightly job
			}
			a := issue(day*24*time.Hour+i*window, n)
			if day == 0 && i < 24 && len(a) > 0 {
				t.Fatalf("an alert while learning: %+v", a[0])
			}
			if day > 0 && len(a) > 0 {
				t.Fatalf("day %d, window %d: %+v", day, i, a[0])
			}
			if day == 0 && i == 200 && len(a) == 0 {
				t.Error("no alert when the job ran for the first time")
			}
		}
	}
	if a := issue(6*24*time.Hour, 1000); len(a) == 0 {
		t.Error("no alert for a hundred times as many")
	}
}
