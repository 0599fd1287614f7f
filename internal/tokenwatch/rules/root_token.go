package rules

import (
	"github.com/vault-tokens/vault-plugin-secrets-tokens/internal/tokenwatch"
)

// RootToken reports requests to the engine with a root token.
type RootToken struct {
	Common `yaml:",inline"`
}

func (s *RootToken) definition() definition {
	return definition{
		name:     "root_token",
		settings: s,
		meaning:  "A request to the engine used a root token, which no policy restricts and nobody should use for daily work.",
		advice:   "Find out who holds it and why, then revoke it (vault token revoke -accessor). Give the holder a policy for their work.",
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
	a := r.finding(e, e.Namespace+"/"+e.Mount+e.Accessor, "Root token was used on the engine")
	a.Detail = "Last request: " + e.Operation + " " + e.Path + "."
	emit(a)
}
