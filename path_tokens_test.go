package tokens

import (
	"context"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/vault/sdk/logical"

	"github.com/vault-tokens/vault-plugin-secrets-tokens/backend/store/storetest"
)

func TestListPages(t *testing.T) {
	m := newMount(t).withRoles()
	want := map[string]bool{}
	for range 100 {
		want[m.must(logical.ReadOperation, "creds/bearer", nil).Data["token_id"].(string)] = true
	}
	after := ""
	for page := 0; ; page++ {
		resp := m.must(logical.ListOperation, "tokens/", map[string]any{"after": after, "limit": "7"})
		ids := resp.Data["keys"].([]string)
		for _, id := range ids {
			if !want[id] {
				t.Fatalf("page %d: %s is unknown or listed twice", page, id)
			}
			delete(want, id)
			after = id
		}
		if len(resp.Warnings) == 0 {
			break
		}
		if len(ids) != 7 {
			t.Fatalf("page %d has %d ids", page, len(ids))
		}
	}
	if len(want) != 0 {
		t.Errorf("%d ids were never listed", len(want))
	}
}

// A token can be found and revoked as soon as it is stored, which is before
// its issue has returned.
func TestRevokedWhileIssued(t *testing.T) {
	m := newMount(t).withRoles()
	revoked := make(chan struct{})
	m.storage.After(func(op storetest.Op, key string) error {
		if op != storetest.Put {
			return nil
		}
		id := key[strings.LastIndexByte(key, '/')+1:]
		go func() {
			defer close(revoked)
			m.backend.HandleRequest(context.Background(), &logical.Request{Operation: logical.DeleteOperation, Path: "tokens/" + id, Storage: m.storage})
		}()
		select {
		case <-revoked: // before the issue returns, if nothing holds it back
		case <-time.After(100 * time.Millisecond):
		}
		return nil
	})
	token := m.must(logical.ReadOperation, "creds/bearer", nil).Data["token"].(string)
	<-revoked
	if m.active(token) {
		t.Error("active after its revocation was acknowledged")
	}
}
