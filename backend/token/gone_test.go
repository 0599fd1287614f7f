package token

import (
	"context"
	"strings"
	"testing"

	"github.com/vault-tokens/vault-plugin-secrets-tokens/backend/store/storetest"
)

// What a role's slots are is listed once, whether or not the caller that began it
// waits: else callers with short timeouts would begin it anew each time, and a role
// with many tokens would never issue again.
func TestListingOfSlotsOutlivesItsCaller(t *testing.T) {
	f := newFixture(t).capped(10)
	f.issue("bearer")
	f.restart()
	ctx, hangUp := context.WithCancel(f.ctx)
	listings := 0
	f.storage.Before(func(op storetest.Op, key string) error {
		if op == storetest.List && strings.HasPrefix(key, capPrefix) {
			listings++
			hangUp()
		}
		return nil
	})
	live := 1
	if _, err := f.Issue(ctx, f.storage, Request{Role: "bearer", Caller: caller}); err == nil {
		live++
	}
	f.whole(10, live, "afterwards")
	if listings != 1 {
		t.Errorf("%d listings, want the one whose caller hung up", listings)
	}
}
