package tokens

import (
	"context"
	"encoding/json"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/golang-jwt/jwt/v5"
	"github.com/hashicorp/vault/sdk/logical"

	"github.com/vault-tokens/vault-plugin-secrets-tokens/backend/keyring"
	"github.com/vault-tokens/vault-plugin-secrets-tokens/verify/format"
)

// published returns the ids of the keys in the JWKS.
func (m *mount) published() []string {
	m.t.Helper()
	var set jose.JSONWebKeySet
	if err := json.Unmarshal(m.must(logical.ReadOperation, "jwks", nil).Data[logical.HTTPRawBody].([]byte), &set); err != nil {
		m.t.Fatal(err)
	}
	ids := []string{}
	for _, key := range set.Keys {
		if !key.IsPublic() || !key.Valid() {
			m.t.Errorf("key %s is not a valid public key", key.KeyID)
		}
		ids = append(ids, key.KeyID)
	}
	return ids
}

func (m *mount) periodic() {
	m.t.Helper()
	if err := m.backend.periodic(context.Background(), &logical.Request{Storage: m.storage}); err != nil {
		m.t.Fatal(err)
	}
}

// signing returns the version that signs, which no caller of Vault can have.
func (m *mount) signing() *keyring.Version {
	m.t.Helper()
	key, err := m.backend.engine.Keys.Get(context.Background(), m.storage, "default")
	if err != nil {
		m.t.Fatal(err)
	}
	version, err := key.Signing()
	if err != nil {
		m.t.Fatal(err)
	}
	return version
}

func (m *mount) claims(token string) jwt.MapClaims {
	m.t.Helper()
	var claims jwt.MapClaims
	if _, _, err := jwt.NewParser().ParseUnverified(token, &claims); err != nil {
		m.t.Fatal(err)
	}
	return claims
}

func (m *mount) issueJWT() (token, kid string) {
	m.t.Helper()
	token = m.must(logical.ReadOperation, "creds/jwt", nil).Data["token"].(string)
	parsed, _, err := jwt.NewParser().ParseUnverified(token, jwt.MapClaims{})
	if err != nil {
		m.t.Fatal(err)
	}
	return token, parsed.Header["kid"].(string)
}

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
	if warned := m.must(logical.UpdateOperation, "keys/default/rotate", nil); len(warned.Warnings) == 0 {
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
	m.must(logical.UpdateOperation, "keys/default/rotate", nil)
	m.restart()
	m.clock.Advance(47 * time.Hour)
	m.periodic()
	if !slices.Contains(m.published(), oldID) || !m.active(old) {
		t.Error("the retired key went before the long-lived token that it had signed")
	}
}

func TestRotationByItself(t *testing.T) {
	m := newMount(t).withRoles()
	m.refused(logical.UpdateOperation, "keys/default", map[string]any{"rotation_period": "1m"})
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
	for _, data := range []map[string]any{nil, {"emergency": true}} {
		m.storage.failWrites.Store(true)
		if _, err := m.do(logical.UpdateOperation, "keys/default/rotate", data); err == nil {
			t.Error("rotated on a storage that fails")
		}
		m.storage.failWrites.Store(false)
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
	resp := m.must(logical.UpdateOperation, "keys/default/rotate", map[string]any{"emergency": true})
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
		m.must(logical.UpdateOperation, "keys/default/rotate", nil)
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

func TestStatusList(t *testing.T) {
	m := newMount(t).withRoles()
	kept, _ := m.issueJWT()
	gone := m.must(logical.ReadOperation, "creds/jwt", nil)
	place := func(token string) (list string, index int) {
		t.Helper()
		var claims struct {
			jwt.RegisteredClaims
			Status struct {
				List struct {
					Index int    `json:"idx"`
					URI   string `json:"uri"`
				} `json:"status_list"`
			} `json:"status"`
		}
		if _, _, err := jwt.NewParser().ParseUnverified(token, &claims); err != nil {
			t.Fatal(err)
		}
		return claims.Status.List.URI[len(testIssuer)+1:], claims.Status.List.Index
	}
	path, keptIndex := place(kept)
	_, goneIndex := place(gone.Data["token"].(string))
	fetch := func() (body string, statuses map[int]bool) {
		t.Helper()
		body = string(m.must(logical.ReadOperation, path, nil).Data[logical.HTTPRawBody].([]byte))
		return body, m.decodeStatusList(body, testIssuer+"/"+path)
	}

	before, statuses := fetch()
	if len(statuses) != 0 {
		t.Errorf("revoked are %v before any was", statuses)
	}
	if again, _ := fetch(); again != before {
		t.Error("signed again although nothing changed")
	}
	if err := m.revoke(gone.Secret); err != nil {
		t.Fatal(err)
	}
	if _, statuses = fetch(); !statuses[goneIndex] || statuses[keptIndex] || len(statuses) != 1 {
		t.Errorf("revoked are %v, want %d", statuses, goneIndex)
	}
	m.restart()
	after, statuses := fetch()
	if !statuses[goneIndex] || len(statuses) != 1 {
		t.Errorf("after a restart, revoked are %v, want %d", statuses, goneIndex)
	}

	writes := m.storage.writes.Load()
	m.clock.Advance(31 * time.Minute)
	if renewed, _ := fetch(); renewed == after {
		t.Error("not signed anew in the second half of its life")
	}
	if m.storage.writes.Load() != writes {
		t.Error("a fetch wrote the storage")
	}

	m.clock.Advance(24 * time.Hour)
	m.periodic()
	if resp, err := m.do(logical.ReadOperation, path, nil); err != nil || resp != nil {
		t.Errorf("a list whose tokens have all expired is still there: %v", err)
	}
	for _, prefix := range []string{"list/", "revoked/"} {
		left, err := m.storage.List(context.Background(), prefix)
		if err != nil || len(left) != 0 {
			t.Errorf("left below %s: %v, %v", prefix, left, err)
		}
	}
}

func TestStatusIndexesAreUnique(t *testing.T) {
	m := newMount(t).withRoles()
	var mu sync.Mutex
	seen := map[string]bool{}
	for round := range 3 {
		var issuers sync.WaitGroup
		for range 16 {
			issuers.Go(func() {
				for range 100 {
					token, _ := m.issueJWT()
					var claims jwt.MapClaims
					if _, _, err := jwt.NewParser().ParseUnverified(token, &claims); err != nil {
						t.Error(err)
						return
					}
					place, err := json.Marshal(claims["status"])
					if err != nil {
						t.Error(err)
					}
					mu.Lock()
					if seen[string(place)] {
						t.Errorf("round %d: %s is given out twice", round, place)
					}
					seen[string(place)] = true
					mu.Unlock()
				}
			})
		}
		issuers.Wait()
		m.restart()
	}
}

// decodeStatusList verifies a Status List Token as a verifier would, and
// returns the indexes that are revoked.
func (m *mount) decodeStatusList(body, uri string) map[int]bool {
	m.t.Helper()
	var set jose.JSONWebKeySet
	if err := json.Unmarshal(m.must(logical.ReadOperation, "jwks", nil).Data[logical.HTTPRawBody].([]byte), &set); err != nil {
		m.t.Fatal(err)
	}
	var claims struct {
		jwt.RegisteredClaims
		TTL        int64 `json:"ttl"`
		StatusList struct {
			Bits int    `json:"bits"`
			List string `json:"lst"`
		} `json:"status_list"`
	}
	token, err := jwt.NewParser(jwt.WithTimeFunc(m.clock.Now), jwt.WithExpirationRequired(), jwt.WithSubject(uri)).ParseWithClaims(body, &claims, func(token *jwt.Token) (any, error) {
		return set.Key(token.Header["kid"].(string))[0].Key, nil
	})
	if err != nil {
		m.t.Fatal(err)
	}
	if token.Header["typ"] != "statuslist+jwt" || claims.TTL != 5 || claims.IssuedAt == nil {
		m.t.Errorf("header %v, claims %+v", token.Header, claims)
	}
	list, err := format.DecodeStatusList(claims.StatusList.Bits, claims.StatusList.List, 1<<20)
	if err != nil {
		m.t.Fatal(err)
	}
	revoked := map[int]bool{}
	for i := range list.Len() {
		if status, _ := list.Get(i); status != format.StatusValid {
			revoked[i] = true
		}
	}
	return revoked
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
