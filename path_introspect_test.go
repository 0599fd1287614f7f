package tokens

import (
	"context"
	"errors"
	"maps"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"
	"github.com/hashicorp/vault/sdk/helper/consts"
	"github.com/hashicorp/vault/sdk/logical"
)

// The cached record must not outlive its own expiry, whatever the lease does.
func TestExpiryWithoutLease(t *testing.T) {
	for _, kind := range []string{"api_key", "bearer", "jwt"} {
		m := newMount(t).withRoles()
		issued := m.must(logical.UpdateOperation, "creds/"+kind, map[string]any{"ttl": "10s"})
		token := issued.Data["token"].(string)
		m.clock.Advance(9 * time.Second)
		if !m.active(token) {
			t.Errorf("%s: inactive before its expiry", kind)
		}
		m.clock.Advance(time.Second)
		if m.active(token) {
			t.Errorf("%s: active after its expiry", kind)
		}
	}
}

// A JWT that is not an access token of ours must never pass for one.
func TestForeignJWTs(t *testing.T) {
	m := newMount(t).withRoles()
	good, kid := m.issueJWT()
	signing := m.signing()
	claims := m.claims(good)
	resigned, err := signing.Sign("at+jwt", claims)
	if err != nil || !m.active(resigned) {
		t.Fatalf("the same claims signed again should be active: %v", err)
	}
	idToken, err := signing.Sign("JWT", claims)
	if err != nil {
		t.Fatal(err)
	}
	hmac := func(header map[string]any) string {
		token := &jwt.Token{Header: header, Claims: claims, Method: jwt.SigningMethodHS256}
		signed, err := token.SignedString([]byte("key"))
		if err != nil {
			t.Fatal(err)
		}
		return signed
	}
	none := &jwt.Token{Header: map[string]any{"typ": "at+jwt", "alg": "none", "kid": kid}, Claims: claims, Method: jwt.SigningMethodNone}
	unsigned, err := none.SignedString(jwt.UnsafeAllowNoneSignatureType)
	if err != nil {
		t.Fatal(err)
	}
	for name, token := range map[string]string{
		"an ID token":         idToken,
		"HMAC":                hmac(map[string]any{"typ": "at+jwt", "alg": "HS256", "kid": kid}),
		"no signature":        unsigned,
		"cut signature":       good[:len(good)-4],
		"another signature":   good[:len(good)-8] + "AAAAAAAA",
		"two dots and no JWT": "a.b.c",
	} {
		if m.active(token) {
			t.Errorf("%s passes for an access token", name)
		}
	}
}

// Go's JSON decoder matches names whatever their case; a role's claim must not
// pass for the engine's own that way.
func TestClaimsAreReadByExactName(t *testing.T) {
	m := newMount(t).withRoles()
	good, _ := m.issueJWT()
	signing := m.signing()
	claims := m.claims(good)
	claims["EXP"], claims["Scope"] = m.clock.Now().Add(time.Hour).Unix(), "admin"
	token, err := signing.Sign("at+jwt", claims)
	if err != nil {
		t.Fatal(err)
	}
	resp := m.must(logical.UpdateOperation, "introspect", map[string]any{"token": token})
	if resp.Data["scope"] != "orders:read" {
		t.Errorf("scope is %v", resp.Data["scope"])
	}
	m.clock.Advance(16 * time.Minute)
	if m.active(token) {
		t.Error("active after exp")
	}
	if m.active(good + "\n") {
		t.Error("a JWT with a line break is active")
	}
}

// A node that is not the active one must pass an introspection on: its copy of
// the storage lags, so that it could call a revoked token active. The framework
// asks for that with ErrReadOnly, which Vault and OpenBao turn into forwarding.
func TestIntrospectionIsForwarded(t *testing.T) {
	m := newMount(t).withRoles()
	token := m.must(logical.ReadOperation, "creds/bearer", nil).Data["token"]
	for name, state := range map[string]consts.ReplicationState{
		"standby":   consts.ReplicationPerformanceStandby,
		"secondary": consts.ReplicationPerformanceSecondary,
	} {
		t.Run(name, func(t *testing.T) {
			m.system.ReplicationStateVal = state
			m.restart()
			resp, err := m.backend.HandleRequest(context.Background(), &logical.Request{
				Operation: logical.UpdateOperation, Path: "introspect", Storage: m.storage, Data: map[string]any{"token": token},
			})
			if !errors.Is(err, logical.ErrReadOnly) {
				t.Errorf("answered with %v, %v, want %v", resp, err, logical.ErrReadOnly)
			}
		})
	}
}

// Who takes a lagging copy into account can have standbys answer.
func TestIntrospectionIsLocalWhereTheConfigurationSaysSo(t *testing.T) {
	m := newMount(t).withRoles()
	token := m.must(logical.ReadOperation, "creds/bearer", nil).Data["token"].(string)
	m.must(logical.UpdateOperation, "config", map[string]any{"standby_introspection": "local"})
	forwarded := func(operation logical.Operation, path string, data map[string]any) bool {
		t.Helper()
		_, err := m.backend.HandleRequest(context.Background(), &logical.Request{Operation: operation, Path: path, Storage: m.storage, Data: data})
		return errors.Is(err, logical.ErrReadOnly)
	}
	for _, state := range []consts.ReplicationState{consts.ReplicationPerformanceStandby, consts.ReplicationPerformanceSecondary} {
		m.system.ReplicationStateVal = state
		m.restart()
		if !m.active(token) {
			t.Error("the standby calls a live token inactive")
		}
		if !forwarded(logical.UpdateOperation, "revoke", map[string]any{"token": token}) {
			t.Error("the standby revokes by itself")
		}
		m.put("config/config", `{`) // then the active node decides
		if !forwarded(logical.UpdateOperation, "introspect", map[string]any{"token": token}) {
			t.Error("the standby answers without a configuration")
		}
		m.put("config/config", `{"issuer":"`+testIssuer+`","standby_introspection":"local"}`)
	}
	m.put("config/config", `{"issuer":"`+testIssuer+`"}`) // as an older version stored it
	if !forwarded(logical.UpdateOperation, "introspect", map[string]any{"token": token}) {
		t.Error("the standby answers by itself and nobody asked for it")
	}
}

// A check that is named and empty is most likely a variable that was not set, in a
// server that relies on it.
func TestNamedAndEmptyChecksAreRefused(t *testing.T) {
	m := newMount(t).withRoles()
	m.must(logical.UpdateOperation, "roles/bearer", map[string]any{"default_scopes": ""})
	token := m.must(logical.ReadOperation, "creds/bearer", nil).Data["token"].(string)
	for name, values := range map[string][]any{
		"required_scopes": {"", " ", ",", []any{}, []string{}, []any{""}},
		"audience":        {""},
		"client_ip":       {""},
		"token":           {""},
	} {
		for _, value := range values {
			question := map[string]any{"token": token}
			question[name] = value
			if message := m.refused(logical.UpdateOperation, "introspect", question); !strings.HasPrefix(message, name+": ") {
				t.Errorf("%s=%q: %s", name, value, message)
			}
		}
	}
	if !m.active(token) {
		t.Error("inactive without any check")
	}
}

// Anybody can make up tokens, so that these must not fill the log.
func TestInactiveTokensAreLoggedByWhoseTheyAre(t *testing.T) {
	m := newMount(t).withRoles()
	m.must(logical.UpdateOperation, "roles/bearer", map[string]any{"generate_lease": false})
	live := m.must(logical.ReadOperation, "creds/bearer", nil).Data["token"].(string)
	expired := m.must(logical.UpdateOperation, "creds/api_key", map[string]any{"ttl": "1s"}).Data["token"].(string)
	revoked := m.must(logical.ReadOperation, "creds/jwt", nil).Data["token"].(string)
	m.must(logical.UpdateOperation, "revoke", map[string]any{"token": revoked})
	m.clock.Advance(2 * time.Second)
	for name, test := range map[string]struct {
		question map[string]any
		level    string
	}{
		"malformed":    {map[string]any{"token": "x"}, "[DEBUG]"},
		"unknown":      {map[string]any{"token": "vtk_4109mqr7D1iAczWyKVT0JgUp0s2Sge6nXIg5jfuW6FedimywKBBTDpckWW47FKACi29GYva"}, "[DEBUG]"},
		"forged":       {map[string]any{"token": revoked[:len(revoked)-8] + "AAAAAAAA"}, "[DEBUG]"},
		"check failed": {map[string]any{"token": live, "required_scopes": "admin"}, "[INFO]"},
		"expired":      {map[string]any{"token": expired}, "[INFO]"},
		"revoked":      {map[string]any{"token": revoked}, "[INFO]"},
	} {
		before := len(m.log.String())
		if m.must(logical.UpdateOperation, "introspect", test.question).Data["active"] != false {
			t.Fatalf("%s: active", name)
		}
		line := m.log.String()[before:]
		if strings.Count(line, "introspection refused") != 1 || !strings.Contains(line, test.level) {
			t.Errorf("%s: logged as %q, want one line at %s", name, line, test.level)
		}
	}
}

func TestIntrospect(t *testing.T) {
	m := newMount(t).withRoles()
	for _, kind := range []string{"api_key", "bearer", "jwt"} {
		m.must(logical.UpdateOperation, "roles/"+kind, map[string]any{"bound_cidrs": "10.0.0.0/8", "metadata": map[string]any{"team": "payments"}})
		resp := m.must(logical.UpdateOperation, "creds/"+kind, map[string]any{"cnf": map[string]any{"jkt": strings.Repeat("A", 43)}})
		issued, lease := resp.Data, resp.Secret.InternalData
		index, _ := strconv.Atoi(lease["status_index"].(string))
		ask := func(more map[string]any) map[string]any {
			question := map[string]any{"token": issued["token"], "client_ip": "10.1.2.3"}
			maps.Copy(question, more)
			return question
		}
		now := m.clock.Now().Unix()
		live := map[string]any{
			"active": true, "token_id": issued["token_id"], "token_type": kind, "role": kind, "scope": "orders:read",
			"client_id": "entity-1", "sub": "entity-1", "iat": now, "exp": now + issued["expires_in"].(int64), "iss": testIssuer,
			"aud": []string{"https://api.example.com"}, "metadata": map[string]any{"team": "payments"}, "cnf": map[string]any{"jkt": strings.Repeat("A", 43)},
			"status": map[string]any{"status_list": map[string]any{"idx": index, "uri": testIssuer + "/status/" + lease["status_list"].(string)}},
		}
		if kind == "jwt" {
			live["nbf"], live["jti"] = now-30, issued["token_id"]
		}
		failed := func(checks ...string) map[string]any {
			answer := map[string]any{"active": false, "token_id": issued["token_id"], "role": kind}
			for _, check := range checks {
				answer[check] = true
			}
			return answer
		}
		m.answers([]row{
			{operation: logical.UpdateOperation, path: "introspect", data: ask(nil), want: live},
			{operation: logical.UpdateOperation, path: "introspect", data: ask(map[string]any{"required_scopes": "orders:read", "audience": "https://api.example.com"}), want: live},
			{operation: logical.UpdateOperation, path: "introspect", data: ask(map[string]any{"required_scopes": "orders:read,admin"}), want: failed("scope_failed")},
			{operation: logical.UpdateOperation, path: "introspect", data: ask(map[string]any{"audience": "other"}), want: failed("audience_failed")},
			{operation: logical.UpdateOperation, path: "introspect", data: ask(map[string]any{"client_ip": "192.0.2.7"}), want: failed("client_ip_failed")},
			{operation: logical.UpdateOperation, path: "introspect", data: map[string]any{"token": issued["token"], "audience": "other"}, want: failed("client_ip_failed", "audience_failed")},
			{operation: logical.UpdateOperation, path: "introspect", data: ask(map[string]any{"required_scopes": "*"}), refused: "required_scopes"},
			{operation: logical.UpdateOperation, path: "introspect", data: ask(map[string]any{"client_ip": "localhost"}), refused: "client_ip"},
			{operation: logical.UpdateOperation, path: "introspect", data: ask(map[string]any{"scope": "orders:read"}), refused: "scope"},
			{operation: logical.UpdateOperation, path: "introspect", data: ask(map[string]any{"token": ""}), refused: "token"},
			{operation: logical.UpdateOperation, path: "introspect", refused: "token"},
			{operation: logical.UpdateOperation, path: "revoke", data: map[string]any{"token": issued["token"]}},
			{operation: logical.UpdateOperation, path: "introspect", data: ask(map[string]any{"audience": "other"}), want: map[string]any{"active": false}},
			{operation: logical.UpdateOperation, path: "introspect", data: ask(map[string]any{"token": "nonsense"}), want: map[string]any{"active": false}},
		})
	}
}

// What cannot be looked up must read neither as active nor as inactive, which
// a server may remember.
func TestIntrospectOnFaults(t *testing.T) {
	m := newMount(t).withRoles()
	opaque, signed := m.must(logical.ReadOperation, "creds/bearer", nil).Data["token"], m.must(logical.ReadOperation, "creds/jwt", nil).Data["token"]
	m.fails(logical.UpdateOperation, "introspect", map[string]any{"token": opaque}, unread("token/"), unread("config/"))
	m.fails(logical.UpdateOperation, "introspect", map[string]any{"token": signed}, unread("key/"), unread("list/"), unread("revoked/"))
}
