package tokens

import (
	"slices"
	"testing"
	"time"

	"github.com/hashicorp/vault/sdk/logical"
)

// Changing one key must not make the next request read all of them.
func TestKeyChangesReadNoOtherKey(t *testing.T) {
	m := newMount(t).withRoles()
	for _, name := range []string{"a", "b", "c"} {
		m.must(logical.CreateOperation, "keys/"+name, nil)
	}
	m.must(logical.ReadOperation, "jwks", nil)
	m.issueJWT()
	m.clock.Advance(time.Hour) // so that the next issue writes its key's horizon
	m.issueJWT()
	before := m.storage.Reads.Load()
	if ids := m.published(); len(ids) != 8 {
		t.Errorf("%d keys are published, want 8", len(ids))
	}
	m.issueJWT()
	if reads := m.storage.Reads.Load() - before; reads != 0 {
		t.Errorf("%d reads", reads)
	}
	restarted := newMountOn(m)
	if a, b := m.published(), restarted.published(); !slices.Equal(a, b) {
		t.Errorf("published are %v, and after a restart %v", a, b)
	}
}

func TestJWKS(t *testing.T) {
	m := newMount(t)
	if body, _ := m.raw("jwks", "application/jwk-set+json", 4*time.Minute, 5*time.Minute); body != `{"keys":[]}` {
		t.Errorf("without keys: %s", body)
	}
	m.withRoles()
	before, tag := m.raw("jwks", "application/jwk-set+json", 4*time.Minute, 5*time.Minute)
	m.notModified("jwks", tag)
	m.must(logical.UpdateOperation, "keys/default/rotate", nil)
	after, _ := m.raw("jwks", "application/jwk-set+json", 4*time.Minute, 5*time.Minute)
	if after == before {
		t.Error("the same after a rotation")
	}
	m.restart()
	if again, _ := m.raw("jwks", "application/jwk-set+json", 4*time.Minute, 5*time.Minute); again != after {
		t.Error("another one after a restart")
	}
	m.fails(logical.ReadOperation, "jwks", nil, unread("key/"))
}
