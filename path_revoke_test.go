package tokens

import (
	"testing"
	"time"

	"github.com/hashicorp/vault/sdk/logical"
)

func TestJWTThatIsNotValidYetCanBeRevoked(t *testing.T) {
	m := newMount(t).withRoles()
	m.must(logical.UpdateOperation, "roles/jwt", map[string]any{"not_before_leeway": 0})
	token, _ := m.issueJWT()
	m.clock.Advance(-5 * time.Second) // as after a failover to a node whose clock is behind
	if m.active(token) {
		t.Error("active before nbf")
	}
	m.must(logical.UpdateOperation, "revoke", map[string]any{"token": token})
	m.clock.Advance(10 * time.Second)
	if m.active(token) {
		t.Error("active after revoke")
	}
}
