package statuslist

import (
	"context"
	"testing"

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
