package rules

import (
	"github.com/vault-tokens/vault-plugin-secrets-tokens/internal/tokenwatch"
)

// RootToken tells of requests to the engine with a root token.
type RootToken struct {
	Common `yaml:",inline"`
}

func (s RootToken) rule(b base) tokenwatch.Rule { return &rootToken{base: b} }

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
