package rules

import (
	"fmt"
	"time"

	"github.com/vault-tokens/vault-plugin-secrets-tokens/internal/tokenwatch"
)

// InactiveBurst finds many introspections of tokens that are not active.
type InactiveBurst struct {
	Common     `yaml:",inline"`
	Threshold  int           `yaml:"threshold" help:"Introspections that find no live token, for one client address or by one API server, within the window."`
	Window     time.Duration `yaml:"window" help:"Length of the window."`
	MaxClients int           `yaml:"max_clients" help:"Client addresses remembered, and as many API servers."`
}

func (s *InactiveBurst) definition() definition {
	return definition{
		name:     "inactive_burst",
		settings: s,
		meaning:  "Many introspections find no live token. Someone is guessing tokens or trying a stolen list, or a client keeps using dead ones.",
		advice:   "Block the client address at the API server or in front of it. If the tokens are few and yours, have the client request new ones.",
	}
}

func (s *InactiveBurst) setDefaults() {
	*s = InactiveBurst{Common: enabled(tokenwatch.SeverityWarning), Threshold: 20, Window: time.Minute, MaxClients: 20_000}
}

func (s *InactiveBurst) rule(b base) tokenwatch.Rule {
	return &inactiveBurst{
		base:    b,
		clients: newBursts(s.Window, s.Threshold, s.MaxClients),
		servers: newBursts(s.Window, s.Threshold, s.MaxClients),
	}
}

type inactiveBurst struct {
	base
	clients, servers *bursts
}

// Observe implements tokenwatch.Rule. The address that presented the tokens is named
// if the API server passes it on; else the API server that asked.
func (r *inactiveBurst) Observe(e *tokenwatch.Event, emit func(tokenwatch.Alert)) {
	if e.Outcome() != tokenwatch.OutcomeInactive || r.ignore.has(e) {
		return
	}
	var client burst
	if e.ClientIP != "" {
		client = r.clients.add(e.Mount+" "+e.ClientIP, e.Time, e.TokenHash)
	}
	server := r.servers.add(e.Mount+" "+e.Client(), e.Time, e.TokenHash)
	switch {
	case client.events > 0:
		a := r.alert(e, "client "+e.Mount+" "+e.ClientIP, "Client presented many inactive tokens", client)
		a.Where = clientAddress(e.ClientIP)
		emit(a)
	case server.events > 0:
		emit(r.alert(e, "server "+e.Mount+" "+e.Client(), "API server received many inactive tokens", server))
	}
}

func (r *inactiveBurst) alert(e *tokenwatch.Event, key, title string, b burst) tokenwatch.Alert {
	a := r.finding(e, key, title)
	a.Who = "API server " + a.Who
	a.First, a.Count = b.first, b.events
	a.TokenID, a.Role = "", ""
	switch n := b.distinct(); {
	case n == 0:
		a.Detail = "Many different tokens: someone is guessing or trying a stolen list."
	case n > 3:
		a.Detail = fmt.Sprintf("About %d different tokens: someone is guessing or trying a stolen list.", n)
	default:
		a.Detail = "The same few tokens, repeatedly: a client keeps using tokens that have expired or were revoked."
	}
	return a
}

type inactiveBurstState struct{ Clients, Servers burstsState }

func (r *inactiveBurst) Save() ([]byte, error) {
	return encode(inactiveBurstState{r.clients.state(), r.servers.state()})
}

func (r *inactiveBurst) Restore(state []byte) error {
	var s inactiveBurstState
	if err := decode(state, &s); err != nil {
		return err
	}
	r.clients.restore(s.Clients)
	r.servers.restore(s.Servers)
	return nil
}
