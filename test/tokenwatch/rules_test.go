package tokenwatch

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/vault-tokens/vault-plugin-secrets-tokens/test/suite"
	"github.com/vault-tokens/vault-plugin-secrets-tokens/test/vaulttest"
)

// replayed has tokenwatch look at a log, with rules in YAML.
func (w *watched) replayed(log []byte, rules string) []alerted {
	w.T.Helper()
	config := suite.Write(w.T, w.T.TempDir(), "tokenwatch.yaml", rules)
	cmd := exec.CommandContext(w.Ctx, vaulttest.Tokenwatch(w.T), "replay", "-json", "-config", config, "-")
	cmd.Stdin = bytes.NewReader(log)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		w.T.Fatalf("tokenwatch replay: %v\n%s", err, stderr.String())
	}
	if !strings.Contains(stderr.String(), " 0 lines that are not audit entries") {
		w.T.Errorf("tokenwatch replay: %s", stderr.String())
	}
	return readAlerts(w.T, bytes.NewReader(out))
}

// workday is what goes on when nothing is wrong: tokens of every kind issued,
// introspected, renewed and given back, an expired and a mistyped one, a wrong
// scope, a refusal, a role written to what it was and made narrower.
func (w *watched) workday() {
	for range 4 {
		for _, k := range vaulttest.TokenTypes {
			token := w.Issue("watched-"+k.Name, fields{"scopes": "orders:read"})
			for range 3 {
				w.WantActive(token)
			}
			w.Introspect(token.Data.Token, fields{"client_ip": "10.0.0.1"})
			w.Introspect(token.Data.Token, fields{"required_scopes": "admin"})
			if k.Renewable {
				w.as(w.App, "PUT", "sys/leases/renew", fields{"lease_id": token.LeaseID})
			}
			w.as(w.App, "PUT", "sys/leases/revoke", fields{"lease_id": token.LeaseID, "sync": true})
		}
	}
	w.Introspect("vtk_mistyped", nil)
	short := w.Issue("watched-api_key", fields{"ttl": "1s"})
	if err := suite.Poll(w.Ctx, 20*time.Second, func() (bool, error) {
		active, err := w.ActiveAt(w.Ctx, w.Mount, short.Data.Token)
		return !active, err
	}); err != nil {
		w.T.Fatal(err)
	}
	w.Introspect(w.Issue("bound", nil).Data.Token, fields{"client_ip": "10.1.2.3"})
	w.attempt(w.Client(w.outsider), "GET", "tokens/creds/bound", nil)
	w.attempt(w.Client(w.App), "POST", "tokens/creds/bound", fields{"scopes": "admin"})
	w.as(w.operator, "POST", "tokens/roles/watched-bearer", fields{"allowed_scopes": []string{"orders:*"}, "default_scopes": []string{"orders:read"}, "max_ttl": "30m"})
	w.as(w.operator, "PATCH", "tokens/roles/watched-bearer", fields{"allowed_scopes": []string{"orders:read"}})
	w.as(w.operator, "GET", "tokens/config", nil)
	w.as(w.operator, "POST", "tokens/keys/daily", fields{"algorithm": "ES256"})
	w.operate()
}

// operate is what an operator does who looks after the engine and ends nothing.
func (w *watched) operate() {
	w.as(w.operator, "POST", "tokens/roles/tracked", vaulttest.JWT.RoleBody().With(fields{"track": true}))
	w.as(w.operator, "PATCH", "tokens/roles/tracked", fields{"track": false})
	w.Issue("watched-api_key", nil)
	for _, query := range []string{"", "?role=watched-api_key&limit=10", "?entity_id=" + w.Entity} {
		w.as(w.operator, "LIST", "tokens/tokens"+query, nil)
	}
	w.attempt(w.Client(w.operator), "GET", "tokens/entities/"+w.Entity, nil)
	w.attempt(w.Client(w.operator), "POST", "tokens/tidy", fields{"dry_run": true}) // refused while a pass is under way
	w.as(w.operator, "GET", "tokens/tidy/status", nil)
	w.as(w.operator, "POST", "tokens/tidy", nil)
	w.as(w.operator, "POST", "tokens/tidy/cancel", nil)
}

// presentAll presents tokens that were all revoked at once: want is the one alert
// about them.
func (w *watched) presentAll(tokens []*vaulttest.Issued, want *alerted) {
	w.T.Helper()
	for _, token := range tokens {
		w.WantInactive(token.Data.Token)
	}
	want.Count, want.Who = len(tokens), "presented to API server token-api"
}

// TestRules has a real Vault write what an attack leaves in its audit log,
// for every rule, and holds each rule to seeing it; and what an ordinary day
// leaves, in which no rule may see anything.
func TestRules(t *testing.T) {
	w := watch(t)
	t.Run("an ordinary day", func(t *testing.T) {
		w := &watched{w.sub(t), w.operator, w.outsider}
		log := w.segment(w.workday)
		if alerts := w.replayed(log, ""); len(alerts) > 0 {
			t.Errorf("%d alerts, such as %+v", len(alerts), alerts[0])
		}
		// The thresholds of the attacks below, which are lower than the defaults.
		if alerts := w.replayed(log, quick); len(alerts) > 0 {
			t.Errorf("with lower thresholds: %d alerts, such as %+v", len(alerts), alerts[0])
		}
	})
	for _, test := range attacks {
		t.Run(test.rule+": "+test.name, func(t *testing.T) {
			w := &watched{w.sub(t), w.operator, w.outsider}
			want := alerted{Rule: test.rule, Severity: test.severity}
			log := w.segment(func() { test.attack(w, &want) })
			rules := test.rules
			if rules == "" {
				rules = quick
			}
			found := ofRule(w.replayed(log, rules), test.rule)
			if len(found) == 0 {
				t.Fatalf("no alert; the log:\n%s", log[max(0, len(log)-4000):])
			}
			checkAlert(t, found[len(found)-1], want)
		})
	}
	names := w.ruleNames()
	for _, test := range attacks {
		delete(names, test.rule)
	}
	delete(names, "silence") // TestSilence
	for name := range names {
		t.Errorf("no attack fires the rule %s", name)
	}
}

// checkAlert compares what want has, and makes sure that an alert says who,
// when, where and what to do.
func checkAlert(t *testing.T, got, want alerted) {
	t.Helper()
	if got.Severity != want.Severity || want.TokenID != "" && got.TokenID != want.TokenID || want.Count != 0 && got.Count != want.Count ||
		!strings.Contains(got.Detail, want.Detail) || !strings.Contains(got.Who, want.Who) || !strings.Contains(got.Where, want.Where) ||
		want.LeaseID != "" && got.LeaseID != want.LeaseID || want.EntityID != "" && got.EntityID != want.EntityID || want.Role != "" && got.Role != want.Role {
		t.Errorf("%+v\nwant %+v", got, want)
	}
	if got.Title == "" || got.Who == "" || got.Advice == "" || got.First.IsZero() || got.Last.Before(got.First) || got.Count < 1 {
		t.Errorf("incomplete: %+v", got)
	}
}

func (w *watched) ruleNames() map[string]bool {
	w.T.Helper()
	out, err := exec.CommandContext(w.Ctx, vaulttest.Tokenwatch(w.T), "rules", "-json").Output()
	if err != nil {
		w.T.Fatal(err)
	}
	var rules []struct{ Name string }
	suite.Decode(w.T, out, &rules)
	names := make(map[string]bool)
	for _, r := range rules {
		names[r.Name] = true
	}
	return names
}

// quick are thresholds that a test reaches in seconds.
const quick = `
rules:
  revoked_token: {grace: 0s}
  mass_revocation: {threshold: 20}
  failed_access: {mount_threshold: 40}
  issuance_spike: {window: 1s, learning: 3s, minimum: 20, factor: 4}
  unexpected_location: {learning: 1s}
  one_address: {requests: 200, clients: 4}
`

// travelled has a database in which 81.2.69.0/24 is in London, 198.51.100.0/24
// in Sydney, and 202.196.224.0/20 in the Philippines; the test of internal/tokenwatch/geo keeps it.
var travelled = `
geo_database: ` + filepath.Join(suite.Repository(), "test", "testdata", "places.mmdb") + `
rules:
  unexpected_location: {learning: 1s}
`

var attacks = []struct {
	rule, name, severity, rules string
	attack                      func(w *watched, want *alerted)
}{
	{"failed_access", "an entity tries what it may not", "warning", "", func(w *watched, want *alerted) {
		for range 15 {
			w.attempt(w.Client(w.outsider), "GET", "tokens/creds/watched-api_key", nil)
		}
		// Each denial is on two lines of the log, and counts once.
		want.Count, want.Who, want.Detail = 15, "userpass-outsider (entity ", "permission denied"
	}},
	{"failed_access", "somebody without a valid Vault token", "warning", "", func(w *watched, want *alerted) {
		for i := range 12 {
			w.attempt(w.from("127.0.3.1", fmt.Sprintf("hvs.guess%d", i)), "GET", "tokens/creds/watched-api_key", nil)
		}
		want.Count, want.Where = 12, "127.0.3.1"
	}},
	{"failed_access", "from many addresses", "warning", "", func(w *watched, want *alerted) {
		for i := range 50 {
			w.attempt(w.from(fmt.Sprintf("127.0.4.%d", i+1), "hvs.guess"), "POST", "tokens/introspect", fields{"token": "x"})
		}
		want.Count, want.Who, want.Where = 50, "many clients", "addresses"
	}},
	{"inactive_burst", "guessing", "warning", "", func(w *watched, want *alerted) {
		for i := range 25 {
			w.Introspect(fmt.Sprintf("vtk_guess%d", i), fields{"client_ip": "192.0.2.66"})
		}
		want.Count, want.Who, want.Detail = 25, "API server token-api", "guessing"
	}},
	{"inactive_burst", "without client addresses", "warning", "", func(w *watched, want *alerted) {
		for range 20 {
			w.Introspect("vtk_theSameAgain", nil)
		}
		want.Count, want.Who, want.Detail = 20, "API server token-api", "same few tokens"
	}},
	{"revoked_token", "by possession", "critical", "", func(w *watched, want *alerted) {
		token := w.Issue("watched-bearer", nil)
		w.as(w.App, "POST", "tokens/revoke", fields{"token": token.Data.Token})
		w.WantInactive(token.Data.Token)
		want.TokenID, want.LeaseID, want.Role, want.Detail = token.Data.TokenID, token.LeaseID, "watched-bearer", "by possession, by userpass-app"
	}},
	{"revoked_token", "by id, of a token that was only seen in use", "critical", "", func(w *watched, want *alerted) {
		token := w.Issue("watched-api_key", nil)
		w.WantActive(token)
		w.as(w.operator, "DELETE", "tokens/tokens/"+token.Data.TokenID, nil)
		w.WantInactive(token.Data.Token)
		want.TokenID, want.Detail = token.Data.TokenID, "by its id, by userpass-operator"
	}},
	{"revoked_token", "a JWT through its lease", "critical", "", func(w *watched, want *alerted) {
		token := w.Issue("watched-jwt", nil)
		w.as(w.operator, "PUT", "sys/leases/revoke/"+token.LeaseID, fields{"sync": true})
		w.WantInactive(token.Data.Token)
		want.TokenID, want.Detail = token.Data.TokenID, "through its lease, by userpass-operator"
	}},
	{"revoked_token", "after the hashed id of its lease was renewed", "critical", "", func(w *watched, want *alerted) {
		token := w.Issue("watched-bearer", nil)
		w.as(w.App, "PUT", "sys/leases/renew", fields{"lease_id": token.LeaseID})
		w.as(w.App, "PUT", "sys/leases/revoke", fields{"lease_id": token.LeaseID, "sync": true})
		w.WantInactive(token.Data.Token)
		want.TokenID, want.Detail = token.Data.TokenID, "through its lease"
	}},
	{"revoked_token", "with its login", "critical", "", func(w *watched, want *alerted) {
		resp := w.Must("POST", "auth/token/create-orphan", fields{"policies": []string{"app"}, "ttl": "1h"})
		login, _ := resp.Body["auth"].(map[string]any)["client_token"].(string)
		token, err := w.IssueAt(w.Ctx, w.Client(login), w.Mount, "watched-api_key", nil)
		if err != nil {
			w.T.Fatal(err)
		}
		w.as(login, "POST", "auth/token/revoke-self", nil)
		if err := suite.Poll(w.Ctx, 20*time.Second, func() (bool, error) { // Vault ends its leases in the background
			active, err := w.ActiveAt(w.Ctx, w.Mount, token.Data.Token)
			return !active, err
		}); err != nil {
			w.T.Fatal(err)
		}
		want.TokenID, want.Detail = token.Data.TokenID, "no revocation in the log names it"
	}},
	{"revoked_token", "those of a role, after its kill switch", "critical", "", func(w *watched, want *alerted) {
		var tokens []*vaulttest.Issued
		for range 12 {
			tokens = append(tokens, w.Issue("watched-bearer", nil))
		}
		w.WantActive(tokens[0])
		other := w.Issue("watched-api_key", nil)
		w.as(w.operator, "POST", "tokens/roles/watched-bearer/revoke", nil)
		w.presentAll(tokens, want)
		w.WantActive(other)
		w.WantActive(w.Issue("watched-bearer", nil)) // the client's next one
		want.Role, want.Detail = "watched-bearer", "with every token of role watched-bearer, by userpass-operator"
	}},
	{"revoked_token", "those of an entity, after its kill switch", "critical", "", func(w *watched, want *alerted) {
		login, entity, err := w.NewUser(w.Ctx, "leaver", vaulttest.AppPolicy)
		if err != nil {
			w.T.Fatal(err)
		}
		var tokens []*vaulttest.Issued
		for _, k := range vaulttest.TokenTypes {
			token, err := w.IssueAt(w.Ctx, w.Client(login), w.Mount, "watched-"+k.Name, nil)
			if err != nil {
				w.T.Fatal(err)
			}
			w.WantActive(token)
			tokens = append(tokens, token)
		}
		other := w.Issue("watched-bearer", nil)
		w.as(w.operator, "POST", "tokens/entities/"+entity+"/revoke", nil)
		w.presentAll(tokens, want)
		w.WantActive(other)
		want.EntityID, want.Detail = entity, "with every token of entity "+entity+", by userpass-operator"
	}},
	{"outside_bound_cidrs", "a leaked token", "critical", "", func(w *watched, want *alerted) {
		token := w.Issue("bound", nil)
		w.Introspect(token.Data.Token, fields{"client_ip": "192.0.2.1"})
		want.TokenID, want.Role, want.Where, want.Count = token.Data.TokenID, "bound", "client address hmac-sha256:", 1
	}},
	{"outside_bound_cidrs", "an API server that does not say", "info", "", func(w *watched, want *alerted) {
		w.Introspect(w.Issue("bound", nil).Data.Token, nil)
		want.Detail = "no client_ip"
	}},
	{"unexpected_location", "an entity in a new network", "warning", "", func(w *watched, want *alerted) {
		w.forAWhile(1200*time.Millisecond, func() { w.Issue("watched-api_key", nil) })
		w.attempt(w.from("127.9.9.9", w.App), "GET", "tokens/creds/watched-api_key", nil)
		want.EntityID, want.Where, want.Detail = w.Entity, "127.9.9.9", "The network is new"
	}},
	{"unexpected_location", "a token at a new address, hashed", "warning", "", func(w *watched, want *alerted) {
		token := w.Issue("watched-api_key", nil)
		w.forAWhile(1200*time.Millisecond, func() { w.Introspect(token.Data.Token, fields{"client_ip": "192.0.2.1"}) })
		w.Introspect(token.Data.Token, fields{"client_ip": "198.51.100.1"})
		want.TokenID, want.Where, want.Detail = token.Data.TokenID, "client address hmac-sha256:", "The network is new"
	}},
	{"unexpected_location", "in one network", "warning", "", func(w *watched, want *alerted) {
		w = w.atMount(located)
		token := w.Issue("watched-bearer", nil)
		w.forAWhile(1200*time.Millisecond, func() { w.Introspect(token.Data.Token, fields{"client_ip": "192.0.2.1"}) })
		w.Introspect(token.Data.Token, fields{"client_ip": "192.0.2.200"}) // the same network: nothing to say
		w.Introspect(token.Data.Token, fields{"client_ip": "192.0.3.1"})
		want.Count, want.EntityID, want.Where = 1, w.Entity, "192.0.3.1"
	}},
	{"unexpected_location", "on the other side of the world", "warning", travelled, func(w *watched, want *alerted) {
		w = w.atMount(located)
		token := w.Issue("watched-api_key", nil)
		w.Introspect(token.Data.Token, fields{"client_ip": "81.2.69.142"})
		w.Introspect(token.Data.Token, fields{"client_ip": "198.51.100.1"})
		want.TokenID, want.Where, want.Detail = token.Data.TokenID, "198.51.100.1", "nobody travels that fast"
	}},
	{"unexpected_location", "in another country", "warning", travelled, func(w *watched, want *alerted) {
		w = w.atMount(located)
		token := w.Issue("watched-api_key", nil)
		w.forAWhile(1200*time.Millisecond, func() { w.Introspect(token.Data.Token, fields{"client_ip": "81.2.69.142"}) })
		w.Introspect(token.Data.Token, fields{"client_ip": "202.196.224.1"})
		want.TokenID, want.Where, want.Detail = token.Data.TokenID, "202.196.224.1", "The country is new: PH"
	}},
	{"issuance_spike", "stocking up", "warning", "", func(w *watched, want *alerted) {
		w.forAWhile(4500*time.Millisecond, func() { w.Issue("watched-bearer", nil) })
		w.forAWhile(1500*time.Millisecond, func() {
			for range 15 {
				w.Issue("watched-bearer", nil)
			}
		})
		want.Role, want.Detail = "watched-bearer", "the mean is"
	}},
	{"mass_revocation", "one by one", "critical", "", func(w *watched, want *alerted) {
		for range 25 {
			token := w.Issue("watched-bearer", nil)
			w.as(w.App, "POST", "tokens/revoke", fields{"token": token.Data.Token})
		}
		want.Count, want.Who = 25, "userpass-app"
	}},
	{"mass_revocation", "a lease prefix", "critical", "", func(w *watched, want *alerted) {
		w.Issue("watched-api_key", nil)
		w.as(w.operator, "PUT", "sys/leases/revoke-prefix/tokens/creds/watched-api_key", fields{"sync": true})
		want.Who, want.Detail = "userpass-operator", "revoke-prefix/tokens/creds/watched-api_key"
	}},
	{"mass_revocation", "the kill switch of a role", "critical", "", func(w *watched, want *alerted) {
		w.Issue("watched-api_key", nil)
		w.attempt(w.Client(w.outsider), "POST", "tokens/roles/bound/revoke", nil) // refused
		w.as(w.operator, "POST", "tokens/roles/watched-api_key/revoke", nil)
		w.as(w.operator, "POST", "tokens/tidy/cancel", nil)
		want.Count, want.Who, want.Role = 1, "userpass-operator", "watched-api_key"
		want.Detail = "tokens/roles/watched-api_key/revoke. Status lists that had live tokens of the role: 1."
	}},
	{"mass_revocation", "the kill switch of an entity", "critical", "", func(w *watched, want *alerted) {
		_, entity, err := w.NewUser(w.Ctx, "victim", vaulttest.AppPolicy)
		if err != nil {
			w.T.Fatal(err)
		}
		w.as(w.operator, "POST", "tokens/entities/"+entity+"/revoke", nil)
		want.Count, want.Who, want.Detail = 1, "userpass-operator", "tokens/entities/"+entity+"/revoke"
	}},
	{"role_widened", "scopes, networks and times", "warning", "", func(w *watched, want *alerted) {
		w.as(w.operator, "POST", "tokens/roles/growing", fields{"token_type": "bearer", "allowed_scopes": "a:*", "bound_cidrs": "10.0.0.0/8", "max_ttl": "1h"})
		w.as(w.operator, "PATCH", "tokens/roles/growing", fields{"allowed_scopes": []string{"a:b", "admin"}, "bound_cidrs": []string{"10.1.0.0/16", "0.0.0.0/0"}, "max_ttl": nil})
		want.Role, want.Detail = "growing", "allowed_scopes gained admin; bound_cidrs gained 0.0.0.0/0; max_ttl of 1h0m0s was removed"
	}},
	{"role_widened", "a ceiling", "warning", "", func(w *watched, want *alerted) {
		w.as(w.operator, "POST", "tokens/config", fields{"max_ttl": "24h", "allowed_scopes": "orders:*"})
		w.as(w.operator, "POST", "tokens/config", fields{"max_ttl": "240h", "allowed_scopes": "*"})
		want.Detail = "allowed_scopes gained *; max_ttl was raised from 24h0m0s to 240h0m0s"
		w.as(w.operator, "POST", "tokens/config", fields{"max_ttl": 0})
		want.Count = 2
		want.Detail = "max_ttl of 240h0m0s was removed"
	}},
	{"signing_key", "rotated", "info", "", func(w *watched, want *alerted) {
		w.as(w.operator, "POST", "tokens/keys/spare", fields{"algorithm": "ES256"})
		w.as(w.operator, "POST", "tokens/keys/spare/rotate", fields{"force": true})
		want.Detail, want.Who = "spare", "userpass-operator"
	}},
	{"signing_key", "dropped in an emergency", "critical", "", func(w *watched, want *alerted) {
		w.as(w.operator, "POST", "tokens/keys/spare/rotate-emergency", nil)
		want.Detail = "spare"
	}},
	{"signing_key", "dropped once more", "critical", "", func(w *watched, want *alerted) {
		w.as(w.operator, "POST", "tokens/keys/spare/rotate-emergency", nil)
	}},
	{"signing_key", "deleted", "warning", "", func(w *watched, want *alerted) {
		w.as(w.operator, "DELETE", "tokens/keys/spare", nil)
		want.Detail = "spare"
	}},
	{"root_token", "in use", "warning", "", func(w *watched, want *alerted) {
		w.Must("GET", "tokens/config", nil)
		w.Must("LIST", "tokens/roles", nil)
		want.Count, want.Who = 2, "root (accessor "
	}},
	{"audit_disabled", "one of two", "critical", "", func(w *watched, want *alerted) {
		second := filepath.Join(w.T.TempDir(), "second.log")
		w.as(w.operator, "PUT", "sys/audit/second", fields{"type": "file", "options": fields{"file_path": second}})
		w.as(w.operator, "DELETE", "sys/audit/second", nil)
		want.Count, want.Who, want.Detail = 1, "userpass-operator", "Device second"
		// Its own log ends with the request.
		own, err := os.ReadFile(second)
		if err != nil {
			w.T.Fatal(err)
		}
		found := ofRule(w.replayed(own, quick), "audit_disabled")
		if len(found) != 1 {
			w.T.Errorf("the log of the device itself: %d alerts, want 1", len(found))
		}
	}},
	{"audit_disabled", "somebody tries", "critical", "", func(w *watched, want *alerted) {
		w.attempt(w.Client(w.outsider), "DELETE", "sys/audit/file", nil)
		want.Count, want.Who, want.Detail = 1, "userpass-outsider", "Vault refused it"
	}},
	{"one_address", "a proxy", "info", "", func(w *watched, want *alerted) {
		for i := range 4 {
			_, _, err := w.NewUser(w.Ctx, fmt.Sprintf("user%d", i), vaulttest.AppPolicy)
			if err != nil {
				w.T.Fatal(err)
			}
		}
		for _, name := range []string{"user0", "user1", "user2", "user3"} {
			login, err := w.Anonymous().Must(w.Ctx, "POST", "auth/userpass/login/"+name, fields{"password": "correct horse battery staple"})
			if err != nil {
				w.T.Fatal(err)
			}
			token, _ := login.Body["auth"].(map[string]any)["client_token"].(string)
			for range 55 {
				w.as(token, "GET", "tokens/creds/watched-api_key", nil)
			}
		}
		want.Where, want.Who = "127.0.0.1", "different callers"
	}},
}

// TestSilence disables the only audit device under a tokenwatch that
// follows it.
func TestSilence(t *testing.T) {
	w := watch(t)
	config := suite.Write(t, t.TempDir(), "tokenwatch.yaml", "rules: {silence: {after: 2s}}\n")
	tokenwatch := follow(t, w.Ctx, "-json", "-config", config, "-file", w.AuditFile)
	// As long as there are entries there is no silence.
	w.forAWhile(3*time.Second, func() { w.Issue("watched-bearer", nil) })
	w.Must("DELETE", "sys/audit/file", nil)
	var alerts []alerted
	if err := suite.Poll(w.Ctx, time.Minute, func() (bool, error) {
		if tokenwatch.exited() {
			t.Fatal("tokenwatch has ended")
		}
		alerts = tokenwatch.alerts()
		return len(ofRule(alerts, "silence")) > 0, nil
	}); err != nil {
		t.Fatal(err)
	}
	var disabled time.Time
	for _, a := range alerts {
		switch {
		case a.Rule == "audit_disabled":
			disabled = a.Last
		case a.Rule == "silence" && disabled.IsZero():
			t.Fatalf("silence before there was any: %+v", a)
		case a.Rule == "silence":
			if a.Severity != "critical" || a.Advice == "" || a.First.Before(disabled.Add(-time.Second)) {
				t.Errorf("%+v", a)
			}
			return
		}
	}
}
