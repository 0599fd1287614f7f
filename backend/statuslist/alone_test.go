package statuslist

import (
	"context"
	"testing"
	"time"

	"github.com/vault-tokens/vault-plugin-secrets-tokens/backend/store/storetest"
)

// What a load reads is kept, although who asked hung up as it began and nobody else
// waits for it: else clients with short timeouts would begin it anew each time.
func TestLoadIsKeptThoughItsCallerHungUp(t *testing.T) {
	f := newFixture(t)
	ref := f.reserve()
	f.restart()
	ctx, hangUp := context.WithCancel(f.ctx)
	f.storage.Before(func(op storetest.Op, key string) error {
		if op == storetest.List && key == revokedPrefix+ref.List+"/" {
			hangUp()
		}
		return nil
	})
	f.Status(ctx, f.storage, ref) // which may be an error
	f.storage.Heal()
	if ctx.Err() == nil {
		t.Fatal("the caller did not hang up; the test shows nothing")
	}
	if reads, _ := f.storage.Count(func() { f.status(ref) }); reads != 0 {
		t.Errorf("%d reads of what was read before", reads)
	}
}

// A write of a list that failed, and takes effect after later ones were
// acknowledged, undoes none of them: it neither takes a block away nor lets the list
// go before its last token.
func TestLateWriteUndoesNoLaterOne(t *testing.T) {
	f := newFixture(t)
	f.reserve()
	f.storage.Hold(listPrefix)
	if ref, err := f.Reserve(f.ctx, f.storage, owner, "slow", f.now.Add(time.Minute)); err == nil {
		t.Fatalf("reserved %v with a write that failed", ref)
	}
	f.storage.Hold("") // and let all others pass
	var later []Ref
	for range 2 * smallestBlock {
		later = append(later, f.reserveFor(owner, "later", 100*time.Hour))
	}
	if err := f.storage.Land(nil); err != nil {
		t.Fatal(err)
	}
	for range 2 { // before and after a run of tidying
		f.restart()
		for _, ref := range later {
			if role, status, err := f.Status(f.ctx, f.storage, ref); role != "later" || status != Valid || err != nil {
				t.Fatalf("%v is %v, of role %q, %v", ref, status, role, err)
			}
		}
		f.now = f.now.Add(2*time.Hour + margin)
		f.tidy()
	}
}
