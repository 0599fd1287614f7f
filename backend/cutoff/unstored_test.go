package cutoff

import (
	"testing"
	"time"

	"github.com/vault-tokens/vault-plugin-secrets-tokens/backend/store/storetest"
)

// A cut-off that was acknowledged stays although a later one, which tidying takes to
// supersede it, was never stored.
func TestUnstoredCutoffSupersedesNothing(t *testing.T) {
	f := newFixture(t)
	first := f.end("a")
	f.now = f.now.Add(time.Minute)
	f.storage.Before(storetest.Fail(entityPrefix, storetest.Put))
	if _, err := f.EndEntity(f.ctx, f.storage, "a"); err == nil {
		t.Fatal("no error")
	}
	f.storage.Heal()
	if _, err := f.Tidy(f.ctx, f.storage, f.now.Add(-time.Hour), margin, func() (time.Time, error) { return f.now.Add(time.Hour), nil }); err != nil {
		t.Fatal(err)
	}
	f.restart()
	f.want("after a restart", "a", first)
}
