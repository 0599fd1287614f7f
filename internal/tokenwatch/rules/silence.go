package rules

import (
	"time"

	"github.com/vault-tokens/vault-plugin-secrets-tokens/internal/tokenwatch"
)

// Silence tells when there has been no entry of any kind for a while.
type Silence struct {
	Common `yaml:",inline"`
	After  time.Duration `yaml:"after" help:"How long there has to be none. A Vault that is probed by a load balancer has entries only for requests that are audited: sys/health is not."`
}

func (s Silence) rule(b base) tokenwatch.Rule { return &silence{base: b, after: s.After} }

type silence struct {
	base
	after time.Duration
	state silenceState

	// While following: when the last entry came in, by the clock here.
	seen    time.Time
	arrived time.Time
}

type silenceState struct {
	Last  time.Time // time in the latest entry
	Fired bool      // since then
}

// Observe implements tokenwatch.Rule.
func (r *silence) Observe(*tokenwatch.Event, func(tokenwatch.Alert)) {}

// Entry finds silence that is over, such as in a log that is read afterwards.
func (r *silence) Entry(t time.Time, emit func(tokenwatch.Alert)) {
	last := r.state.Last
	if !t.After(last) {
		return
	}
	if !last.IsZero() && t.Sub(last) >= r.after && !r.state.Fired {
		a := r.alert(last)
		a.Detail = "There was none until " + t.Format(time.RFC3339) + "."
		emit(a)
	}
	r.state = silenceState{Last: t}
}

// Tick finds silence that goes on.
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
	a.Detail = "None has come in since " + r.arrived.UTC().Format(time.RFC3339) + "."
	emit(a)
}

func (r *silence) alert(last time.Time) tokenwatch.Alert {
	first := last
	if first.IsZero() {
		first = r.arrived
	}
	return tokenwatch.Alert{
		Rule: r.name, Severity: r.common.Severity, Key: first.UTC().Format(time.RFC3339Nano),
		Title: "Vault's audit log is silent", First: first, Last: first, Count: 1, Advice: r.advice,
	}
}

func (r *silence) Save() ([]byte, error)      { return encode(r.state) }
func (r *silence) Restore(state []byte) error { return decode(state, &r.state) }

// OneAddress tells when all requests seem to come from one address.
type OneAddress struct {
	Common   `yaml:",inline"`
	Requests int `yaml:"requests" help:"Requests to a mount before it is said."`
	Clients  int `yaml:"clients" range:"2-64" help:"Different callers among them, at least."`
}

func (s OneAddress) rule(b base) tokenwatch.Rule {
	return &oneAddress{base: b, set: s, mounts: map[string]*callers{}}
}

type oneAddress struct {
	base
	set    OneAddress
	mounts map[string]*callers
}

// callers of a mount, as long as all have the same address.
type callers struct {
	Address  string
	Several  bool // there is another address: nothing to say
	Requests int
	Clients  []uint64 // hashes of the first few
}

func (r *oneAddress) Observe(e *tokenwatch.Event, emit func(tokenwatch.Alert)) {
	if !e.Kind.OfEngine() || e.RemoteAddress == "" {
		return
	}
	mount := e.Namespace + "/" + e.Mount
	c := r.mounts[mount]
	if c == nil {
		if len(r.mounts) >= maxMounts {
			return
		}
		c = &callers{Address: e.RemoteAddress}
		r.mounts[mount] = c
	}
	if c.Several = c.Several || c.Address != e.RemoteAddress; c.Several {
		c.Clients = nil
		return
	}
	c.Requests++
	c.know(hash(e.Client()), r.set.Clients)
	if c.Requests < r.set.Requests || len(c.Clients) < r.set.Clients || c.Requests%r.set.Requests != 0 || r.ignore.has(e) {
		return
	}
	a := r.finding(e, mount+c.Address, "All requests come from one address")
	a.Who, a.EntityID, a.TokenID, a.LeaseID, a.Role, a.Count = "different callers", "", "", "", "", int64(r.set.Requests)
	a.Detail = "Vault sees a proxy, not its clients: rules about addresses see nothing."
	emit(a)
}

func (c *callers) know(client uint64, atMost int) {
	if len(c.Clients) >= atMost {
		return
	}
	for _, known := range c.Clients {
		if known == client {
			return
		}
	}
	c.Clients = append(c.Clients, client)
}

func (r *oneAddress) Save() ([]byte, error)      { return encode(r.mounts) }
func (r *oneAddress) Restore(state []byte) error { return decode(state, &r.mounts) }
