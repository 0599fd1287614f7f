package tokens

import (
	"context"
	"errors"
	"testing"

	"github.com/hashicorp/vault/sdk/helper/consts"
	"github.com/hashicorp/vault/sdk/logical"
)

// A node that is not the active one must pass an introspection on: its copy of
// the storage lags, so that it could call a revoked token active. The framework
// asks for that with ErrReadOnly, which Vault and OpenBao turn into forwarding.
func TestIntrospectionIsForwarded(t *testing.T) {
	m := newMount(t).withRoles()
	token := m.must(logical.ReadOperation, "creds/bearer", nil).Data["token"]
	for name, state := range map[string]consts.ReplicationState{
		"standby":   consts.ReplicationPerformanceStandby,
		"secondary": consts.ReplicationPerformanceSecondary,
	} {
		t.Run(name, func(t *testing.T) {
			m.system.ReplicationStateVal = state
			m.restart()
			resp, err := m.backend.HandleRequest(context.Background(), &logical.Request{
				Operation: logical.UpdateOperation, Path: "introspect", Storage: m.storage, Data: map[string]any{"token": token},
			})
			if !errors.Is(err, logical.ErrReadOnly) {
				t.Errorf("answered with %v, %v, want %v", resp, err, logical.ErrReadOnly)
			}
		})
	}
}
