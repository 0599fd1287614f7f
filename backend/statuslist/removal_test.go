package statuslist

import (
	"testing"
	"time"

	"github.com/vault-tokens/vault-plugin-secrets-tokens/backend/store/storetest"
)

// A token that joins a list between the look at its entry and its removal keeps it.
func TestReserveBeforeRemoval(t *testing.T) {
	f := newFixture(t)
	f.reserve()
	f.now = f.now.Add(2*time.Hour + margin)
	g := f.at(storetest.Get, listPrefix)
	tidied := begin(func() { f.tidy() })
	<-g.seen
	ref := f.reserve()
	g.open(tidied)
	if f.status(ref) != Valid || f.other().mustStatus(f, ref) != Valid {
		t.Error("the list of a new token was removed")
	}
}
