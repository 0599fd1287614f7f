package tokens

import (
	"context"
	"encoding/pem"
	"errors"
	"reflect"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"
	"github.com/hashicorp/vault/sdk/logical"

	"github.com/vault-tokens/vault-plugin-secrets-tokens/backend/store/storetest"
)

func TestRotation(t *testing.T) {
	m := newMount(t).withRoles()
	first := m.published()
	if _, signs := m.issueJWT(); len(first) != 2 || !slices.Contains(first, signs) {
		t.Fatalf("published are %v; %s signs, and one more should be next", first, signs)
	}

	m.clock.Advance(time.Hour)
	old, oldID := m.issueJWT()
	rotated := m.must(logical.UpdateOperation, "keys/default/rotate", nil)
	if len(rotated.Warnings) != 0 {
		t.Errorf("a rotation to a long published key warns: %v", rotated.Warnings)
	}
	young, youngID := m.issueJWT()
	if !slices.Contains(first, youngID) || youngID == oldID || rotated.Data["kid"] != youngID || rotated.Data["retired"] != oldID {
		t.Errorf("%s signs; want the one of %v that did not, and that %v names", youngID, first, rotated.Data)
	}
	if ids := m.published(); len(ids) != 3 || !slices.Contains(ids, oldID) {
		t.Errorf("published are %v, want the old, the signing and a new one", ids)
	}
	if !m.active(old) || !m.active(young) {
		t.Error("a token is inactive after a rotation")
	}
	if warned := m.must(logical.UpdateOperation, "keys/default/rotate", map[string]any{"force": true}); len(warned.Warnings) == 0 {
		t.Error("a rotation to a key that was just published does not warn")
	}

	// A retired key goes when its last token has expired, and not before.
	m.clock.Advance(15*time.Minute - time.Second)
	m.periodic()
	if !m.active(old) || !slices.Contains(m.published(), oldID) {
		t.Error("the old key went before its last token expired")
	}
	m.clock.Advance(time.Hour)
	m.periodic()
	if slices.Contains(m.published(), oldID) {
		t.Error("the old key is still published after its last token expired")
	}
}

func TestRotationSurvivesSettingsAndRestart(t *testing.T) {
	m := newMount(t).withRoles()
	m.must(logical.UpdateOperation, "roles/jwt", map[string]any{"ttl": "48h"})
	old, oldID := m.issueJWT()
	m.must(logical.UpdateOperation, "roles/jwt", map[string]any{"ttl": "1m"})
	m.must(logical.UpdateOperation, "keys/default/rotate", map[string]any{"force": true})
	m.restart()
	m.clock.Advance(47 * time.Hour)
	m.periodic()
	if !slices.Contains(m.published(), oldID) || !m.active(old) {
		t.Error("the retired key went before the long-lived token that it had signed")
	}
}

func TestRotationByItself(t *testing.T) {
	m := newMount(t).withRoles()
	m.refused(logical.UpdateOperation, "keys/default", map[string]any{"rotation_period": "24m"})
	m.must(logical.UpdateOperation, "keys/default", map[string]any{"rotation_period": "24h"})
	_, before := m.issueJWT()
	m.clock.Advance(24*time.Hour - time.Second)
	m.periodic()
	if _, id := m.issueJWT(); id != before {
		t.Error("rotated before its time")
	}
	m.clock.Advance(time.Second)
	m.periodic()
	_, after := m.issueJWT()
	if after == before {
		t.Error("not rotated when it was time")
	}
	m.restart()
	m.periodic()
	if _, id := m.issueJWT(); id != after {
		t.Error("rotated again after a restart")
	}
}

func TestRotationOnFailingStorageKeepsTheKey(t *testing.T) {
	m := newMount(t).withRoles()
	token, before := m.issueJWT()
	published := m.published()
	for path, data := range map[string]map[string]any{"keys/default/rotate": {"force": true}, "keys/default/rotate-emergency": nil} {
		m.storage.Before(unwritten(""))
		if _, err := m.do(logical.UpdateOperation, path, data); err == nil {
			t.Error("rotated on a storage that fails")
		}
		m.storage.Heal()
		if _, id := m.issueJWT(); id != before || !slices.Equal(m.published(), published) || !m.active(token) {
			t.Error("a failed rotation changed something")
		}
	}
}

func TestEmergencyRotation(t *testing.T) {
	m := newMount(t).withRoles()
	leaked, _ := m.issueJWT()
	before := m.published()
	m.active(leaked) // so that its signature is remembered as good
	resp := m.must(logical.UpdateOperation, "keys/default/rotate-emergency", nil)
	if len(resp.Warnings) == 0 {
		t.Error("nothing says what breaks")
	}
	for _, id := range m.published() {
		if slices.Contains(before, id) {
			t.Errorf("%s is still published", id)
		}
	}
	if m.active(leaked) {
		t.Error("a token of the leaked key is active")
	}
	if fresh, _ := m.issueJWT(); !m.active(fresh) {
		t.Error("a token of the new key is inactive")
	}
	m.restart()
	if m.active(leaked) {
		t.Error("after a restart, a token of the leaked key is active")
	}
}

// Whoever signs while keys rotate, the key set has the key that signed.
func TestRotationUnderLoad(t *testing.T) {
	m := newMount(t).withRoles()
	var issuers sync.WaitGroup
	stop := make(chan struct{})
	for range 4 {
		issuers.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				if token, _ := m.issueJWT(); !m.active(token) {
					t.Error("a token issued during a rotation is inactive")
					return
				}
			}
		})
	}
	for range 50 {
		m.must(logical.UpdateOperation, "keys/default/rotate", map[string]any{"force": true})
	}
	close(stop)
	issuers.Wait()
}

func TestAllowedRoles(t *testing.T) {
	m := newMount(t).withRoles()
	m.must(logical.CreateOperation, "keys/team", map[string]any{"allowed_roles": []any{"team-*"}})
	role := map[string]any{"token_type": "jwt", "audiences": "a", "key": "team"}
	m.refused(logical.CreateOperation, "roles/other", role)
	m.must(logical.CreateOperation, "roles/team-a", role)
	m.must(logical.ReadOperation, "creds/team-a", nil)
	m.must(logical.UpdateOperation, "keys/team", map[string]any{"allowed_roles": []any{"team-b"}})
	m.refused(logical.ReadOperation, "creds/team-a", nil)
}

// Who may write roles is held to a key's audiences, when the role is written and when
// a token is issued.
func TestAllowedAudiencesOfAKey(t *testing.T) {
	m := newMount(t).withRoles()
	m.must(logical.CreateOperation, "keys/orders", map[string]any{"allowed_audiences": "https://orders.example.com,https://*.orders.example.com"})
	m.clock.Advance(time.Hour)
	role := func(audiences string) map[string]any {
		return map[string]any{"token_type": "jwt", "key": "orders", "audiences": audiences}
	}
	m.answers([]row{
		{operation: logical.CreateOperation, path: "roles/other", data: role("https://billing.example.com"), refused: "audiences"},
		{operation: logical.CreateOperation, path: "roles/other", data: role("https://orders.example.com,https://billing.example.com"), refused: "audiences"},
		{operation: logical.CreateOperation, path: "roles/orders", data: role("https://orders.example.com,https://eu.orders.example.com")},
	})
	m.must(logical.ReadOperation, "creds/orders", nil)
	m.must(logical.UpdateOperation, "keys/orders", map[string]any{"allowed_audiences": "https://*.orders.example.com"})
	message := m.refused(logical.ReadOperation, "creds/orders", nil)
	for _, part := range []string{"audience: ", `"https://orders.example.com"`, `key "orders"`, "allowed_audiences"} {
		if !strings.Contains(message, part) {
			t.Errorf("%q does not name %s", message, part)
		}
	}
	m.must(logical.UpdateOperation, "creds/orders", map[string]any{"audience": "https://eu.orders.example.com"})
	m.answers([]row{
		{operation: logical.UpdateOperation, path: "keys/orders", data: map[string]any{"allowed_audiences": ""}, warning: "allowed_audiences is empty"},
		{operation: logical.UpdateOperation, path: "keys/orders", data: map[string]any{"rotation_period": "24h"}},
		{operation: logical.UpdateOperation, path: "creds/orders", data: map[string]any{"audience": "https://eu.orders.example.com"}, refused: "audience"},
		{operation: logical.UpdateOperation, path: "keys/orders", data: map[string]any{"allowed_audiences": []any{""}}, refused: "allowed_audiences"},
	})
	m.restart()
	if shown := m.must(logical.ReadOperation, "keys/orders", nil).Data; !reflect.DeepEqual(shown["allowed_audiences"], []string{}) {
		t.Errorf("shown is %v", shown["allowed_audiences"])
	}
	m.refused(logical.UpdateOperation, "creds/orders", map[string]any{"audience": "https://eu.orders.example.com"})
	m.issueJWT() // of another key
}

func TestAlgorithms(t *testing.T) {
	for _, name := range []string{"ES256", "ES384", "EdDSA", "Ed25519", "RS256", "PS256"} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			m := newMount(t).withRoles()
			m.must(logical.CreateOperation, "keys/k", map[string]any{"algorithm": name})
			m.must(logical.UpdateOperation, "roles/jwt", map[string]any{"key": "k"})
			token, _ := m.issueJWT()
			parsed, _, err := jwt.NewParser().ParseUnverified(token, jwt.MapClaims{})
			if err != nil || parsed.Header["alg"] != name || parsed.Header["typ"] != "at+jwt" {
				t.Errorf("header %v, %v", parsed.Header, err)
			}
			if !m.active(token) {
				t.Error("inactive")
			}
			m.restart()
			if !m.active(token) {
				t.Error("inactive after a restart")
			}
		})
	}
}

func TestVersionsOfAKeyAreBounded(t *testing.T) {
	m := newMount(t).withRoles()
	for range 98 {
		m.must(logical.UpdateOperation, "keys/default/rotate", map[string]any{"force": true})
	}
	m.refused(logical.UpdateOperation, "keys/default/rotate", map[string]any{"force": true})
	m.clock.Advance(2 * time.Hour)
	m.periodic()
	m.must(logical.UpdateOperation, "keys/default/rotate", nil)
}

// A client repeats a request that failed. That must not rotate twice.
func TestRotationIsNotRepeated(t *testing.T) {
	m := newMount(t).withRoles()
	message := m.refused(logical.UpdateOperation, "keys/default/rotate", nil)
	if !strings.HasPrefix(message, "force: ") || !strings.Contains(message, "Rotate in 25m0s") {
		t.Errorf("refused with %q", message)
	}
	m.clock.Advance(25 * time.Minute)
	m.must(logical.UpdateOperation, "keys/default/rotate", nil)
	before := m.published()
	m.refused(logical.UpdateOperation, "keys/default/rotate", map[string]any{"force": false})
	if !slices.Equal(m.published(), before) {
		t.Error("rotated twice")
	}
	m.must(logical.UpdateOperation, "keys/default/rotate", map[string]any{"force": true})
}

// The path of the emergency is its own, so that a policy can withhold it from who
// may rotate.
func TestEmergencyHasItsOwnPath(t *testing.T) {
	m := newMount(t).withRoles()
	_, kid := m.issueJWT()
	for _, emergency := range []any{true, "true"} {
		message := m.refused(logical.UpdateOperation, "keys/default/rotate", map[string]any{"emergency": emergency})
		if !strings.HasPrefix(message, "emergency: ") {
			t.Errorf("refused with %q", message)
		}
	}
	if !slices.Contains(m.published(), kid) {
		t.Error("a routine rotation dropped a version")
	}
	m.refused(logical.UpdateOperation, "keys/never/rotate-emergency", nil)
	m.refused(logical.UpdateOperation, "keys/default/rotate-emergency", map[string]any{"force": true})
	dropped := m.must(logical.UpdateOperation, "keys/default/rotate-emergency", nil).Data["dropped"].([]string)
	if !slices.Contains(dropped, kid) || slices.Contains(m.published(), kid) {
		t.Errorf("dropped %v, want %s among them", dropped, kid)
	}
	if names := m.must(logical.ListOperation, "keys/", nil).Data["keys"].([]string); !slices.Equal(names, []string{"default"}) {
		t.Errorf("keys are %v", names)
	}
}

// An entry that cannot be decoded is listed, says what to do, stops no other key,
// and can be got rid of.
func TestUndecodableKey(t *testing.T) {
	m := newMount(t).withRoles()
	m.must(logical.CreateOperation, "keys/bad", nil)
	m.must(logical.CreateOperation, "roles/bad", map[string]any{"token_type": "jwt", "audiences": "a", "key": "bad"})
	dead := m.must(logical.ReadOperation, "creds/bad", nil).Data["token"].(string)
	good, _ := m.issueJWT()
	if err := m.storage.Put(context.Background(), &logical.StorageEntry{Key: "key/bad", Value: []byte(`{"format":1,"algorithm":"ES999"}`)}); err != nil {
		t.Fatal(err)
	}
	m.restart()
	if !m.active(good) || m.active(dead) {
		t.Error("active are not the tokens of the key that can be read")
	}
	m.issueJWT()
	if len(m.published()) != 2 {
		t.Errorf("published are %v", m.published())
	}
	if message := m.refused(logical.ReadOperation, "creds/bad", nil); !strings.HasPrefix(message, "key: ") || !strings.Contains(message, "algorithm, allowed_roles and allowed_audiences") {
		t.Errorf("refused with %q", message)
	}
	if names := m.must(logical.ListOperation, "keys/", nil).Data["keys"].([]string); !slices.Contains(names, "bad") {
		t.Errorf("listed are %v", names)
	}
	if shown := m.must(logical.ReadOperation, "keys/bad", nil).Data; !strings.Contains(shown["last_error"].(string), "keys/bad") {
		t.Errorf("shown is %v", shown)
	}
	if n := strings.Count(m.log.String(), "signing key needs attention: key=bad"); n != 1 {
		t.Errorf("%d lines in the log", n)
	}
	m.periodic()
	if message := m.refused(logical.DeleteOperation, "keys/bad", nil); !strings.Contains(message, `role "bad"`) {
		t.Errorf("refused with %q", message)
	}
	if message := m.refused(logical.UpdateOperation, "keys/bad", map[string]any{"algorithm": "ES256"}); !strings.HasPrefix(message, "allowed_roles: ") {
		t.Errorf("refused with %q", message)
	}
	m.must(logical.UpdateOperation, "keys/bad", map[string]any{"algorithm": "ES256", "allowed_roles": "bad", "allowed_audiences": "*"})
	m.must(logical.ReadOperation, "creds/bad", nil)
	if shown := m.must(logical.ReadOperation, "keys/bad", nil).Data; shown["last_error"] != nil {
		t.Errorf("still shown: %v", shown["last_error"])
	}
	m.must(logical.DeleteOperation, "roles/bad", nil)
	if err := m.storage.Put(context.Background(), &logical.StorageEntry{Key: "key/bad", Value: []byte(`{`)}); err != nil {
		t.Fatal(err)
	}
	m.restart()
	m.must(logical.DeleteOperation, "keys/bad", nil)
	if len(m.published()) != 2 {
		t.Errorf("published are %v", m.published())
	}
}

// A version that cannot be decoded is shown as such, beside the others.
func TestDamagedVersionIsShown(t *testing.T) {
	m := newMount(t).withRoles()
	m.must(logical.UpdateOperation, "keys/default/rotate", map[string]any{"force": true})
	entry, err := m.storage.Get(context.Background(), "key/default")
	if err != nil {
		t.Fatal(err)
	}
	entry.Value = []byte(strings.Replace(string(entry.Value), `"algorithm":"ES256","state":"retired"`, `"algorithm":"ES999","state":"retired"`, 1))
	if err := m.storage.Put(context.Background(), entry); err != nil {
		t.Fatal(err)
	}
	m.restart()
	shown := m.must(logical.ReadOperation, "keys/default", nil).Data
	versions := shown["versions"].([]map[string]any)
	if versions[0]["problem"] == nil || versions[0]["public_key"] != nil || versions[1]["public_key"] == nil || !strings.Contains(shown["last_error"].(string), "rotate-emergency") {
		t.Errorf("shown is %v", shown)
	}
	m.issueJWT()
}

// A rotation that the engine itself cannot do is an error that Vault logs, and not
// an answer that nobody reads; storage faults are in it.
func TestAutomaticRotationFailsLoudly(t *testing.T) {
	m := newMount(t).withRoles()
	m.must(logical.UpdateOperation, "keys/default", map[string]any{"rotation_period": "25m"})
	for range 98 {
		m.must(logical.UpdateOperation, "keys/default/rotate", map[string]any{"force": true})
	}
	m.clock.Advance(25 * time.Minute)
	rollback := func() (*logical.Response, error) {
		return m.backend.HandleRequest(context.Background(), &logical.Request{Operation: logical.RollbackOperation, Storage: m.storage})
	}
	for range 3 {
		if resp, err := rollback(); err == nil || !strings.Contains(err.Error(), "100 versions") {
			t.Errorf("answered with %v, %v", resp, err)
		}
	}
	shown := m.must(logical.ReadOperation, "keys/default", nil).Data
	if !strings.Contains(shown["last_error"].(string), "100 versions") || shown["next_rotation"] == nil {
		t.Errorf("shown is %v", shown["last_error"])
	}
	if n := strings.Count(m.log.String(), "[ERROR] signing key needs attention: key=default"); n != 1 {
		t.Errorf("%d lines in the log", n)
	}
	m.storage.Before(storetest.Fail("list/", storetest.List))
	if _, err := rollback(); !errors.Is(err, storetest.ErrInjected) || !strings.Contains(err.Error(), "100 versions") {
		t.Errorf("of two failures, there is %v", err)
	}
	m.storage.Heal()
	m.clock.Advance(time.Hour)
	if _, err := rollback(); err != nil {
		t.Error(err)
	}
	if shown := m.must(logical.ReadOperation, "keys/default", nil).Data; shown["last_error"] != nil {
		t.Errorf("still shown: %v", shown["last_error"])
	}
}

// Who gives a role a key that verifiers may not have yet is told so.
func TestYoungKeyWarns(t *testing.T) {
	m := newMount(t).withRoles() // the first key of the mount: no warning, see must in it
	m.must(logical.CreateOperation, "keys/k", nil)
	m.clock.Advance(3 * time.Minute)
	resp := m.must(logical.UpdateOperation, "roles/jwt", map[string]any{"key": "k"})
	if resp == nil || len(resp.Warnings) != 1 || !strings.Contains(resp.Warnings[0], "published for 3m0s only") {
		t.Errorf("answered with %v", resp)
	}
	if resp := m.must(logical.UpdateOperation, "roles/jwt", map[string]any{"key": "k"}); resp != nil {
		t.Errorf("warns again: %v", resp.Warnings)
	}
	if resp := m.must(logical.UpdateOperation, "roles/jwt", map[string]any{"key": "default"}); resp == nil {
		t.Error("does not warn")
	}
	m.clock.Advance(5 * time.Minute)
	if resp := m.must(logical.UpdateOperation, "roles/jwt", map[string]any{"key": "k"}); resp != nil {
		t.Errorf("warns of a key that everybody has: %v", resp.Warnings)
	}
}

// What the roles' tokens would outlive is refused, whichever is written last.
func TestRotationThatWouldStopIsRefused(t *testing.T) {
	m := newMount(t).withRoles()
	m.must(logical.UpdateOperation, "roles/jwt", map[string]any{"ttl": "100h"})
	if message := m.refused(logical.UpdateOperation, "keys/default", map[string]any{"rotation_period": "30m"}); !strings.HasPrefix(message, "rotation_period: ") {
		t.Errorf("refused with %q", message)
	}
	m.must(logical.UpdateOperation, "keys/default", map[string]any{"rotation_period": "24h"})
	m.must(logical.UpdateOperation, "config", map[string]any{"max_ttl": "0"})
	m.must(logical.CreateOperation, "keys/fast", map[string]any{"rotation_period": "30m"})
	if message := m.refused(logical.UpdateOperation, "roles/jwt", map[string]any{"key": "fast"}); !strings.HasPrefix(message, "ttl: ") {
		t.Errorf("refused with %q", message)
	}
	m.must(logical.UpdateOperation, "roles/jwt", map[string]any{"key": "fast", "ttl": "1h"})
}

func TestKeys(t *testing.T) {
	m := newMount(t).withRoles()
	m.answers([]row{
		{operation: logical.ListOperation, path: "keys/", want: map[string]any{"keys": []string{"default"}}},
		{operation: logical.ReadOperation, path: "keys/never"},
		{operation: logical.DeleteOperation, path: "keys/never"},
		{operation: logical.CreateOperation, path: "keys/K", data: map[string]any{"algorithm": "Ed25519", "rotation_period": "24h", "allowed_roles": "team-*,a"}},
		{operation: logical.UpdateOperation, path: "keys/K", data: map[string]any{"algorithm": "Ed25519"}},
		{operation: logical.ListOperation, path: "keys/", want: map[string]any{"keys": []string{"K", "default"}}},
		{operation: logical.CreateOperation, path: "keys/new", data: map[string]any{"algorithm": "HS256"}, refused: "algorithm"},
		{operation: logical.CreateOperation, path: "keys/new", data: map[string]any{"rotation_period": "9m"}, refused: "rotation_period"},
		{operation: logical.CreateOperation, path: "keys/new", data: map[string]any{"allowed_roles": "a/b"}, refused: "allowed_roles"},
		{operation: logical.CreateOperation, path: "keys/new", data: map[string]any{"private_key": "x"}, refused: "private_key"},
		{operation: logical.CreateOperation, path: "keys/a/b", refused: "name"},
		{operation: logical.ReadOperation, path: "keys/a/b", refused: "name"},
		{operation: logical.DeleteOperation, path: "keys/a/b", refused: "name"},
		{operation: logical.UpdateOperation, path: "keys/K", data: map[string]any{"algorithm": "ES256"}, refused: "algorithm"},
		{operation: logical.UpdateOperation, path: "keys/never/rotate", refused: "name"},
		{operation: logical.UpdateOperation, path: "keys/never/rotate-emergency", refused: "name"},
		{operation: logical.UpdateOperation, path: "keys/K/rotate", refused: "force"}, // the next version is young
		{operation: logical.UpdateOperation, path: "keys/K/rotate", data: map[string]any{"emergency": "yes"}, refused: "emergency"},
		{operation: logical.DeleteOperation, path: "keys/default", refused: "name"}, // which a role names
	})

	shown := m.must(logical.ReadOperation, "keys/K", nil).Data
	now := m.clock.Now()
	versions := shown["versions"].([]map[string]any)
	delete(shown, "versions")
	if want := map[string]any{
		"algorithm": "Ed25519", "rotation_period": int64(86400), "allowed_roles": []string{"team-*", "a"}, "allowed_audiences": []string{"*"},
		"created_at": rfc3339(now), "next_rotation": rfc3339(now.Add(24 * time.Hour)),
	}; !reflect.DeepEqual(shown, want) {
		t.Errorf("shown is %v, want %v", shown, want)
	}
	published := m.published()
	for i, version := range versions {
		kid, public := version["kid"].(string), version["public_key"].(string)
		delete(version, "kid")
		delete(version, "public_key")
		if want := map[string]any{"version": i + 1, "state": []string{"signing", "next"}[i], "created_at": rfc3339(now)}; !reflect.DeepEqual(version, want) {
			t.Errorf("version %v, want %v", version, want)
		}
		block, rest := pem.Decode([]byte(public))
		if block == nil || block.Type != "PUBLIC KEY" || len(rest) != 0 || !slices.Contains(published, kid) {
			t.Errorf("version %d is published as %s, %s", i+1, kid, public)
		}
	}

	rotated := m.must(logical.UpdateOperation, "keys/K/rotate", map[string]any{"force": true}).Data
	versions = m.must(logical.ReadOperation, "keys/K", nil).Data["versions"].([]map[string]any)
	if want := map[string]any{
		"retired": versions[0]["kid"], "kid": versions[1]["kid"], "next_kid": versions[2]["kid"], "dropped": []string{}, "not_after": versions[0]["not_after"],
	}; !reflect.DeepEqual(rotated, want) || rotated["not_after"] != rfc3339(now.Add(time.Hour)) {
		t.Errorf("rotated to %v, want %v", rotated, want)
	}
	m.answers([]row{
		{operation: logical.DeleteOperation, path: "keys/K"},
		{operation: logical.ReadOperation, path: "keys/K"},
		{operation: logical.ListOperation, path: "keys/", want: map[string]any{"keys": []string{"default"}}},
	})
	if kid := rotated["kid"].(string); slices.Contains(m.published(), kid) {
		t.Error("a deleted key is published")
	}
}

func TestKeysOnFaults(t *testing.T) {
	m := newMount(t).withRoles()
	m.fails(logical.ListOperation, "keys/", nil, unread("key/"))
	m.fails(logical.ReadOperation, "keys/default", nil, unread("key/"))
	m.fails(logical.CreateOperation, "keys/k", nil, unread("key/"), unwritten("key/"))
	m.fails(logical.UpdateOperation, "keys/k", map[string]any{"allowed_roles": ""}, unread("key/"), unwritten("key/"))
	m.fails(logical.UpdateOperation, "keys/k/rotate", map[string]any{"force": true}, unread("key/"), unread("signed/"), unread("config/"), unwritten("key/"))
	m.fails(logical.UpdateOperation, "keys/k/rotate-emergency", nil, unread("key/"), unwritten("key/"))
	m.fails(logical.DeleteOperation, "keys/k", nil, unread("role/"), unread("key/"), unread("signed/"), unread("keyuse/"), unwritten("key/"))
	for text, want := range map[string]int{"key created: key=k": 1, "key written: key=k": 1, "key rotated: key=k": 2, "key deleted: key=k": 1} {
		if n := strings.Count(m.log.String(), text); n != want {
			t.Errorf("%q is in the log %d times, want %d", text, n, want)
		}
	}
}

// What is surely gone is in the log, even if the request failed after that.
func TestDeletionIsLoggedThoughItFailed(t *testing.T) {
	m := newMount(t).withRoles()
	m.must(logical.CreateOperation, "keys/k", nil)
	m.must(logical.UpdateOperation, "roles/jwt", map[string]any{"key": "k"})
	for _, deletion := range []struct{ path, beside, line string }{
		{"roles/jwt", "keyuse/", "role deleted: role=jwt"},
		{"keys/k", "signed/", "key deleted: key=k"},
	} {
		m.storage.Before(unwritten(deletion.beside))
		if resp, err := m.do(logical.DeleteOperation, deletion.path, nil); err == nil {
			t.Errorf("%s: answered %v", deletion.path, resp)
		}
		m.storage.Heal()
		m.must(logical.DeleteOperation, deletion.path, nil)
		if n := strings.Count(m.log.String(), deletion.line); n != 1 {
			t.Errorf("%q is in the log %d times", deletion.line, n)
		}
	}
}
