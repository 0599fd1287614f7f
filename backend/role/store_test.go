package role

import (
	"context"
	"encoding/json"
	"errors"
	"net/netip"
	"reflect"
	"testing"

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
