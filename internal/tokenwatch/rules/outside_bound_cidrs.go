package rules

import (
	"github.com/vault-tokens/vault-plugin-secrets-tokens/internal/tokenwatch"
)

// OutsideBoundCIDRs finds tokens that are presented from outside the networks
// that they are bound to.
type OutsideBoundCIDRs struct {
	Common `yaml:",inline"`
}

func (s *OutsideBoundCIDRs) definition() definition {
	return definition{
		name:     "outside_bound_cidrs",
		settings: s,
		meaning:  "A live token is presented from outside the networks that its role is bound to: the token leaked, or its client moved.",
		advice:   "Revoke the token by its token_id (vault delete <mount>/tokens/<token_id>), unless its owner has moved: then correct the role's bound_cidrs.",
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
		a := r.finding(e, "server "+e.Mount+e.Client(), "API server sent no client_ip for a token bound to networks")
		a.Severity, a.Who = tokenwatch.SeverityInfo, "API server "+a.Who
		a.Detail = "The token is refused as long as the API server sends no client_ip."
		a.Advice = "Have the API server send client_ip with each introspection."
		emit(a)
		return
	}
	a := r.finding(e, e.Mount+e.TokenID+e.ClientIP, "Token was presented from outside its bound networks")
	a.Who, a.Where = "presented to API server "+a.Who, "client address "+tokenwatch.ShortHash(e.ClientIP)
	emit(a)
}
