package tokens

import (
	"context"
	"testing"
	"time"

	"github.com/hashicorp/vault/sdk/logical"

	"github.com/vault-tokens/vault-plugin-secrets-tokens/backend/store/storetest"
)

// A snapshot that is restored does not know the tokens that were issued since. Those
// with a record are inactive at once, and once all records were looked at also for
// verifiers that remember them and go by the status list. Tokens that it knows live.
func TestRestoredSnapshot(t *testing.T) {
	m := newMount(t).withRoles()
	known := m.must(logical.ReadOperation, "creds/api_key", nil).Data["token"].(string)
	jwt := m.must(logical.ReadOperation, "creds/jwt", nil).Data["token"].(string)
	snapshot := m.snapshot()
	lost := m.must(logical.ReadOperation, "creds/api_key", nil).Data["token"].(string)
	uri, lostIndex := m.bit(lost)
	_, knownIndex := m.bit(known)
	m.storage = snapshot
	m.restart()
	if m.active(lost) {
		t.Error("a token without a record is active")
	}
	invalid := func() (known, lost bool) {
		revoked := m.revokedOn(uri)
		return revoked[knownIndex], revoked[lostIndex]
	}
	if k, l := invalid(); k || l {
		t.Errorf("before all records were looked at: revoked are %v, %v", k, l)
	}
	m.periodic() // a pass is due, since there was none
	if k, l := invalid(); k || !l {
		t.Errorf("after it: revoked are %v, %v; want the lost one", k, l)
	}
	m.restart()
	if k, l := invalid(); k || !l {
		t.Errorf("after a restart: revoked are %v, %v; want the lost one", k, l)
	}
	m.clock.Advance(time.Minute)
	if !m.active(known) || !m.active(jwt) {
		t.Error("a token that the snapshot knows is inactive")
	}
}

// snapshot returns a copy of the storage.
func (m *mount) snapshot() *storetest.Storage {
	m.t.Helper()
	ctx, to := context.Background(), &storetest.Storage{}
	keys, err := logical.CollectKeys(ctx, m.storage)
	if err != nil {
		m.t.Fatal(err)
	}
	for _, key := range keys {
		entry, err := m.storage.Get(ctx, key)
		if err != nil {
			m.t.Fatal(err)
		}
		if err := to.Put(ctx, entry); err != nil {
			m.t.Fatal(err)
		}
	}
	return to
}

// bit returns where introspection says that the bit of a token is.
func (m *mount) bit(token string) (uri string, index int) {
	m.t.Helper()
	answer := m.must(logical.UpdateOperation, "introspect", map[string]any{"token": token}).Data
	status, ok := answer["status"].(map[string]any)
	if !ok {
		m.t.Fatalf("no status in %v", answer)
	}
	list := status["status_list"].(map[string]any)
	return list["uri"].(string), list["idx"].(int)
}

// revokedOn returns the revoked indexes of a published list.
func (m *mount) revokedOn(uri string) map[int]bool {
	m.t.Helper()
	body, _ := m.raw(uri[len(testIssuer)+1:], "application/statuslist+jwt", time.Second, time.Hour)
	return m.decodeStatusList(body, uri)
}
