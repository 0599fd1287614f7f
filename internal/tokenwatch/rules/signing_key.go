package rules

import (
	"github.com/vault-tokens/vault-plugin-secrets-tokens/internal/tokenwatch"
)

// SigningKey reports rotation and deletion of signing keys by hand. Rotation by
// the engine itself is not in the audit log.
type SigningKey struct {
	Common          `yaml:",inline"`
	RotatedSeverity tokenwatch.Severity `yaml:"rotated_severity" help:"Severity of a normal rotation, after which all tokens stay valid. An emergency rotation has the rule's severity; a deletion is a warning."`
}

func (s *SigningKey) definition() definition {
	return definition{
		name:     "signing_key",
		settings: s,
		meaning:  "Someone rotated a signing key, deleted it, or dropped it in an emergency rotation, which invalidates every JWT that it signed.",
		advice:   "If it was not planned, ask the caller. After an emergency rotation, make sure that verifiers have fetched the key set again and applications have new tokens.",
	}
}

func (s *SigningKey) setDefaults() {
	*s = SigningKey{Common: enabled(tokenwatch.SeverityCritical), RotatedSeverity: tokenwatch.SeverityInfo}
}

func (s *SigningKey) rule(b base) tokenwatch.Rule {
	return &signingKey{base: b, rotated: s.RotatedSeverity}
}

type signingKey struct {
	base
	stateless
	rotated tokenwatch.Severity
}

func (r *signingKey) Observe(e *tokenwatch.Event, emit func(tokenwatch.Alert)) {
	if e.Failed() {
		return
	}
	var title string
	severity := r.severity
	switch e.Kind {
	case tokenwatch.KindKeyRotate:
		title, severity = "Signing key was rotated", r.rotated
	case tokenwatch.KindKeyDelete:
		title, severity = "Signing key was deleted", tokenwatch.SeverityWarning
	case tokenwatch.KindKeyEmergency:
		title = "Signing key was dropped in an emergency: every JWT that it signed is invalid"
	default:
		return
	}
	if r.ignore.has(e) {
		return
	}
	a := r.finding(e, string(e.Kind)+" "+e.Namespace+"/"+e.Mount+e.Name, title)
	a.Severity, a.Detail = severity, "Key "+e.Name+"."
	emit(a)
}
