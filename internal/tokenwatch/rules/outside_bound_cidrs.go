package rules

import (
	"github.com/vault-tokens/vault-plugin-secrets-tokens/internal/tokenwatch"
)

// OutsideBoundCIDRs finds tokens that are presented from networks which they
// are not bound to.
type OutsideBoundCIDRs struct {
	Common `yaml:",inline"`
}

func (s *OutsideBoundCIDRs) definition() definition {
	return definition{
		name:     "outside_bound_cidrs",
		settings: s,
		meaning:  "A live token is presented from a network that its role is not bound to: it has leaked, or a client has moved.",
		advice:   "Revoke the token by its token_id (vault delete <mount>/tokens/<token_id>) unless its owner has moved; then correct bound_cidrs of the role.",
	}
}

func (s *OutsideBoundCIDRs) setDefaults() {
	*s = OutsideBoundCIDRs{Common: enabled(tokenwatch.SeverityCritical)}
}

func (s *OutsideBoundCIDRs) rule(b base) tokenwatch.Rule { return &outsideBoundCIDRs{base: b} }

type outsideBoundCIDRs struct {
	base
	stateless
}

func (r *outsideBoundCIDRs) Observe(e *tokenwatch.Event, emit func(tokenwatch.Alert)) {
	if e.Kind != tokenwatch.KindIntrospect || !e.ClientIPFailed || r.ignore.has(e) {
		return
	}
	if e.ClientIP == "" {
		a := r.finding(e, "server "+e.Mount+e.Client(), "An API server does not say where tokens come from")
		a.Severity, a.Who = tokenwatch.SeverityInfo, "API server "+a.Who
		a.Detail = "The token is bound to networks, and is refused as long as the API server sends no client_ip."
		a.Advice = "Have the API server send client_ip with each introspection."
		emit(a)
		return
	}
	a := r.finding(e, e.Mount+e.TokenID+e.ClientIP, "A token is presented from outside of its networks")
	a.Who, a.Where = "shown to API server "+a.Who, "client address "+tokenwatch.ShortHash(e.ClientIP)
	emit(a)
}
