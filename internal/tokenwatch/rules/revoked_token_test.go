package rules

import (
	"testing"
	"time"

	"github.com/vault-tokens/vault-plugin-secrets-tokens/internal/tokenwatch"
)

func TestExpiryIsNoRevocation(t *testing.T) {
	r := newRule(t, Defaults(), nil, "revoked_token")
	expired := introspection(time.Hour+time.Second, false, "t")
	if a := observe(r, introspection(0, true, "t"), expired); len(a) != 0 {
		t.Errorf("an expired token: %+v", a)
	}
	elsewhere := introspection(time.Minute, false, "t")
	elsewhere.Mount = "other/"
	if a := observe(r, elsewhere); len(a) != 0 {
		t.Errorf("a token of another mount: %+v", a)
	}
	if a := observe(r, introspection(time.Minute, false, "t")); len(a) != 1 {
		t.Errorf("a revoked one: %+v", a)
	}
	renewed := introspection(2*time.Minute, true, "t")
	renewed.Expires = start.Add(5 * time.Hour)
	if a := observe(r, renewed, introspection(4*time.Hour, false, "t")); len(a) != 1 {
		t.Errorf("renewed, then revoked: %+v", a)
	}
}

func TestGraceOfRevocation(t *testing.T) {
	r := newRule(t, Defaults(), nil, "revoked_token")
	revoke := introspection(time.Minute, false, "t")
	revoke.Kind, revoke.Active, revoke.TokenID = tokenwatch.KindRevoke, nil, ""
	if a := observe(r, introspection(0, true, "t"), revoke, introspection(time.Minute+9*time.Second, false, "t")); len(a) != 0 {
		t.Errorf("within the grace: %+v", a)
	}
	if a := observe(r, introspection(time.Minute+11*time.Second, false, "t")); len(a) != 1 {
		t.Errorf("after the grace: %+v", a)
	}
}
