package rules

import (
	"strings"
	"testing"

	"github.com/vault-tokens/vault-plugin-secrets-tokens/internal/tokenwatch"
)

func TestAuditDisabled(t *testing.T) {
	r := newRule(t, Defaults(), nil, "audit_disabled")
	e := tokenwatch.Event{Time: start, Kind: tokenwatch.KindAuditDisable, Name: "file"}
	done := observe(r, e)
	if len(done) != 1 || !strings.Contains(done[0].Detail, "Device file") {
		t.Fatalf("%+v", done)
	}
	e.Denied = true
	tried := observe(r, e)
	if len(tried) != 1 || !strings.Contains(tried[0].Detail, "refused it") || tried[0].Title == done[0].Title || tried[0].Key == done[0].Key {
		t.Errorf("refused: %+v", tried)
	}
	e.Kind = tokenwatch.KindAuditEnable
	if a := observe(r, e); len(a) != 0 {
		t.Errorf("enabled: %+v", a)
	}
}
