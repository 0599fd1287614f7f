package rules

import (
	"testing"
	"time"

	"github.com/vault-tokens/vault-plugin-secrets-tokens/internal/tokenwatch"
)

func TestSilence(t *testing.T) {
	r := newRule(t, Defaults(), nil, "silence")
	entry := r.(tokenwatch.EntryObserver)
	var alerts []tokenwatch.Alert
	emit := func(a tokenwatch.Alert) { alerts = append(alerts, a) }
	entry.Entry(start, emit)
	r.Tick(start.Add(time.Second), emit)
	r.Tick(start.Add(10*time.Minute), emit)
	if len(alerts) != 0 {
		t.Fatalf("%+v", alerts)
	}
	r.Tick(start.Add(16*time.Minute), emit)
	r.Tick(start.Add(17*time.Minute), emit)
	if len(alerts) != 1 {
		t.Fatalf("%d alerts for one silence", len(alerts))
	}
	entry.Entry(start.Add(18*time.Minute), emit)
	if len(alerts) != 1 {
		t.Fatal("silence was said again when it was over")
	}
	entry.Entry(start.Add(48*time.Minute), emit)
	if len(alerts) != 2 {
		t.Fatal("silence in a log that is read afterwards was not seen")
	}
}
