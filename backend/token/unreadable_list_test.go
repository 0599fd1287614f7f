package token

import (
	"testing"
	"time"

	"github.com/hashicorp/vault/sdk/logical"
)

// The lease of a token that was revoked by its id ends, although its status list cannot
// be decoded: else Vault keeps it for good.
func TestLeaseOfARevokedTokenEndsOnAnUndecodableList(t *testing.T) {
	f := newFixture(t)
	issued := f.issue("api_key")
	if _, err := f.Revoke(f.ctx, f.storage, Lease{ID: issued.ID}); err != nil {
		t.Fatal(err)
	}
	if err := f.storage.Put(f.ctx, &logical.StorageEntry{Key: "list/" + issued.Ref.List, Value: []byte("{")}); err != nil {
		t.Fatal(err)
	}
	f.restart()
	if _, err := f.revoke(issued); err != nil {
		t.Error(err)
	}
}

// Records on a list that cannot be decoded do not keep a pass from the others.
func TestPassGoesOnBesideAnUndecodableList(t *testing.T) {
	f := newFixture(t)
	first := f.issue("api_key")
	for range 3 * maxFailures {
		f.issue("api_key")
	}
	if err := f.storage.Put(f.ctx, &logical.StorageEntry{Key: "list/" + first.Ref.List, Value: []byte("{")}); err != nil {
		t.Fatal(err)
	}
	f.restart()
	f.WantPass()
	done, err := f.Tidy(f.ctx, f.storage, 24*time.Hour)
	if err == nil || done.Pass.underWay() || done.Pass.Failed != 3*maxFailures+1 {
		t.Errorf("%+v, %v; want the pass at its end, and each record failed", done.Pass, err)
	}
}
