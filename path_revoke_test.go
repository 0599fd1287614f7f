package tokens

import (
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/vault/sdk/logical"

	"github.com/vault-tokens/vault-plugin-secrets-tokens/backend/store/storetest"
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

// The answer is the same whether there was anything to revoke, or not.
func TestRevoke(t *testing.T) {
	m := newMount(t).withRoles()
	for _, kind := range []string{"api_key", "bearer", "jwt"} {
		token := m.must(logical.ReadOperation, "creds/"+kind, nil).Data["token"].(string)
		kept := m.must(logical.ReadOperation, "creds/"+kind, nil).Data["token"].(string)
		m.answers([]row{
			{operation: logical.UpdateOperation, path: "revoke", data: map[string]any{"token": token[:len(token)-1]}},
			{operation: logical.UpdateOperation, path: "revoke", data: map[string]any{"token": token}},
			{operation: logical.UpdateOperation, path: "revoke", data: map[string]any{"token": token}},
			{operation: logical.UpdateOperation, path: "revoke", data: map[string]any{"token": "nonsense"}},
			{operation: logical.UpdateOperation, path: "revoke", data: map[string]any{"token": ""}, refused: "token"},
			{operation: logical.UpdateOperation, path: "revoke", refused: "token"},
			{operation: logical.UpdateOperation, path: "revoke", data: map[string]any{"token": kept, "token_type_hint": "jwt"}, refused: "token_type_hint"},
		})
		if m.active(token) || !m.active(kept) {
			t.Errorf("%s: active are %v and %v, want the second alone", kind, m.active(token), m.active(kept))
		}
	}
}

// A revocation is acknowledged when it is stored, and not before.
func TestRevokeOnFaults(t *testing.T) {
	m := newMount(t).withRoles()
	for kind, faults := range map[string][]storetest.Hook{
		"bearer": {unread("token/"), unwritten("revoked/"), unwritten("token/")},
		"jwt":    {unread("key/"), unwritten("revoked/")},
	} {
		token := m.must(logical.ReadOperation, "creds/"+kind, nil).Data["token"].(string)
		m.fails(logical.UpdateOperation, "revoke", map[string]any{"token": token}, faults...)
		m.restart()
		if m.active(token) {
			t.Errorf("%s: active after its revocation was acknowledged", kind)
		}
	}
	if n := strings.Count(m.log.String(), "token revoked"); n != 2 {
		t.Errorf("the log tells of %d revocations of 2", n)
	}
}
