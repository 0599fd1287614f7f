package rules

import (
	"fmt"
	"net/netip"
	"slices"
	"time"

	"github.com/hashicorp/golang-lru/v2/simplelru"

	"github.com/vault-tokens/vault-plugin-secrets-tokens/internal/tokenwatch"
	"github.com/vault-tokens/vault-plugin-secrets-tokens/internal/tokenwatch/geo"
)

// UnexpectedLocation finds entities and tokens in networks, in countries and at
// distances that do not fit where they were before.
type UnexpectedLocation struct {
	Common      `yaml:",inline"`
	Learning    time.Duration `yaml:"learning" help:"How long after an entity or token is first seen its networks and countries are learned, without alerts."`
	IPv4Prefix  int           `yaml:"ipv4_prefix" range:"1-32" help:"Length of the prefix that counts as one IPv4 network."`
	IPv6Prefix  int           `yaml:"ipv6_prefix" range:"1-128" help:"Length of the prefix that counts as one IPv6 network."`
	MaxNetworks int           `yaml:"max_networks" range:"1-256" help:"An entity or token seen in more networks is roaming: its networks are no longer checked, countries and distances still are."`
	Speed       int           `yaml:"speed_kmh" help:"Travel faster than this is impossible. Needs a MaxMind database with coordinates."`
	Distance    int           `yaml:"distance_km" help:"Locations closer together than this count as one: coordinates are rough."`
	MaxClients  int           `yaml:"max_clients" help:"Entities and tokens remembered, about 500 bytes each."`
}

func (s *UnexpectedLocation) definition() definition {
	return definition{
		name:     "unexpected_location",
		settings: s,
		meaning:  "An entity requests tokens, or a token is used, from a new network or country, or from farther away than anyone could have travelled in the time.",
		advice:   "Ask the owner. If it was not them, revoke the token, disable the entity (vault write identity/entity/id/<id> disabled=true) and replace its credentials.",
	}
}

func (s *UnexpectedLocation) setDefaults() {
	*s = UnexpectedLocation{Common: enabled(tokenwatch.SeverityWarning), Learning: 7 * 24 * time.Hour, IPv4Prefix: 24, IPv6Prefix: 48, MaxNetworks: 16, Speed: 1000, Distance: 500, MaxClients: 20_000}
}

func (s *UnexpectedLocation) rule(b base) tokenwatch.Rule {
	return &unexpectedLocation{base: b, set: *s, clients: newLRU[string, *traveller](s.MaxClients)}
}

type unexpectedLocation struct {
	base
	set     UnexpectedLocation
	clients *simplelru.LRU[string, *traveller]
}

// traveller is an entity or a token and where it has been.
type traveller struct {
	Since     time.Time
	Networks  []uint64 // hashes
	Roams     bool
	Countries []string
	Last      geo.Location
	LastAt    time.Time
}

const maxCountries = 16

// surprise is what does not fit a traveller.
type surprise struct {
	from   string // ends the alert's title
	detail string // a sentence
}

// Observe implements tokenwatch.Rule. It checks where an entity requests
// tokens, which Vault sees, and where tokens are used, which API servers report.
func (r *unexpectedLocation) Observe(e *tokenwatch.Event, emit func(tokenwatch.Alert)) {
	if e.Failed() || r.ignore.has(e) {
		return
	}
	switch {
	case e.Kind == tokenwatch.KindIssue && e.EntityID != "":
		r.check(e, "entity "+e.EntityID, e.RemoteAddress, "Entity requested a token", emit)
	case e.Kind == tokenwatch.KindIntrospect && e.Active != nil && *e.Active && e.ClientIP != "":
		if e.TokenType == "bearer" || e.TokenType == "jwt" { // too short-lived to have habits
			if e.ClientID != "" {
				r.check(e, "owner "+e.Mount+e.ClientID, e.ClientIP, "Entity's token was used", emit)
			}
			return
		}
		r.check(e, "token "+e.Mount+e.TokenID, e.ClientIP, "Token was used", emit)
	}
}

func (r *unexpectedLocation) check(e *tokenwatch.Event, key, address, what string, emit func(tokenwatch.Alert)) {
	t, ok := r.clients.Get(key)
	if !ok {
		t = &traveller{Since: e.Time}
		r.clients.Add(key, t)
	}
	var findings []surprise
	addr, readable := parseAddress(address)
	isNew := r.newNetwork(t, address, addr, readable)
	learned := e.Time.Sub(t.Since) >= r.set.Learning
	if isNew && learned {
		findings = append(findings, surprise{"from a new network", "The network is new."})
	}
	if r.locate != nil && readable {
		if place, ok := r.locate.Locate(addr); ok {
			findings = append(findings, r.travel(t, place, e.Time, learned)...)
		}
	}
	for _, s := range findings {
		a := r.finding(e, key+" "+address+s.detail, what+" "+s.from)
		a.Detail = s.detail
		if e.Kind == tokenwatch.KindIntrospect {
			a.Who, a.EntityID, a.Where = "entity "+e.ClientID, e.ClientID, "client address "+tokenwatch.ShortHash(address)
		}
		emit(a)
	}
}

// newNetwork records the network that t is in, and reports whether it is new. A
// hashed address counts as a network of its own.
func (r *unexpectedLocation) newNetwork(t *traveller, address string, addr netip.Addr, readable bool) bool {
	if t.Roams {
		return false
	}
	network := address
	if readable {
		bits := r.set.IPv6Prefix
		if addr.Is4() {
			bits = r.set.IPv4Prefix
		}
		if p, err := addr.Prefix(bits); err == nil {
			network = p.String()
		}
	}
	n := hash(network)
	if slices.Contains(t.Networks, n) {
		return false
	}
	if len(t.Networks) >= r.set.MaxNetworks {
		t.Roams, t.Networks = true, nil
		return true
	}
	t.Networks = append(t.Networks, n)
	return true
}

func (r *unexpectedLocation) travel(t *traveller, location geo.Location, now time.Time, learned bool) (findings []surprise) {
	if !slices.Contains(t.Countries, location.Country) {
		if len(t.Countries) > 0 && learned {
			findings = append(findings, surprise{"from a new country", "The country is new: " + location.Country + "."})
		}
		if len(t.Countries) < maxCountries {
			t.Countries = append(t.Countries, location.Country)
		}
	}
	if !location.HasCoordinates {
		return findings
	}
	if t.Last.HasCoordinates {
		km, hours := geo.Kilometres(t.Last, location), max(0, now.Sub(t.LastAt).Hours())
		if km >= float64(r.set.Distance) && km > hours*float64(r.set.Speed) {
			findings = append(findings, surprise{"from an impossible distance", fmt.Sprintf("That is %.0f km from its location %s earlier (%s, now %s): nobody travels that fast.",
				km, now.Sub(t.LastAt).Round(time.Second), t.Last.Country, location.Country)})
		}
	}
	t.Last, t.LastAt = location, now
	return findings
}

func (r *unexpectedLocation) Save() ([]byte, error) { return encode(dumpOf(r.clients)) }

func (r *unexpectedLocation) Restore(state []byte) error {
	var s dump[string, *traveller]
	if err := decode(state, &s); err != nil {
		return err
	}
	s.into(r.clients)
	return nil
}
