package rules

import (
	"testing"

	"github.com/vault-tokens/vault-plugin-secrets-tokens/internal/tokenwatch"
)

func TestOutsideBoundCIDRs(t *testing.T) {
	r := newRule(t, Defaults(), nil, "outside_bound_cidrs")
	outside := introspection(0, false, "t")
	outside.ClientIPFailed, outside.ClientIP = true, "192.0.2.1"
	if a := observe(r, outside); len(a) != 1 || a[0].Severity != tokenwatch.SeverityCritical || a[0].Where != "client address 192.0.2.1" || a[0].TokenID != "t" {
		t.Errorf("from outside: %+v", a)
	}
	unknown := outside
	unknown.ClientIP = ""
	if a := observe(r, unknown); len(a) != 1 || a[0].Severity != tokenwatch.SeverityInfo {
		t.Errorf("without client_ip: %+v", a)
	}
	if a := observe(r, introspection(0, true, "t"), introspection(0, false, "t")); len(a) != 0 {
		t.Errorf("checks that did not fail: %+v", a)
	}
}
