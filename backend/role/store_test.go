package role

import (
	"context"
	"encoding/json"
	"errors"
	"net/netip"
	"reflect"
	"testing"
	"time"

	"github.com/hashicorp/vault/sdk/logical"

	"github.com/vault-tokens/vault-plugin-secrets-tokens/backend/store"
	"github.com/vault-tokens/vault-plugin-secrets-tokens/backend/store/storetest"
)

func TestStore(t *testing.T) {
	ctx, storage := context.Background(), &storetest.Storage{}
	r := jwtRole()
	r.Claims = json.RawMessage(`{"a":1}`)
	r.Metadata = map[string]string{"team": "payments"}
	r.BoundCIDRs = []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8")}
	s := NewStore()
	if err := s.Put(ctx, storage, r.Name, r); err != nil {
		t.Fatal(err)
	}
	reads, _ := storage.Count(func() {
		if got, err := s.Get(ctx, storage, r.Name); err != nil || !reflect.DeepEqual(got, r) {
			t.Errorf("read %+v, %v", got, err)
		}
	})
	if reads != 0 {
		t.Errorf("%d reads of a role that is in memory", reads)
	}
	if got, err := NewStore().Get(ctx, storage, r.Name); err != nil || !reflect.DeepEqual(got, r) {
		t.Errorf("read after a restart: %+v, %v", got, err)
	}

	removed, err := s.Remove(ctx, storage, "never")
	if removed || err != nil {
		t.Errorf("removing what never was: %v, %v", removed, err)
	}
	if removed, err = s.Remove(ctx, storage, r.Name); !removed || err != nil {
		t.Errorf("removed %v, %v", removed, err)
	}
	if got, err := s.Get(ctx, storage, r.Name); got != nil || err != nil {
		t.Errorf("after its removal: %+v, %v", got, err)
	}
}

func stored(t *testing.T, entry string) *storetest.Storage {
	t.Helper()
	storage := &storetest.Storage{}
	if err := storage.Put(context.Background(), &logical.StorageEntry{Key: "role/a", Value: []byte(entry)}); err != nil {
		t.Fatal(err)
	}
	return storage
}

// What a role was stored without has the default of its type, but for the leeway:
// older versions left it out when it was zero.
func TestFieldsThatAreNotStoredHaveTheirDefaults(t *testing.T) {
	for entry, want := range map[string]Role{
		`{"name":"a","token_type":"bearer"}`:                                      {TTL: time.Hour, Prefix: "vtb", GenerateLease: true},
		`{"name":"a","token_type":"bearer","max_ttl":60000000000}`:                {TTL: time.Minute, MaxTTL: time.Minute, Prefix: "vtb", GenerateLease: true},
		`{"name":"a","token_type":"api_key","generate_lease":false}`:              {Prefix: "vtk"},
		`{"name":"a","token_type":"jwt","ttl":1}`:                                 {TTL: 1, Key: DefaultKey, GenerateLease: true},
		`{"name":"a","token_type":"jwt","not_before_leeway":5,"ttl":1}`:           {TTL: 1, Key: DefaultKey, NotBeforeLeeway: 5, GenerateLease: true},
		`{"format":1,"name":"a","token_type":"jwt"}`:                              {TTL: 15 * time.Minute, Key: DefaultKey, NotBeforeLeeway: 30 * time.Second, GenerateLease: true},
		`{"format":1,"name":"a","token_type":"jwt","not_before_leeway":0}`:        {TTL: 15 * time.Minute, Key: DefaultKey, GenerateLease: true},
		`{"format":1,"name":"a","token_type":"api_key","require_cnf":true}`:       {Prefix: "vtk", RequireCnf: true, GenerateLease: true},
		`{"format":1,"name":"a","token_type":"api_key","allowed_metadata":["*"]}`: {Prefix: "vtk", AllowedMetadata: []string{"*"}, GenerateLease: true},
	} {
		got, err := NewStore().Get(context.Background(), stored(t, entry), "a")
		want.Name = "a"
		if got != nil {
			want.TokenType = got.TokenType
		}
		if err != nil || !reflect.DeepEqual(*got, want) {
			t.Errorf("%s is read as %+v, %v; want %+v", entry, got, err, want)
		}
	}
}

// A leeway of zero is not the default; it stays what it is.
func TestZeroLeewayIsStored(t *testing.T) {
	ctx, storage, r := context.Background(), &storetest.Storage{}, jwtRole()
	r.NotBeforeLeeway = 0
	if err := NewStore().Put(ctx, storage, "a", r); err != nil {
		t.Fatal(err)
	}
	if got, err := NewStore().Get(ctx, storage, "a"); err != nil || got.NotBeforeLeeway != 0 {
		t.Errorf("read as %+v, %v", got, err)
	}
}

func TestUnreadableRoleCanBeRemoved(t *testing.T) {
	ctx := context.Background()
	for _, entry := range []string{`{`, `{"token_type":"oauth"}`, `{"name":"a","token_type":"jwt","ttl":"1h"}`, `{"format":99}`} {
		storage, s := stored(t, entry), NewStore()
		if r, err := s.Get(ctx, storage, "a"); !errors.Is(err, store.ErrUndecodable) {
			t.Errorf("%s is read as %+v, %v", entry, r, err)
		}
		if removed, err := s.Remove(ctx, storage, "a"); !removed || err != nil {
			t.Errorf("%s: removed is %v, %v", entry, removed, err)
		}
		if r, err := s.Get(ctx, storage, "a"); r != nil || err != nil {
			t.Errorf("%s: then there is %+v, %v", entry, r, err)
		}
	}
}

func TestRemoveOnFaults(t *testing.T) {
	for name, test := range map[string]struct {
		fault func(*storetest.Storage)
		kept  bool
	}{
		"read fails":     {func(s *storetest.Storage) { s.Before(storetest.Fail("role/", storetest.Get)) }, true},
		"delete refused": {func(s *storetest.Storage) { s.Before(storetest.Fail("role/", storetest.Delete)) }, true},
		"its reply lost": {func(s *storetest.Storage) { s.After(storetest.Fail("role/", storetest.Delete)) }, false},
	} {
		t.Run(name, func(t *testing.T) {
			ctx, storage, s := context.Background(), &storetest.Storage{}, NewStore()
			if err := NewStore().Put(ctx, storage, "a", New("a", Bearer)); err != nil {
				t.Fatal(err)
			}
			test.fault(storage)
			if _, err := s.Remove(ctx, storage, "a"); !errors.Is(err, storetest.ErrInjected) {
				t.Errorf("got %v", err)
			}
			storage.Heal()
			got, err := s.Get(ctx, storage, "a")
			if err != nil || (got != nil) != test.kept {
				t.Errorf("then there is %+v, %v", got, err)
			}
		})
	}
}
