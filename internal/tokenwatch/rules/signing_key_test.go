package rules

import (
	"testing"

	"github.com/vault-tokens/vault-plugin-secrets-tokens/internal/tokenwatch"
)

func TestSigningKey(t *testing.T) {
	s := Defaults()
	s.SigningKey.RotatedSeverity = tokenwatch.SeverityWarning
	for kind, want := range map[tokenwatch.Kind]struct{ byDefault, changed tokenwatch.Severity }{
		tokenwatch.KindKeyRotate:    {tokenwatch.SeverityInfo, tokenwatch.SeverityWarning},
		tokenwatch.KindKeyDelete:    {tokenwatch.SeverityWarning, tokenwatch.SeverityWarning},
		tokenwatch.KindKeyEmergency: {tokenwatch.SeverityCritical, tokenwatch.SeverityCritical},
	} {
		e := tokenwatch.Event{Time: start, Kind: kind, Mount: "tokens/", Name: "default"}
		if a := observe(newRule(t, Defaults(), nil, "signing_key"), e); len(a) != 1 || a[0].Severity != want.byDefault || a[0].Detail != "Key default." {
			t.Errorf("%s: %+v", kind, a)
		}
		if a := observe(newRule(t, s, nil, "signing_key"), e); len(a) != 1 || a[0].Severity != want.changed {
			t.Errorf("%s, with another rotated_severity: %+v", kind, a)
		}
		if e.Invalid = true; len(observe(newRule(t, s, nil, "signing_key"), e)) != 0 {
			t.Errorf("%s: an alert although it was refused", kind)
		}
	}
}
