package keyring

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/golang-jwt/jwt/v5"

	"github.com/vault-tokens/vault-plugin-secrets-tokens/backend/store/storetest"
	"github.com/vault-tokens/vault-plugin-secrets-tokens/backend/usererror"
)

// fixture is a keyring on a storage that can fail, at a time that the test
// sets.
type fixture struct {
	*Keyring
	t       *testing.T
	ctx     context.Context
	storage *storetest.Storage
	now     time.Time
}

func newFixture(t *testing.T) *fixture {
	t.Helper()
	f := &fixture{t: t, ctx: context.Background(), storage: &storetest.Storage{}, now: time.Date(2026, 1, 1, 12, 0, 0, 0, time.UTC)}
	f.restart()
	return f
}

// restart gives the fixture a new keyring on the same storage.
func (f *fixture) restart() { f.Keyring = New(func() time.Time { return f.now }) }

func (f *fixture) write(name string, settings Settings) *Key {
	f.t.Helper()
	key, _, err := f.Write(f.ctx, f.storage, name, settings)
	if err != nil {
		f.t.Fatal(err)
	}
	return key
}

func (f *fixture) get(name string) *Key {
	f.t.Helper()
	key, err := f.Get(f.ctx, f.storage, name)
	if err != nil || key == nil {
		f.t.Fatalf("key %s: %v, %v", name, key, err)
	}
	return key
}

// sign does what issuing a token with this life does to the key.
func (f *fixture) sign(name string, life time.Duration) *Version {
	f.t.Helper()
	version, err := f.ForSigning(f.ctx, f.storage, name, "role", nil, f.now.Add(life))
	if err != nil {
		f.t.Fatal(err)
	}
	return version
}

func (f *fixture) rotate(name string, minPublished time.Duration) *Rotation {
	f.t.Helper()
	rotation, err := f.Rotate(f.ctx, f.storage, name, true, f.now.Add(minPublished))
	if err != nil {
		f.t.Fatal(err)
	}
	return rotation
}

func (f *fixture) rotateDue() []*Rotation {
	f.t.Helper()
	done, err := f.RotateDue(f.ctx, f.storage, f.now.Add(time.Minute))
	if err != nil {
		f.t.Fatal(err)
	}
	return done
}

// states tells of each version of a key where it stands, oldest first.
func (f *fixture) states(name string) string {
	f.t.Helper()
	var states []string
	for _, v := range f.get(name).Versions {
		states = append(states, fmt.Sprintf("%d %s", v.Number, v.State))
	}
	return strings.Join(states, ", ")
}

// published reports whether the version verifies tokens.
func (f *fixture) published(id string) bool {
	f.t.Helper()
	v, err := f.Published(f.ctx, f.storage, id)
	if err != nil {
		f.t.Fatal(err)
	}
	return v != nil
}

// content is all that can be seen of a keyring, but for private halves.
func (f *fixture) content() string {
	f.t.Helper()
	names, err := f.List(f.ctx, f.storage)
	if err != nil {
		f.t.Fatal(err)
	}
	var content strings.Builder
	for _, name := range names {
		key := f.get(name)
		fmt.Fprintln(&content, name, key.Algorithm, key.RotationPeriod, key.AllowedRoles)
		for _, v := range key.Versions {
			if known := f.knownUntil(name, v); known.After(f.signedUntil(name)) {
				f.t.Errorf("%s has signed until %s by memory, until %s by the storage", v, known, f.signedUntil(name))
			}
			fmt.Fprintln(&content, v, v.SigningSince.UTC(), v.NotAfter.UTC())
		}
		fmt.Fprintln(&content, "signed until", f.signedUntil(name).UTC())
		if known, stored := f.pinnedUntil(name), f.storedPin(name); known.After(stored) {
			f.t.Errorf("%s signs lists until %s by memory, until %s by the storage", name, known, stored)
		}
		fmt.Fprintln(&content, "signs lists until", f.storedPin(name).UTC())
	}
	content.Write(f.keySet().JWKS)
	return content.String()
}

func (f *fixture) keySet() *KeySet {
	f.t.Helper()
	set, err := f.KeySet(f.ctx, f.storage)
	if err != nil {
		f.t.Fatal(err)
	}
	return set
}

// signedUntil is what the storage has.
func (f *fixture) signedUntil(name string) time.Time {
	f.t.Helper()
	key, err := f.read(f.ctx, f.storage, name)
	if err != nil {
		f.t.Fatal(err)
	}
	h, err := f.readHorizon(f.ctx, f.storage, name)
	if err != nil {
		f.t.Fatal(err)
	}
	return key.signedUntil(h)
}

// remove deletes a key that no role refers to.
func (f *fixture) remove(ctx context.Context, name string) (bool, error) {
	return f.Delete(ctx, f.storage, name, func(roles []string) error {
		if len(roles) > 0 {
			f.t.Errorf("%v refer to %s", roles, name)
		}
		return nil
	})
}

func wantMistake(t *testing.T, what string, err error, field string) {
	t.Helper()
	var mistake *usererror.Error
	if !errors.As(err, &mistake) || mistake.Field != field {
		t.Errorf("%s: %v, want a mistake in %s", what, err, field)
	}
}

func TestWrite(t *testing.T) {
	text := func(s string) *string { return &s }
	period := func(d time.Duration) *time.Duration { return &d }
	roles := func(patterns ...string) *[]string { return &patterns }
	many := make([]string, 101)
	for i := range many {
		many[i] = fmt.Sprint("r", i)
	}
	for name, test := range map[string]struct {
		settings Settings
		field    string // that is refused; empty: none
	}{
		"nothing named":           {Settings{}, ""},
		"algorithm":               {Settings{Algorithm: text("Ed25519")}, ""},
		"no algorithm":            {Settings{Algorithm: text("")}, "algorithm"},
		"shared secret":           {Settings{Algorithm: text("HS256")}, "algorithm"},
		"none":                    {Settings{Algorithm: text("none")}, "algorithm"},
		"another case":            {Settings{Algorithm: text("es256")}, "algorithm"},
		"on demand only":          {Settings{RotationPeriod: period(0)}, ""},
		"shortest period":         {Settings{RotationPeriod: period(25 * time.Minute)}, ""},
		"too short a period":      {Settings{RotationPeriod: period(25*time.Minute - 1)}, "rotation_period"},
		"negative period":         {Settings{RotationPeriod: period(-time.Hour)}, "rotation_period"},
		"no roles":                {Settings{AllowedRoles: roles()}, ""},
		"patterns":                {Settings{AllowedRoles: roles("team-*", "a")}, ""},
		"most roles":              {Settings{AllowedRoles: roles(many[:100]...)}, ""},
		"too many roles":          {Settings{AllowedRoles: roles(many...)}, "allowed_roles"},
		"empty role":              {Settings{AllowedRoles: roles("")}, "allowed_roles"},
		"role that is no name":    {Settings{AllowedRoles: roles("a/b")}, "allowed_roles"},
		"role with a line break":  {Settings{AllowedRoles: roles("a\n")}, "allowed_roles"},
		"too long a role pattern": {Settings{AllowedRoles: roles(strings.Repeat("a", 129))}, "allowed_roles"},
	} {
		t.Run(name, func(t *testing.T) {
			f := newFixture(t)
			key, created, err := f.Write(f.ctx, f.storage, "k", test.settings)
			if test.field != "" {
				wantMistake(t, "write", err, test.field)
				if names, _ := f.List(f.ctx, f.storage); len(names) != 0 {
					t.Errorf("a refused write left %v", names)
				}
				return
			}
			if err != nil || !created {
				t.Fatalf("created %v, %v", created, err)
			}
			before := f.content()
			if _, created, err = f.Write(f.ctx, f.storage, "k", Settings{}); created || err != nil || f.content() != before {
				t.Errorf("a write that names nothing: created %v, %v, and then\n%s", created, err, f.content())
			}
			f.restart()
			if f.content() != before || f.get("k").Name != key.Name {
				t.Errorf("after a restart:\n%s\nwant\n%s", f.content(), before)
			}
		})
	}
	t.Run("change", func(t *testing.T) {
		f := newFixture(t)
		if key := f.write("k", Settings{}); key.Algorithm != DefaultAlgorithm || !slices.Equal(key.AllowedRoles, []string{"*"}) || key.RotationPeriod != 0 {
			t.Errorf("made %+v", key)
		}
		f.write("k", Settings{RotationPeriod: period(time.Hour), AllowedRoles: roles("a"), Algorithm: text(DefaultAlgorithm)})
		f.write("k", Settings{RotationPeriod: period(2 * time.Hour)})
		if key := f.get("k"); key.RotationPeriod != 2*time.Hour || !key.Allows("a") || key.Allows("ab") || f.states("k") != "1 signing, 2 next" {
			t.Errorf("became %+v", key)
		}
		_, _, err := f.Write(f.ctx, f.storage, "k", Settings{Algorithm: text("RS256")})
		wantMistake(t, "another algorithm", err, "algorithm")
	})
}

// everyAlgorithm is a keyring with a key for each algorithm, named like it. It is
// made once, since RSA keys take long, and must not be changed.
var everyAlgorithm = sync.OnceValues(func() (*fixture, error) {
	f := &fixture{ctx: context.Background(), storage: &storetest.Storage{}, now: time.Now()}
	f.restart()
	for _, algorithm := range AlgorithmNames() {
		if _, _, err := f.Write(f.ctx, f.storage, algorithm, Settings{Algorithm: &algorithm}); err != nil {
			return nil, err
		}
	}
	return f, nil
})

func everyAlgorithmFor(t *testing.T) *fixture {
	t.Helper()
	f, err := everyAlgorithm()
	if err != nil {
		t.Fatal(err)
	}
	mine := *f
	mine.t = t
	return &mine
}

// The JWKS has the public half of each version, and nothing of the private one.
func TestJWKS(t *testing.T) {
	f := newFixture(t)
	for i, algorithm := range AlgorithmNames() {
		f.write(fmt.Sprint("k", i), Settings{Algorithm: &algorithm})
	}
	raw := f.keySet().JWKS
	var set jose.JSONWebKeySet
	if err := json.Unmarshal(raw, &set); err != nil {
		t.Fatal(err)
	}
	if len(set.Keys) != 2*len(AlgorithmNames()) {
		t.Errorf("%d keys", len(set.Keys))
	}
	for _, key := range set.Keys {
		version, err := f.Published(f.ctx, f.storage, key.KeyID)
		if err != nil || version == nil || !key.IsPublic() || !key.Valid() || key.Use != "sig" || key.Algorithm != version.Algorithm {
			t.Errorf("%s, %s, for %s: %v, %v", key.KeyID, key.Algorithm, key.Use, version, err)
		}
	}
	var members struct{ Keys []map[string]string }
	if err := json.Unmarshal(raw, &members); err != nil {
		t.Fatal(err)
	}
	for _, key := range members.Keys {
		for name := range key {
			if !slices.Contains([]string{"kty", "crv", "x", "y", "n", "e", "kid", "alg", "use"}, name) {
				t.Errorf("a %s key has member %s", key["alg"], name)
			}
		}
	}
	if got := f.keySet().Algorithms; !reflect.DeepEqual(slices.Sorted(slices.Values(got)), slices.Sorted(slices.Values(AlgorithmNames()))) {
		t.Errorf("algorithms are %v", got)
	}
}

func TestAllows(t *testing.T) {
	for _, test := range []struct {
		patterns []string
		role     string
		want     bool
	}{
		{nil, "a", false},
		{[]string{"*"}, "a", true},
		{[]string{"a"}, "a", true},
		{[]string{"a"}, "A", false},
		{[]string{"a"}, "ab", false},
		{[]string{"team-*"}, "team-a", true},
		{[]string{"team-*"}, "my-team-a", false},
		{[]string{"x", "*-jwt"}, "orders-jwt", true},
	} {
		if got := (&Key{AllowedRoles: test.patterns}).Allows(test.role); got != test.want {
			t.Errorf("%v allows %s: %v", test.patterns, test.role, got)
		}
	}
}

func TestUsable(t *testing.T) {
	f := newFixture(t)
	f.write("k", Settings{AllowedRoles: &[]string{"a"}})
	if key, err := f.Usable(f.ctx, f.storage, "k", "a"); err != nil || key.Name != "k" {
		t.Errorf("got %v, %v", key, err)
	}
	for _, no := range []struct{ key, role string }{{"k", "b"}, {"never", "a"}} {
		_, err := f.Usable(f.ctx, f.storage, no.key, no.role)
		wantMistake(t, "use", err, "key")
		_, err = f.ForSigning(f.ctx, f.storage, no.key, no.role, nil, f.now.Add(time.Minute))
		wantMistake(t, "sign", err, "key")
	}
}

func TestDelete(t *testing.T) {
	f := newFixture(t)
	if deleted, err := f.remove(f.ctx, "never"); deleted || err != nil {
		t.Errorf("deleted what never was: %v, %v", deleted, err)
	}
	f.write("k", Settings{})
	f.sign("k", time.Hour)
	f.rotate("k", 0) // what a retired version signed counts as well
	id := f.get("k").Versions[0].ID
	f.now = f.now.Add(time.Hour)
	_, err := f.remove(f.ctx, "k")
	wantMistake(t, "delete with a token that may live", err, "name")
	f.now = f.now.Add(reserveAhead)
	if deleted, err := f.remove(f.ctx, "k"); !deleted || err != nil {
		t.Errorf("deleted %v, %v", deleted, err)
	}
	if f.published(id) || f.content() != `{"keys":[]}` {
		t.Errorf("after the deletion:\n%s", f.content())
	}
}

func TestKeysAreBounded(t *testing.T) {
	f := newFixture(t)
	f.write("k", Settings{})
	entry, err := f.storage.Get(f.ctx, StoragePrefix+"k")
	if err != nil {
		t.Fatal(err)
	}
	for i := range maxKeys - 1 {
		entry.Key = fmt.Sprint(StoragePrefix, "k", i)
		if err := f.storage.Put(f.ctx, entry); err != nil {
			t.Fatal(err)
		}
	}
	_, _, err = f.Write(f.ctx, f.storage, "more", Settings{})
	wantMistake(t, "one key too many", err, "name")
	f.write("k", Settings{}) // which is there
}

func TestSign(t *testing.T) {
	for _, algorithm := range AlgorithmNames() {
		t.Run(algorithm, func(t *testing.T) {
			f := everyAlgorithmFor(t)
			version := f.get(algorithm).Versions[0]
			signed, err := version.Sign("at+jwt", jwt.MapClaims{"sub": "a"})
			if err != nil {
				t.Fatal(err)
			}
			token, err := jwt.Parse(signed, func(*jwt.Token) (any, error) { return version.Public(), nil }, jwt.WithValidMethods([]string{algorithm}))
			if err != nil || !reflect.DeepEqual(token.Header, map[string]any{"typ": "at+jwt", "alg": algorithm, "kid": version.ID}) {
				t.Errorf("header %v, %v", token.Header, err)
			}
			if other := f.get(algorithm).Versions[1]; other.ID == version.ID || reflect.DeepEqual(other.Public(), version.Public()) {
				t.Error("the next version is the same key")
			}
		})
	}
}

// A value that a caller gave is not repeated at length in the error, which both
// logs have.
func TestErrorsAreShort(t *testing.T) {
	f := newFixture(t)
	huge := strings.Repeat("x", 1<<20)
	for _, settings := range []Settings{{AllowedRoles: &[]string{"a", huge}}, {Algorithm: &huge}} {
		_, _, err := f.Write(f.ctx, f.storage, "k", settings)
		if err == nil || len(err.Error()) > 300 {
			t.Errorf("an error of %d bytes", len(fmt.Sprint(err)))
		}
	}
}

// What a token will measure is known before it is signed.
func TestSignedLength(t *testing.T) {
	for _, algorithm := range AlgorithmNames() {
		f := newFixture(t)
		f.write("k", Settings{Algorithm: &algorithm})
		v := f.sign("k", time.Hour)
		for n := range 4 {
			claims := jwt.MapClaims{"a": strings.Repeat("x", n)}
			signed, errSign := v.Sign("at+jwt", claims)
			length, err := v.SignedLength("at+jwt", claims)
			if length != len(signed) || errSign != nil || err != nil {
				t.Errorf("%s: measured %d, %v; signed %d, %v", algorithm, length, err, len(signed), errSign)
			}
		}
	}
}
