package statuslist

import (
	"context"
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"
	"github.com/hashicorp/vault/sdk/logical"

	"github.com/vault-tokens/vault-plugin-secrets-tokens/backend/keyring"
	"github.com/vault-tokens/vault-plugin-secrets-tokens/backend/store/storetest"
	"github.com/vault-tokens/vault-plugin-secrets-tokens/verify/format"
)

var settings = Settings{TTL: 5 * time.Second, Lifetime: time.Hour}

// signer signs lists with one key, of which it counts the uses.
type signer struct {
	version *keyring.Version
	asked   int
	err     error
}

func newSigner(t *testing.T) *signer {
	t.Helper()
	ctx, storage := context.Background(), &logical.InmemStorage{}
	key, _, err := keyring.New(time.Now).Write(ctx, storage, "k", keyring.Settings{})
	if err != nil {
		t.Fatal(err)
	}
	version, err := key.Signing()
	if err != nil {
		t.Fatal(err)
	}
	return &signer{version: version}
}

func (s *signer) of(string) (*keyring.Version, error) {
	s.asked++
	return s.version, s.err
}

func (f *fixture) publish(id string, settings Settings, s *signer) string {
	f.t.Helper()
	body, err := f.Publish(f.ctx, f.storage, id, settings, s.of)
	if err != nil {
		f.t.Fatal(err)
	}
	return string(body)
}

// verify reads a published list as a verifier does, and returns which indexes
// are revoked.
func (f *fixture) verify(body, id string, s *signer) (revoked []int, claims *format.StatusListClaims) {
	f.t.Helper()
	claims = &format.StatusListClaims{}
	token, err := jwt.NewParser(jwt.WithTimeFunc(f.clock), jwt.WithExpirationRequired(), jwt.WithSubject(URI(owner.Issuer, id))).
		ParseWithClaims(body, claims, func(*jwt.Token) (any, error) { return s.version.Public(), nil })
	if err != nil {
		f.t.Fatal(err)
	}
	if token.Header["typ"] != format.StatusListType || token.Header["kid"] != s.version.ID {
		f.t.Errorf("header %v", token.Header)
	}
	list, err := format.DecodeStatusList(claims.StatusList.Bits, claims.StatusList.List, listSize/8)
	if err != nil {
		f.t.Fatal(err)
	}
	if list.Len() != listSize {
		f.t.Errorf("published %d bits, want all %d", list.Len(), listSize)
	}
	for i := range list.Len() {
		if status, _ := list.Get(i); status == format.StatusInvalid && i < firstSize {
			revoked = append(revoked, i)
		} else if status == format.StatusValid && i >= firstSize {
			f.t.Fatalf("index %d, which is not given out on this list, is good", i)
		}
	}
	return revoked, claims
}

func TestPublish(t *testing.T) {
	f, s := newFixture(t), newSigner(t)
	ref, other := f.reserve(), f.reserve()
	body := f.publish(ref.List, settings, s)
	revoked, claims := f.verify(body, ref.List, s)
	if claims.TTL != 5 || claims.ExpiresAt.Unix() != f.now.Add(time.Hour).Unix() || claims.IssuedAt.Unix() != f.now.Unix() || claims.StatusList.Bits != 1 {
		t.Errorf("claims %+v", claims)
	}
	if slices.Contains(revoked, ref.Index) || slices.Contains(revoked, other.Index) {
		t.Error("a good token is revoked on its list")
	}
	f.revoke(ref)
	for _, when := range []string{"at once", "after a restart"} {
		revoked, _ = f.verify(f.publish(ref.List, settings, s), ref.List, s)
		if !slices.Contains(revoked, ref.Index) || slices.Contains(revoked, other.Index) {
			t.Errorf("%s: revoked are %v, want %d and not %d", when, revoked, ref.Index, other.Index)
		}
		f.restart()
	}
	for _, id := range []string{"", strings.Repeat("0", 22), "../" + ref.List} {
		if body := f.publish(id, settings, s); body != "" {
			t.Errorf("list %q is %s", id, body)
		}
	}
}

// A list is signed anew when something changed or half its life is over, and
// else served from memory: anybody may ask, and none of it writes.
func TestPublishCache(t *testing.T) {
	s, another := newSigner(t), newSigner(t)
	for name, test := range map[string]struct {
		change   func(f *fixture, ref Ref)
		settings Settings
		signer   *signer
		anew     bool
	}{
		"nothing":            {func(*fixture, Ref) {}, settings, s, false},
		"time, but not half": {func(f *fixture, _ Ref) { f.now = f.now.Add(30*time.Minute - 1) }, settings, s, false},
		"half its life":      {func(f *fixture, _ Ref) { f.now = f.now.Add(30 * time.Minute) }, settings, s, true},
		"one more token":     {func(f *fixture, _ Ref) { f.reserve() }, settings, s, false},
		"revocation":         {func(f *fixture, ref Ref) { f.revoke(ref) }, settings, s, true},
		"tokens of more blocks": {func(f *fixture, _ Ref) {
			for range 10 * smallestBlock {
				f.reserve()
			}
		}, settings, s, false},
		"time, but backwards":    {func(f *fixture, _ Ref) { f.now = f.now.Add(-time.Second) }, settings, s, true},
		"token on another list":  {func(f *fixture, _ Ref) { f.reserveFor(Owner{Key: "other"}, orders, time.Hour) }, settings, s, false},
		"rotation of the key":    {func(*fixture, Ref) {}, settings, another, true},
		"another TTL":            {func(*fixture, Ref) {}, Settings{TTL: time.Minute, Lifetime: time.Hour}, s, true},
		"another lifetime":       {func(*fixture, Ref) {}, Settings{TTL: settings.TTL, Lifetime: 2 * time.Hour}, s, true},
		"change on another node": {func(f *fixture, ref Ref) { f.Invalidate(revokedPrefix + ref.List + "/1") }, settings, s, true},
	} {
		t.Run(name, func(t *testing.T) {
			f := newFixture(t)
			ref := f.reserve()
			before := f.publish(ref.List, settings, s)
			test.change(f, ref)
			var after string
			if _, writes := f.storage.Count(func() { after = f.publish(ref.List, test.settings, test.signer) }); writes != 0 {
				t.Errorf("%d writes", writes)
			}
			if anew := after != before; anew != test.anew {
				t.Errorf("signed anew: %v, want %v", anew, test.anew)
			}
			f.verify(after, ref.List, test.signer)
			if again := f.publish(ref.List, test.settings, test.signer); again != after {
				t.Error("signed twice for nothing")
			}
		})
	}
}

func TestPublishWithoutSigner(t *testing.T) {
	f, s := newFixture(t), newSigner(t)
	ref := f.reserve()
	s.err = storetest.ErrInjected
	if body, err := f.Publish(f.ctx, f.storage, ref.List, settings, s.of); !errors.Is(err, storetest.ErrInjected) || body != nil {
		t.Errorf("published %q, %v", body, err)
	}
	s.version, s.err = nil, nil // the key was deleted
	if body := f.publish(ref.List, settings, s); body != "" {
		t.Errorf("published %q without a key", body)
	}
	f.restart()
	f.storage.Before(storetest.Fail("", storetest.List))
	if body, err := f.Publish(f.ctx, f.storage, ref.List, settings, s.of); err == nil || body != nil {
		t.Errorf("published %q, %v, from a storage that fails", body, err)
	}
}

func TestTidy(t *testing.T) {
	f := newFixture(t)
	short := f.reserveFor(Owner{Key: "short"}, orders, time.Minute)
	long := f.reserveFor(Owner{Key: "long"}, orders, 48*time.Hour)
	f.revoke(short)
	f.revoke(long)
	f.now = f.now.Add(time.Minute + margin - time.Second)
	if n := f.tidy(); n != (Tidied{}) {
		t.Errorf("removed %v early", n)
	}
	// Its last token, with what was reserved for others, and a margin.
	f.now = f.now.Add(reserveAhead)
	if n := f.tidy(); n != (Tidied{}) {
		t.Errorf("removed %v early", n)
	}
	f.now = f.now.Add(time.Second)
	var n Tidied
	if _, writes := f.storage.Count(func() { n = f.tidy() }); n != (Tidied{1, 1}) || writes != 2 {
		t.Errorf("removed %v with %d writes, want 1 with a write for the list and one for its revocation", n, writes)
	}
	want := []string{instancePrefix + instanceName, listPrefix + long.List, revokedPrefix + long.List + "/" + mark{index: long.Index, expires: f.expires[long]}.name()}
	if left := slices.Sorted(slices.Values(f.stored(""))); !slices.Equal(left, want) {
		t.Errorf("left are %v, want %v", left, want)
	}
	if !f.revoked(short) || !f.revoked(long) {
		t.Error("a revoked token is good")
	}
	if next := f.reserveFor(Owner{Key: "short"}, orders, time.Minute); next.List == short.List {
		t.Error("a token joined a list that is gone")
	}
	if _, writes := f.storage.Count(func() { f.tidy() }); writes != 0 {
		t.Errorf("%d writes with nothing due", writes)
	}
}

// The list goes before its revocations, so that at no time is one of its tokens
// good again; what a fault leaves is found later.
func TestTidyOnFaults(t *testing.T) {
	for name, inject := range map[string]func(*storetest.Storage){
		"list of revocations": func(s *storetest.Storage) { s.Before(storetest.Fail(revokedPrefix, storetest.List)) },
		"first revocation":    func(s *storetest.Storage) { s.Before(storetest.Fail(revokedPrefix, storetest.Delete)) },
		"its reply":           func(s *storetest.Storage) { s.After(storetest.Fail(revokedPrefix, storetest.Delete)) },
		"list":                func(s *storetest.Storage) { s.Before(storetest.Fail(listPrefix, storetest.Delete)) },
		"reply of the list":   func(s *storetest.Storage) { s.After(storetest.Fail(listPrefix, storetest.Delete)) },
	} {
		t.Run(name, func(t *testing.T) {
			f := newFixture(t)
			refs := []Ref{f.reserve(), f.reserve(), f.reserve()}
			for _, ref := range refs {
				f.revoke(ref)
			}
			f.now = f.now.Add(2*time.Hour + margin)
			inject(f.storage)
			if _, err := f.Tidy(f.ctx, f.storage, margin); !errors.Is(err, storetest.ErrInjected) {
				t.Errorf("got %v", err)
			}
			f.storage.Heal()
			if lists, bits := f.stored(listPrefix), f.stored(revokedPrefix); len(lists) != 0 && len(bits) != len(refs) {
				t.Errorf("the list is there, and of its revocations only %v", bits)
			}
			for _, lists := range []*Lists{f.Lists, f.other()} {
				for _, ref := range refs {
					if lists.mustStatus(f, ref) == Valid {
						t.Error("a revoked token is good again")
					}
				}
			}
			f.tidy()
			f.now = f.now.Add(sweepEvery)
			f.tidy()
			if left := f.stored(""); !slices.Equal(left, []string{instancePrefix + instanceName}) {
				t.Errorf("left are %v", left)
			}
			for _, ref := range refs {
				if !f.revoked(ref) {
					t.Error("a revoked token is good again")
				}
			}
		})
	}
}

// A token that is issued while lists expire gets one that stays.
func TestReserveAfterExpiry(t *testing.T) {
	f := newFixture(t)
	old := f.reserve()
	f.now = f.now.Add(48 * time.Hour)
	ref := f.reserve() // joins the old list, which so lives on
	if f.tidy() != (Tidied{}) || f.revoked(ref) {
		t.Errorf("the list of a new token was removed (old list %s, new %s)", old.List, ref.List)
	}
}
