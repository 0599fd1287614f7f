package rules

import (
	"github.com/vault-tokens/vault-plugin-secrets-tokens/internal/tokenwatch"
)

// AuditDisabled reports audit devices that are disabled, and attempts to do so.
type AuditDisabled struct {
	Common `yaml:",inline"`
}

func (s *AuditDisabled) definition() definition {
	return definition{
		name:     "audit_disabled",
		settings: s,
		meaning:  "Someone disabled an audit device, or tried to. This is often an attacker's first step.",
		advice:   "Enable it again at once (vault audit enable), and check everything the caller has done since, in the log of another device or at a load balancer.",
	}
}

func (s *AuditDisabled) setDefaults() {
	*s = AuditDisabled{Common: enabled(tokenwatch.SeverityCritical)}
}

func (s *AuditDisabled) rule(b base) tokenwatch.Rule { return &auditDisabled{base: b} }

type auditDisabled struct {
	base
	stateless
}

func (r *auditDisabled) Observe(e *tokenwatch.Event, emit func(tokenwatch.Alert)) {
	if e.Kind != tokenwatch.KindAuditDisable || r.ignore.has(e) {
		return
	}
	a := r.finding(e, e.Name, "Audit device was disabled")
	a.Detail = "Device " + e.Name + ". If tokenwatch reads this device, it sees nothing from now on."
	if e.Failed() {
		a.Title, a.Detail = "Someone tried to disable an audit device", "Device "+e.Name+"; Vault refused it."
		a.Key += " refused"
	}
	emit(a)
}
