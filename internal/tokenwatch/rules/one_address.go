package rules

import (
	"github.com/vault-tokens/vault-plugin-secrets-tokens/internal/tokenwatch"
)

// OneAddress reports a mount whose requests all seem to come from one address.
type OneAddress struct {
	Common   `yaml:",inline"`
	Requests int `yaml:"requests" help:"Requests to a mount before an alert."`
	Clients  int `yaml:"clients" range:"2-64" help:"Least number of different callers among them."`
}

func (s *OneAddress) definition() definition {
	return definition{
		name:     "one_address",
		settings: s,
		meaning:  "Different callers all have the same address: Vault is behind a proxy whose X-Forwarded-For it does not trust.",
		advice:   "Set x_forwarded_for_authorized_addrs on Vault's listener to the proxy's address. Until then, rules that go by address cannot tell clients apart.",
	}
}

func (s *OneAddress) setDefaults() {
	*s = OneAddress{Common: enabled(tokenwatch.SeverityInfo), Requests: 1000, Clients: 3}
}

func (s *OneAddress) rule(b base) tokenwatch.Rule {
	return &oneAddress{base: b, set: *s, mounts: map[string]*callers{}}
}

type oneAddress struct {
	base
	set    OneAddress
	mounts map[string]*callers
}

// callers of a mount, as long as all have the same address.
type callers struct {
	Address  string
	Several  bool // a second address was seen: never an alert
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
	c.addClient(hash(e.Client()), r.set.Clients)
	if c.Requests < r.set.Requests || len(c.Clients) < r.set.Clients || c.Requests%r.set.Requests != 0 || r.ignore.has(e) {
		return
	}
	a := r.finding(e, mount+c.Address, "All requests came from one address")
	a.Who, a.EntityID, a.TokenID, a.LeaseID, a.Role, a.Count = "different callers", "", "", "", "", int64(r.set.Requests)
	a.Detail = "Vault sees a proxy instead of its clients: rules that go by address cannot tell them apart."
	emit(a)
}

func (c *callers) addClient(client uint64, limit int) {
	if len(c.Clients) >= limit {
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
