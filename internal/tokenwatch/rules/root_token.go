package rules

import (
	"github.com/vault-tokens/vault-plugin-secrets-tokens/internal/tokenwatch"
)

// RootToken tells of requests to the engine with a root token.
type RootToken struct {
	Common `yaml:",inline"`
}

func (s *RootToken) definition() definition {
	return definition{
		name:     "root_token",
		settings: s,
		meaning:  "A request to the engine was made with a root token, which no policy bounds and nobody should have in daily work.",
		advice:   "Find out who holds it and why, and revoke it (vault token revoke -accessor). Give them a policy for what they do.",
	}
}

func (s *RootToken) setDefaults() {
	*s = RootToken{Common: enabled(tokenwatch.SeverityWarning)}
}

func (s *RootToken) rule(b base) tokenwatch.Rule { return &rootToken{base: b} }

type rootToken struct {
	base
	stateless
}

func (r *rootToken) Observe(e *tokenwatch.Event, emit func(tokenwatch.Alert)) {
	if !e.Root || !e.Kind.OfEngine() || r.ignore.has(e) {
		return
	}
	a := r.finding(e, e.Namespace+"/"+e.Mount+e.Accessor, "A root token is used on the engine")
	a.Detail = "Last: " + e.Operation + " " + e.Path + "."
	emit(a)
}
