package keyring

import (
	"bytes"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/vault/sdk/logical"

	"github.com/vault-tokens/vault-plugin-secrets-tokens/backend/store"
)

// raw is what the storage has at a key.
func (f *fixture) raw(key string) string {
	f.t.Helper()
	entry, err := f.storage.Get(f.ctx, key)
	if err != nil {
		f.t.Fatal(err)
	}
	if entry == nil {
		return ""
	}
	return string(entry.Value)
}

func (f *fixture) putRaw(key, value string) {
	f.t.Helper()
	if err := f.storage.Put(f.ctx, &logical.StorageEntry{Key: key, Value: []byte(value)}); err != nil {
		f.t.Fatal(err)
	}
}

// edit changes one version of a key as stored.
func (f *fixture) edit(name string, state State, change func(version map[string]any)) {
	f.t.Helper()
	var key map[string]any
	if err := json.Unmarshal([]byte(f.raw(StoragePrefix+name)), &key); err != nil {
		f.t.Fatal(err)
	}
	for _, v := range key["versions"].([]any) {
		if version := v.(map[string]any); version["state"] == string(state) {
			change(version)
		}
	}
	encoded, err := json.Marshal(key)
	if err != nil {
		f.t.Fatal(err)
	}
	f.putRaw(StoragePrefix+name, string(encoded))
}

// reports are what a keyring has reported, by key.
func (f *fixture) reports() *[]string {
	var lines []string
	f.Report = func(name string, problem error) { lines = append(lines, name+": "+problem.Error()) }
	return &lines
}

// A version has its private half for as long as it may sign, and not longer.
func TestRetiredVersionsKeepNoPrivateHalf(t *testing.T) {
	for _, algorithm := range []string{"ES256", "Ed25519", "RS256"} {
		f := newFixture(t)
		f.write("k", Settings{Algorithm: &algorithm})
		v := f.sign("k", time.Hour)
		pkcs8, err := x509.MarshalPKCS8PrivateKey(v.private())
		if err != nil {
			t.Fatal(err)
		}
		encoded, err := json.Marshal(pkcs8)
		if err != nil {
			t.Fatal(err)
		}
		private := strings.Trim(string(encoded), `"`)
		if !strings.Contains(f.raw("key/k"), private) {
			t.Fatalf("%s: the test does not know how private halves are stored", algorithm)
		}
		retired := f.rotate("k", time.Hour).Retired
		if strings.Contains(f.raw("key/k"), private) {
			t.Errorf("%s: the private half of a retired version is stored", algorithm)
		}
		if strings.Count(f.raw("key/k"), `"private_key"`) != 2 {
			t.Errorf("%s: %d private halves are stored, want those of the version that signs and the next one", algorithm, strings.Count(f.raw("key/k"), `"private_key"`))
		}
		f.restart()
		if _, err := f.get("k").Versions[0].Sign("at+jwt", nil); err == nil {
			t.Errorf("%s: a retired version signs", algorithm)
		}
		if got, err := f.Published(f.ctx, f.storage, retired.ID); err != nil || got == nil || got.Public() == nil {
			t.Errorf("%s: a retired version is %v, %v", algorithm, got, err)
		}
	}
}

// formatZero turns a stored key into the form of format 0: the private half of
// every version and no public one, and the horizon in the key.
func (f *fixture) formatZero(name string, privates map[string][]byte, until map[string]time.Time) {
	f.t.Helper()
	var key map[string]any
	if err := json.Unmarshal([]byte(f.raw(StoragePrefix+name)), &key); err != nil {
		f.t.Fatal(err)
	}
	delete(key, "format")
	for _, v := range key["versions"].([]any) {
		version := v.(map[string]any)
		kid := version["kid"].(string)
		delete(version, "public_key")
		version["private_key"] = privates[kid]
		if at, ok := until[kid]; ok {
			version["signed_until"] = at
		}
	}
	encoded, err := json.Marshal(key)
	if err != nil {
		f.t.Fatal(err)
	}
	f.putRaw(StoragePrefix+name, string(encoded))
}

func privateHalf(t *testing.T, v *Version) []byte {
	t.Helper()
	pkcs8, err := x509.MarshalPKCS8PrivateKey(v.private())
	if err != nil {
		t.Fatal(err)
	}
	return pkcs8
}

// What format 0 stored is read, counts, and loses the private halves that it had
// too many of, without anybody changing the key.
func TestFormatZero(t *testing.T) {
	f := newFixture(t)
	f.write("k", Settings{})
	privates := map[string][]byte{}
	for _, v := range f.get("k").Versions {
		privates[v.ID] = privateHalf(t, v)
	}
	first := f.get("k").Versions[0].ID
	rotation := f.rotate("k", 48*time.Hour)
	privates[rotation.Next.ID] = privateHalf(t, rotation.Next)
	until := f.now.Add(30 * time.Hour)
	f.formatZero("k", privates, map[string]time.Time{rotation.Signing.ID: until})
	f.restart()
	if got := f.states("k"); got != "1 retired, 2 signing, 3 next" || !f.published(first) {
		t.Fatalf("read as %s", got)
	}
	if reads, writes := f.storage.Count(func() { f.sign("k", time.Hour) }); writes != 0 {
		t.Errorf("%d reads and %d writes to sign below the old horizon", reads, writes)
	}
	if done := f.rotateDue(); len(done) != 0 {
		t.Errorf("rotated %+v", done)
	}
	if strings.Count(f.raw("key/k"), `"private_key"`) != 2 || !strings.Contains(f.raw("key/k"), `{"format":2,`) {
		t.Error("a retired version keeps its private half")
	}
	if _, writes := f.storage.Count(func() { f.rotateDue() }); writes != 0 {
		t.Errorf("%d writes for a key in the present form", writes)
	}
	f.restart()
	if retired := f.rotate("k", time.Minute).Retired; !retired.NotAfter.Equal(until) {
		t.Errorf("not after %s, want the old horizon, %s", retired.NotAfter, until)
	}
}

// Of the old horizon in the key and the new one beside it, the later counts.
func TestLaterHorizonCounts(t *testing.T) {
	for name, test := range map[string]struct{ inKey, beside, want time.Duration }{
		"in the key": {30 * time.Hour, time.Hour, 30 * time.Hour},
		"beside it":  {2 * time.Hour, 40 * time.Hour, 40*time.Hour + reserveAhead},
	} {
		t.Run(name, func(t *testing.T) {
			f := newFixture(t)
			f.write("k", Settings{})
			v := f.sign("k", test.beside)
			f.edit("k", Signing, func(version map[string]any) { version["signed_until"] = f.now.Add(test.inKey) })
			f.restart()
			_, err := f.remove(f.ctx, "k")
			wantMistake(t, "delete", err, "name")
			if retired := f.rotate("k", 0).Retired; retired.ID != v.ID || !retired.NotAfter.Equal(f.now.Add(test.want)) {
				t.Errorf("%s is not after %s, want %s", retired, retired.NotAfter, f.now.Add(test.want))
			}
		})
	}
}

// A key from before there were allowed_audiences allows any. Once this build has
// written it, a build that does not know them does not sign with it.
func TestAllowedAudiencesAreStored(t *testing.T) {
	f := newFixture(t)
	f.write("k", Settings{})
	var stored map[string]any
	if err := json.Unmarshal([]byte(f.raw("key/k")), &stored); err != nil {
		t.Fatal(err)
	}
	delete(stored, "allowed_audiences")
	stored["format"] = 1
	encoded, err := json.Marshal(stored)
	if err != nil {
		t.Fatal(err)
	}
	f.putRaw("key/k", string(encoded))
	f.restart()
	if err := f.get("k").CheckAudiences("audience", []string{"any"}); err != nil {
		t.Errorf("a key of format 1: %v", err)
	}
	for _, allowed := range [][]string{{"a*"}, {}} {
		f.write("k", Settings{AllowedAudiences: &allowed})
		f.rotate("k", 0)
		f.restart()
		wantMistake(t, "what it does not allow", f.get("k").CheckAudiences("audience", []string{"a1", "b"}), "audience")
		if err := f.get("k").CheckAudiences("audience", []string{"a1"}); (err == nil) != (len(allowed) > 0) {
			t.Errorf("%q: %v", allowed, err)
		}
	}
	_, err = f.ForSigning(f.ctx, f.storage, "k", "role", []string{"a1"}, f.now)
	wantMistake(t, "sign", err, "audience")
	older := store.Entries[struct{}]{Prefix: StoragePrefix, Format: 1}
	if _, err := older.Read(f.ctx, f.storage, "k"); !errors.Is(err, store.ErrNewer) {
		t.Errorf("a build from before reads it: %v", err)
	}
}

// The private half is written when the key changes. Signing writes the horizon, and
// the key's entry is not touched.
func TestSigningDoesNotWriteTheKey(t *testing.T) {
	f := newFixture(t)
	f.write("k", Settings{})
	before := f.raw("key/k")
	f.sign("k", time.Hour)
	f.now = f.now.Add(time.Hour)
	f.sign("k", time.Hour)
	if f.raw("key/k") != before {
		t.Error("the key's entry was written")
	}
	if horizon := f.raw("signed/k"); horizon == "" || strings.Contains(horizon, "private") {
		t.Errorf("the horizon is %q", horizon)
	}
}

// What is wrong with one key concerns that key alone, and there is a way out.
func TestUndecodableKeyFailsAlone(t *testing.T) {
	for name, test := range map[string]struct {
		damage func(stored string) string
		newer  bool
	}{
		"cut off":           {func(s string) string { return s[:len(s)/2] }, false},
		"empty":             {func(string) string { return "" }, false},
		"no object":         {func(string) string { return "[]" }, false},
		"unknown algorithm": {func(s string) string { return strings.Replace(s, `"algorithm":"ES256"`, `"algorithm":"ES999"`, 1) }, false},
		"newer format":      {func(s string) string { return strings.Replace(s, `"format":2`, `"format":3`, 1) }, true},
	} {
		t.Run(name, func(t *testing.T) {
			f := newFixture(t)
			for _, key := range []string{"good", "bad"} {
				f.write(key, Settings{AllowedRoles: &[]string{"role"}})
			}
			good, bad := f.sign("good", time.Hour), f.sign("bad", time.Hour)
			f.putRaw("key/bad", test.damage(f.raw("key/bad")))
			f.restart()
			reports := f.reports()

			if !f.published(good.ID) || f.published(bad.ID) {
				t.Error("published are not the good key's versions, and no others")
			}
			if set := f.keySet(); strings.Contains(string(set.JWKS), bad.ID) || !strings.Contains(string(set.JWKS), good.ID) {
				t.Errorf("the key set is %s", set.JWKS)
			}
			f.sign("good", 100*time.Hour)
			f.rotate("good", time.Hour)
			f.rotateDue()
			if _, err := f.Get(f.ctx, f.storage, "bad"); !errors.Is(err, store.ErrUndecodable) || errors.Is(err, store.ErrNewer) != test.newer {
				t.Errorf("get: %v", err)
			}
			_, err := f.ForSigning(f.ctx, f.storage, "bad", "role", nil, f.now.Add(time.Minute))
			wantMistake(t, "sign", err, "key")
			_, err = f.Rotate(f.ctx, f.storage, "bad", true, f.now)
			wantMistake(t, "rotate", err, "name")
			if names, err := f.List(f.ctx, f.storage); err != nil || len(names) != 2 {
				t.Errorf("listed %v, %v", names, err)
			}
			if len(*reports) != 1 || !strings.Contains((*reports)[0], "keys/bad") || f.Problem("bad") == "" || f.Problem("good") != "" {
				t.Errorf("reported %q; of bad: %q, of good: %q", *reports, f.Problem("bad"), f.Problem("good"))
			}
			if strings.Contains(strings.Join(*reports, " "), "MIGH") {
				t.Error("a private half is in the report")
			}

			algorithm, roles := "EdDSA", []string{"role"}
			_, _, err = f.Write(f.ctx, f.storage, "bad", Settings{AllowedRoles: &roles})
			wantMistake(t, "write without algorithm", err, map[bool]string{false: "algorithm", true: "name"}[test.newer])
			_, _, err = f.Write(f.ctx, f.storage, "bad", Settings{Algorithm: &algorithm})
			wantMistake(t, "write that would widen allowed_roles", err, map[bool]string{false: "allowed_roles", true: "name"}[test.newer])
			_, _, err = f.Write(f.ctx, f.storage, "bad", Settings{Algorithm: &algorithm, AllowedRoles: &roles})
			wantMistake(t, "write that would widen allowed_audiences", err, map[bool]string{false: "allowed_audiences", true: "name"}[test.newer])
			_, created, err := f.Write(f.ctx, f.storage, "bad", Settings{Algorithm: &algorithm, AllowedRoles: &roles, AllowedAudiences: &[]string{"*"}})
			if test.newer {
				wantMistake(t, "overwrite what a newer version wrote", err, "name")
			} else {
				if err != nil || !created || f.sign("bad", time.Hour).Algorithm != algorithm || f.Problem("bad") != "" {
					t.Errorf("replaced: %v, %v, and then %q", created, err, f.Problem("bad"))
				}
				f.putRaw("key/bad", "{")
				f.restart()
			}
			if deleted, err := f.remove(f.ctx, "bad"); !deleted || err != nil {
				t.Errorf("deleted %v, %v", deleted, err)
			}
			if key, err := f.Get(f.ctx, f.storage, "bad"); key != nil || err != nil || f.raw("signed/bad") != "" {
				t.Errorf("then there is %v, %v, %q", key, err, f.raw("signed/bad"))
			}
		})
	}
}

// A version that cannot be decoded is not published and does not sign; the others
// of the key go on, and an emergency rotation needs none of them.
func TestDamagedVersion(t *testing.T) {
	damages := map[string]func(map[string]any){
		"unknown algorithm": func(v map[string]any) { v["algorithm"] = "ES999" },
		"no public half":    func(v map[string]any) { v["public_key"] = "AAAA" },
		"another kid":       func(v map[string]any) { v["kid"] = "other" },
		"odd type":          func(v map[string]any) { v["created_at"] = 7 },
	}
	for name, damage := range damages {
		for _, state := range []State{Retired, Signing, Next} {
			t.Run(fmt.Sprintf("%s/%s", name, state), func(t *testing.T) {
				f := newFixture(t)
				f.write("k", Settings{})
				f.write("other", Settings{})
				f.sign("k", time.Hour)
				f.rotate("k", 100*time.Hour)
				versions := f.get("k").Versions
				f.edit("k", state, damage)
				f.restart()
				reports := f.reports()
				for _, v := range versions {
					if got := f.published(v.ID); got != (v.State != state) {
						t.Errorf("%s is published: %v", v, got)
					}
				}
				if len(*reports) != 1 || !strings.Contains((*reports)[0], "rotate-emergency") || f.Problem("k") == "" {
					t.Errorf("reported %q", *reports)
				}
				_, err := f.ForSigning(f.ctx, f.storage, "k", "role", nil, f.now.Add(time.Minute))
				if state == Signing {
					wantMistake(t, "sign", err, "key")
				} else if err != nil {
					t.Errorf("cannot sign: %v", err)
				}
				// A change of settings keeps what this build cannot read.
				f.write("k", Settings{AllowedRoles: &[]string{"role"}})
				if name == "unknown algorithm" && !strings.Contains(f.raw("key/k"), "ES999") {
					t.Error("the version is lost")
				}
				_, err = f.Rotate(f.ctx, f.storage, "k", true, f.now)
				if state == Retired {
					if err != nil || f.Problem("k") == "" {
						t.Errorf("rotate: %v, and then the problem is %q", err, f.Problem("k"))
					}
				} else {
					wantMistake(t, "rotate", err, "key")
				}
				f.rotate("other", time.Hour)
				rotation, err := f.EmergencyRotate(f.ctx, f.storage, "k")
				if err != nil || len(rotation.Dropped) < 3 || len(f.get("k").Versions) != 2 || f.Problem("k") != "" {
					t.Fatalf("emergency: %+v, %v, and then %q", rotation, err, f.Problem("k"))
				}
				if v := f.sign("k", time.Hour); v.ID != rotation.Signing.ID {
					t.Errorf("%s signs", v)
				}
				for _, v := range versions {
					if f.published(v.ID) {
						t.Errorf("%s is still published", v)
					}
				}
			})
		}
	}
}

// Without a horizon it is not known until when tokens live: the key signs and
// retires nothing, but what it signed is verified, and an emergency starts over.
func TestUndecodableHorizon(t *testing.T) {
	f := newFixture(t)
	f.write("k", Settings{})
	v := f.sign("k", time.Hour)
	f.putRaw("signed/k", "{")
	f.restart()
	reports := f.reports()
	if !f.published(v.ID) {
		t.Error("not published")
	}
	for range 2 {
		_, err := f.ForSigning(f.ctx, f.storage, "k", "role", nil, f.now.Add(time.Minute))
		wantMistake(t, "sign", err, "key")
	}
	_, err := f.Rotate(f.ctx, f.storage, "k", true, f.now)
	wantMistake(t, "rotate", err, "name")
	_, err = f.remove(f.ctx, "k")
	wantMistake(t, "delete", err, "name")
	if len(*reports) != 1 || f.Problem("k") == "" {
		t.Errorf("reported %q", *reports)
	}
	if _, err := f.EmergencyRotate(f.ctx, f.storage, "k"); err != nil {
		t.Fatal(err)
	}
	f.sign("k", time.Hour)
	if f.published(v.ID) || f.Problem("k") != "" {
		t.Errorf("after an emergency rotation: %q", f.Problem("k"))
	}
}

// The key set is what it was when it was encoded as a whole.
func TestKeySetEncoding(t *testing.T) {
	f := newFixture(t)
	if set := string(f.keySet().JWKS); set != `{"keys":[]}` {
		t.Errorf("without keys it is %s", set)
	}
	f.write("k", Settings{})
	if set := f.keySet().JWKS; !json.Valid(set) || bytes.Count(set, []byte(`"kid"`)) != 2 {
		t.Errorf("it is %s", set)
	}
}
