package statuslist

import (
	"errors"
	"testing"
	"time"

	"github.com/hashicorp/vault/sdk/logical"

	"github.com/vault-tokens/vault-plugin-secrets-tokens/backend/store"
)

// A name that cannot be read, such as that of a mark of a later version, makes its list
// undecodable, and keeps no kill switch from ending what is on the others.
func TestUnknownMarkDoesNotStopEndRole(t *testing.T) {
	f := newFixture(t)
	ref := f.reserveFor(opaque, "billing", time.Hour)
	f.restart()
	var others []Ref
	for range 4 { // some are listed after it
		others = append(others, f.reserveFor(opaque, orders, time.Hour))
		f.restart()
	}
	if err := f.storage.Put(f.ctx, &logical.StorageEntry{Key: revokedPrefix + ref.List + "/later.1.2", Value: []byte("{}")}); err != nil {
		t.Fatal(err)
	}
	ended, err := f.EndRole(f.ctx, f.storage, orders)
	if err != nil || len(ended.Unreadable) != 1 {
		t.Errorf("%+v, %v", ended, err)
	}
	if _, _, err := f.Status(f.ctx, f.storage, ref); !errors.Is(err, store.ErrUndecodable) {
		t.Errorf("its list: %v", err)
	}
	for _, ref := range others {
		if f.status(ref) != Revoked {
			t.Error("a token of the role is not revoked")
		}
	}
}

// A list of a later version can be read again once that version is back. What a kill
// switch has acknowledged meanwhile stays revoked.
func TestEndRoleHoldsOnAListThatIsReadableAgain(t *testing.T) {
	f := newFixture(t)
	ref, other := f.reserveFor(opaque, orders, time.Hour), f.reserveFor(opaque, "billing", time.Hour)
	key := listPrefix + ref.List
	stored, err := f.storage.Get(f.ctx, key)
	if err != nil {
		t.Fatal(err)
	}
	if err := f.storage.Put(f.ctx, &logical.StorageEntry{Key: key, Value: []byte(`{"format":99}`)}); err != nil {
		t.Fatal(err)
	}
	f.restart()
	if ended := f.endRole(orders); len(ended.Unreadable) != 1 {
		t.Fatalf("%+v", ended)
	}
	if err := f.storage.Put(f.ctx, stored); err != nil {
		t.Fatal(err)
	}
	f.restart()
	if got := f.status(ref); got != Revoked {
		t.Errorf("a token of the role is %v after the version is back", got)
	}
	if got := f.status(other); got != Valid {
		t.Errorf("a token of another role is %v", got)
	}
}
