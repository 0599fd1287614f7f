package tokens

import (
	"testing"
	"time"

	"github.com/hashicorp/vault/sdk/helper/consts"
	"github.com/hashicorp/vault/sdk/logical"
)

// askedSystem is Vault's system view, and counts how often it is asked.
type askedSystem struct {
	logical.StaticSystemView
	asked int
}

func (s *askedSystem) ReplicationState() consts.ReplicationState {
	s.asked++
	return s.ReplicationStateVal
}

func (s *askedSystem) MaxLeaseTTL() time.Duration {
	s.asked++
	return s.MaxLeaseTTLVal
}

func (s *askedSystem) DefaultLeaseTTL() time.Duration {
	s.asked++
	return s.DefaultLeaseTTLVal
}

func (s *askedSystem) LocalMount() bool {
	s.asked++
	return s.LocalMountVal
}

// Vault is asked again after a second, or when the clock went back: never is
// an answer kept for longer.
func TestCachedSystem(t *testing.T) {
	vault := &askedSystem{}
	clock := &testClock{now: time.Now()}
	cached := newCachedSystem(vault, clock.Now)
	for i, step := range []struct {
		after time.Duration
		asked int
	}{
		{0, 4},
		{0, 0},
		{systemCacheTime - 1, 0},
		{1, 4},
		{-1, 4},
		{-time.Hour, 4},
		{0, 0},
	} {
		clock.Advance(step.after)
		vault.asked = 0
		if step.asked > 0 { // what Vault says changes, and must be seen
			vault.ReplicationStateVal++
			vault.MaxLeaseTTLVal += time.Minute
			vault.DefaultLeaseTTLVal += time.Second
			vault.LocalMountVal = !vault.LocalMountVal
		}
		got := [4]any{cached.ReplicationState(), cached.MaxLeaseTTL(), cached.DefaultLeaseTTL(), cached.LocalMount()}
		want := [4]any{vault.ReplicationStateVal, vault.MaxLeaseTTLVal, vault.DefaultLeaseTTLVal, vault.LocalMountVal}
		if got != want || vault.asked != step.asked {
			t.Errorf("step %d: %v after %d questions, want %v after %d", i, got, vault.asked, want, step.asked)
		}
	}
	if cached.LocalMount() != vault.LocalMount() || cached.CachingDisabled() != vault.CachingDisabled() {
		t.Error("other questions are not passed on")
	}
}

// A lowered maximum bounds the next token within a second.
func TestTunedMount(t *testing.T) {
	m := newMount(t).withRoles()
	m.must(logical.ReadOperation, "creds/bearer", nil)
	m.system.MaxLeaseTTLVal = 10 * time.Minute
	m.clock.Advance(systemCacheTime)
	if seconds := m.must(logical.ReadOperation, "creds/bearer", nil).Data["expires_in"]; seconds != int64(600) {
		t.Errorf("lives for %v s", seconds)
	}
}

// A warm request asks Vault nothing: each question is a round trip.
func TestWarmRequestsAskVaultNothing(t *testing.T) {
	vault := &askedSystem{StaticSystemView: logical.StaticSystemView{DefaultLeaseTTLVal: time.Hour, MaxLeaseTTLVal: 24 * time.Hour}}
	storage, clock := &logical.InmemStorage{}, &testClock{now: time.Now()}
	b, err := newBackend(t.Context(), &logical.BackendConfig{System: vault, StorageView: storage}, clock.Now)
	if err != nil {
		t.Fatal(err)
	}
	do := func(operation logical.Operation, path string, data map[string]any) *logical.Response {
		t.Helper()
		resp, err := b.HandleRequest(t.Context(), &logical.Request{Operation: operation, Path: path, Data: data, Storage: storage, DisplayName: "test"})
		if err != nil || resp.IsError() {
			t.Fatal(path, err, resp)
		}
		return resp
	}
	do(logical.CreateOperation, "roles/bearer", map[string]any{"token_type": "bearer"})
	token := do(logical.ReadOperation, "creds/bearer", nil).Data["token"]
	vault.asked = 0
	do(logical.ReadOperation, "creds/bearer", nil)
	do(logical.UpdateOperation, "introspect", map[string]any{"token": token})
	if vault.asked != 0 {
		t.Errorf("Vault was asked %d times", vault.asked)
	}
}
