package rules

import (
	"time"

	"github.com/vault-tokens/vault-plugin-secrets-tokens/internal/tokenwatch"
)

// Silence reports that the audit log has had no entry of any kind for a while.
type Silence struct {
	Common `yaml:",inline"`
	After  time.Duration `yaml:"after" help:"How long there must be no entry. Probes of sys/health by a load balancer are not audited and do not count."`
}

func (s *Silence) definition() definition {
	return definition{
		name:     "silence",
		settings: s,
		meaning:  "The audit log has had no entry for a while: Vault is down or nobody uses it, its audit device was disabled, or the log goes elsewhere, for example after a rotation without SIGHUP.",
		advice:   "Check vault status, vault audit list and the log file. If the device is gone, see audit_disabled.",
	}
}

func (s *Silence) setDefaults() {
	*s = Silence{Common: enabled(tokenwatch.SeverityCritical), After: 15 * time.Minute}
}

func (s *Silence) rule(b base) tokenwatch.Rule { return &silence{base: b, after: s.After} }

type silence struct {
	base
	after time.Duration
	state silenceState

	// While following a log: when its last entry arrived, by the local clock.
	seen    time.Time
	arrived time.Time
}

type silenceState struct {
	Last  time.Time // time in the latest entry
	Fired bool      // since then
}

// Observe implements tokenwatch.Rule.
func (r *silence) Observe(*tokenwatch.Event, func(tokenwatch.Alert)) {}

// Entry finds silence that is over, such as in a replayed log.
func (r *silence) Entry(t time.Time, emit func(tokenwatch.Alert)) {
	last := r.state.Last
	if !t.After(last) {
		return
	}
	if !last.IsZero() && t.Sub(last) >= r.after && !r.state.Fired {
		a := r.alert(last)
		a.Detail = "No entry until " + t.Format(time.RFC3339) + "."
		emit(a)
	}
	r.state = silenceState{Last: t}
}

// Tick finds silence that continues.
func (r *silence) Tick(now time.Time, emit func(tokenwatch.Alert)) {
	if r.arrived.IsZero() || !r.seen.Equal(r.state.Last) {
		r.seen, r.arrived = r.state.Last, now
	}
	if r.state.Fired || now.Sub(r.arrived) < r.after {
		return
	}
	r.state.Fired = true
	a := r.alert(r.state.Last)
	a.Last = now
	a.Detail = "No entry since " + r.arrived.UTC().Format(time.RFC3339) + "."
	emit(a)
}

func (r *silence) alert(last time.Time) tokenwatch.Alert {
	first := last
	if first.IsZero() {
		first = r.arrived
	}
	return tokenwatch.Alert{
		Rule: r.name, Severity: r.severity, Key: first.UTC().Format(time.RFC3339Nano),
		Title: "Vault's audit log went silent", First: first, Last: first, Count: 1, Advice: r.advice,
	}
}

func (r *silence) Save() ([]byte, error)      { return encode(r.state) }
func (r *silence) Restore(state []byte) error { return decode(state, &r.state) }
