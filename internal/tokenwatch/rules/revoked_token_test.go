package rules

import (
	"fmt"
	"strings"
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

// After a kill switch, what it ended is one finding, however many clients have yet to
// ask for new tokens. What ended in another way is one of its own.
func TestKillSwitch(t *testing.T) {
	const many = 2000
	issue := func(at time.Duration, token string) tokenwatch.Event {
		e := introspection(at, true, token)
		e.Kind, e.Active, e.Role, e.EntityID = tokenwatch.KindIssue, nil, "orders", "owner"
		return e
	}
	for name, test := range map[string]struct {
		kill         tokenwatch.Event
		role, entity string // of the alert
	}{
		"of a role":    {tokenwatch.Event{Kind: tokenwatch.KindRoleRevoke, Role: "orders", Name: "orders"}, "orders", ""},
		"of an entity": {tokenwatch.Event{Kind: tokenwatch.KindEntityRevoke, Name: "owner"}, "", "owner"},
	} {
		r := newRule(t, Defaults(), nil, "revoked_token")
		for i := range many {
			observe(r, issue(0, fmt.Sprint(i)))
		}
		// Introspection does not change to whom a token was issued.
		used := introspection(time.Second, true, "0")
		used.Role, used.ClientID = tokenwatch.HashPrefix+"1", tokenwatch.HashPrefix+"2"
		observe(r, used, issue(0, "own"), issue(0, "short"))
		test.kill.Time, test.kill.Mount, test.kill.EntityID, test.kill.DisplayName = start.Add(time.Minute), "tokens/", "operator", "ops"
		byID := tokenwatch.Event{Time: start.Add(time.Second), Kind: tokenwatch.KindRevoke, Mount: "tokens/", TokenID: "own"}
		refused := test.kill
		refused.Time, refused.Denied = start, true
		observe(r, refused, byID, test.kill, issue(61*time.Second, "later"))
		r = restarted(t, r)

		keys := map[string]bool{}
		for i := range many {
			if a := observe(r, introspection(time.Minute+9*time.Second, false, fmt.Sprint(i))); len(a) != 0 {
				t.Fatalf("%s: within the grace: %+v", name, a)
			}
			a := observe(r, introspection(2*time.Minute, false, fmt.Sprint(i)))
			if len(a) != 1 || a[0].Role != test.role || a[0].EntityID != test.entity || a[0].TokenID != "" || a[0].Count != 1 {
				t.Fatalf("%s: token %d: %+v", name, i, a)
			}
			if !strings.Contains(a[0].Detail, "12:01:00Z with every token of ") || !strings.Contains(a[0].Detail, "by ops (entity operator). The last one that was presented: "+fmt.Sprint(i)+".") {
				t.Fatalf("%s: %s", name, a[0].Detail)
			}
			keys[a[0].Key] = true
		}
		if len(keys) != 1 {
			t.Errorf("%s: %d findings", name, len(keys))
		}
		for token, detail := range map[string]string{"own": "by its id", "later": "no revocation in the log names it"} {
			a := observe(r, introspection(2*time.Minute, false, token))
			if len(a) != 1 || a[0].TokenID != token || keys[a[0].Key] || !strings.Contains(a[0].Detail, detail) {
				t.Errorf("%s: %s: %+v", name, token, a)
			}
		}
		if a := observe(r, introspection(time.Hour, false, "short")); len(a) != 0 {
			t.Errorf("%s: an expired token: %+v", name, a)
		}
	}
}

// A kill switch is that of one role or entity, of one mount.
func TestKillSwitchOfAnother(t *testing.T) {
	for name, kill := range map[string]tokenwatch.Event{
		"role":      {Kind: tokenwatch.KindRoleRevoke, Mount: "tokens/", Role: "other", Name: "other"},
		"entity":    {Kind: tokenwatch.KindEntityRevoke, Mount: "tokens/", Name: "orders"},
		"mount":     {Kind: tokenwatch.KindRoleRevoke, Mount: "other/", Role: "orders", Name: "orders"},
		"namespace": {Kind: tokenwatch.KindRoleRevoke, Mount: "tokens/", Namespace: "ns", Role: "orders", Name: "orders"},
	} {
		r := newRule(t, Defaults(), nil, "revoked_token")
		used := introspection(0, true, "t")
		used.Role, used.ClientID = "orders", "owner"
		kill.Time = start.Add(time.Second)
		a := observe(r, used, kill, introspection(time.Minute, false, "t"))
		if len(a) != 1 || a[0].TokenID != "t" || !strings.Contains(a[0].Detail, "no revocation in the log names it") {
			t.Errorf("of another %s: %+v", name, a)
		}
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
