package tokens

import (
	"context"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/vault/sdk/logical"
)

// A token can be found and revoked as soon as it is stored, which is before
// its issue has returned.
func TestRevokedWhileIssued(t *testing.T) {
	m := newMount(t).withRoles()
	revoked := make(chan struct{})
	m.storage.afterPut = func(key string) {
		id := key[strings.LastIndexByte(key, '/')+1:]
		go func() {
			defer close(revoked)
			m.backend.HandleRequest(context.Background(), &logical.Request{Operation: logical.DeleteOperation, Path: "tokens/" + id, Storage: m.storage})
		}()
		select {
		case <-revoked: // before the issue returns, if nothing holds it back
		case <-time.After(100 * time.Millisecond):
		}
	}
	token := m.must(logical.ReadOperation, "creds/bearer", nil).Data["token"].(string)
	<-revoked
	if m.active(token) {
		t.Error("active after its revocation was acknowledged")
	}
}

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

func TestSizesAreBounded(t *testing.T) {
	m := newMount(t).withRoles()
	metadata := map[string]any{}
	for i := range 12 {
		metadata[strings.Repeat("k", i+1)] = strings.Repeat("<", 500)
	}
	scopes := []any{}
	for i := range 20 {
		scopes = append(scopes, "orders:"+strings.Repeat("s", 230+i))
	}
	for _, kind := range []string{"api_key", "jwt"} {
		m.refused(logical.UpdateOperation, "creds/"+kind, map[string]any{"metadata": metadata})
		m.refused(logical.UpdateOperation, "creds/"+kind, map[string]any{"scopes": scopes})
	}
	deep := strings.Repeat(`{"a":`, 40) + "1" + strings.Repeat("}", 40)
	m.refused(logical.UpdateOperation, "roles/jwt", map[string]any{"claims": deep})
}

// After a snapshot was restored, the storage does not know of the indexes that
// were given out since; their tokens must be revocable all the same.
func TestRevokeAfterRestoredSnapshot(t *testing.T) {
	m := newMount(t).withRoles()
	m.issueJWT()
	ctx := context.Background()
	ids, err := m.storage.List(ctx, "list/")
	if err != nil || len(ids) != 1 {
		t.Fatal(ids, err)
	}
	snapshot, err := m.storage.Get(ctx, "list/"+ids[0])
	if err != nil {
		t.Fatal(err)
	}
	for range 4200 { // into the next block
		m.issueJWT()
	}
	late := m.must(logical.ReadOperation, "creds/jwt", nil)
	token := late.Data["token"].(string)
	if err := m.storage.Put(ctx, snapshot); err != nil {
		t.Fatal(err)
	}
	m.restart()
	if err := m.revoke(late.Secret); err != nil {
		t.Fatal(err)
	}
	for range 5000 { // over what was reserved before the snapshot
		m.issueJWT()
	}
	if m.active(token) {
		t.Error("active again after its revocation was acknowledged")
	}
	m.restart()
	if m.active(token) {
		t.Error("active again after a restart")
	}
}

// A list stays as it was when its role gets another key or the mount another
// issuer: its tokens name the old ones.
func TestListOutlivesKeyAndIssuer(t *testing.T) {
	m := newMount(t).withRoles()
	m.must(logical.CreateOperation, "keys/b", nil)
	token, _ := m.issueJWT()
	uri := m.statusURI(token)
	m.must(logical.UpdateOperation, "roles/jwt", map[string]any{"key": "b"})
	changed := m.must(logical.UpdateOperation, "config", map[string]any{"issuer": "https://other.example.com/v1/tokens"})
	if len(changed.Warnings) == 0 {
		t.Error("nothing says what a new issuer breaks")
	}
	young, _ := m.issueJWT()
	if m.statusURI(young) == uri {
		t.Error("a token of another issuer is on the same list")
	}
	m.must(logical.DeleteOperation, "roles/jwt", nil)
	body := m.must(logical.ReadOperation, strings.TrimPrefix(uri, testIssuer+"/"), nil).Data[logical.HTTPRawBody].([]byte)
	m.decodeStatusList(string(body), uri)
}

func TestRenewalIsHeldAgainstTheRoleAsItIs(t *testing.T) {
	for name, change := range map[string]map[string]any{
		"scopes":            {"allowed_scopes": "orders:write", "default_scopes": ""},
		"audience":          {"audiences": "https://other.example.com"},
		"networks":          {"bound_cidrs": "10.0.0.0/8"},
		"another kind gone": nil,
	} {
		t.Run(name, func(t *testing.T) {
			m := newMount(t).withRoles()
			issued := m.must(logical.ReadOperation, "creds/bearer", nil)
			if change == nil {
				m.must(logical.DeleteOperation, "roles/bearer", nil)
			} else {
				m.must(logical.UpdateOperation, "roles/bearer", change)
			}
			if _, err := m.renew(issued.Secret); err == nil {
				t.Error("renewed")
			}
			if !m.active(issued.Data["token"].(string)) {
				t.Error("what was issued should stay")
			}
		})
	}
	m := newMount(t).withRoles()
	m.must(logical.UpdateOperation, "roles/bearer", map[string]any{"bound_cidrs": "10.1.0.0/16"})
	issued := m.must(logical.ReadOperation, "creds/bearer", nil)
	m.must(logical.UpdateOperation, "roles/bearer", map[string]any{"bound_cidrs": "10.0.0.0/8"})
	if _, err := m.renew(issued.Secret); err != nil {
		t.Errorf("a role that allows more refuses to renew: %v", err)
	}
}

func TestEmptyIsNotLeftOut(t *testing.T) {
	m := newMount(t).withRoles()
	token := m.must(logical.ReadOperation, "creds/bearer", nil).Data["token"].(string)
	for _, data := range []map[string]any{{"audience": ""}, {"client_ip": ""}} {
		data["token"] = token
		m.refused(logical.UpdateOperation, "introspect", data)
	}
	for _, cnf := range []any{map[string]any{}, []any{}, "", map[string]any{"jkt": strings.Repeat("A", 42) + "\n"}, map[string]any{"jkt": strings.Repeat("A", 43) + "\n"}} {
		m.refused(logical.UpdateOperation, "creds/bearer", map[string]any{"cnf": cnf})
	}
	m.refused(logical.UpdateOperation, "creds/bearer", map[string]any{"metadata": map[string]any{"a": true}})
}

func TestTTLChangesOnlyWhenNamed(t *testing.T) {
	m := newMount(t).withRoles()
	m.refused(logical.UpdateOperation, "roles/bearer", map[string]any{"max_ttl": "10m"})
	m.must(logical.UpdateOperation, "roles/bearer", map[string]any{"max_ttl": "10m", "ttl": "5m"})
	m.must(logical.PatchOperation, "roles/bearer", map[string]any{"ttl": nil})
	if ttl := m.must(logical.ReadOperation, "roles/bearer", nil).Data["ttl"]; ttl != int64(600) {
		t.Errorf("reset to %v, want the default, cut to max_ttl", ttl)
	}
	m.must(logical.CreateOperation, "roles/short", map[string]any{"token_type": "bearer", "max_ttl": "10m"})
}

func TestSubjects(t *testing.T) {
	m := newMount(t).withRoles()
	m.must(logical.UpdateOperation, "roles/bearer", map[string]any{"subject": "svc:{{identity.entity.name}}"})
	token := m.must(logical.ReadOperation, "creds/bearer", nil).Data["token"].(string)
	if sub := m.must(logical.UpdateOperation, "introspect", map[string]any{"token": token}).Data["sub"]; sub != "svc:billing" {
		t.Errorf("subject is %v", sub)
	}
	for _, bad := range []string{"a\nb", "a\u009bb", "a\u202eb", "a\u2028b", "\xff"} {
		m.refused(logical.UpdateOperation, "roles/bearer", map[string]any{"subject": bad})
	}
	m.must(logical.UpdateOperation, "roles/bearer", map[string]any{"subject": strings.Repeat("x", 600)})
	m.refused(logical.ReadOperation, "creds/bearer", nil)
}

func TestVersionsOfAKeyAreBounded(t *testing.T) {
	m := newMount(t).withRoles()
	for range 98 {
		m.must(logical.UpdateOperation, "keys/default/rotate", nil)
	}
	m.refused(logical.UpdateOperation, "keys/default/rotate", nil)
	m.clock.Advance(2 * time.Hour)
	m.periodic()
	m.must(logical.UpdateOperation, "keys/default/rotate", nil)
}

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
	before := m.storage.reads.Load()
	if ids := m.published(); len(ids) != 8 {
		t.Errorf("%d keys are published, want 8", len(ids))
	}
	m.issueJWT()
	if reads := m.storage.reads.Load() - before; reads != 0 {
		t.Errorf("%d reads", reads)
	}
	restarted := newMountOn(m)
	if a, b := m.published(), restarted.published(); !slices.Equal(a, b) {
		t.Errorf("published are %v, and after a restart %v", a, b)
	}
}

func TestLogTellsTheEndOfEachTokenOnce(t *testing.T) {
	m := newMount(t).withRoles()
	m.must(logical.UpdateOperation, "roles/bearer", map[string]any{"generate_lease": false})
	unleased := m.must(logical.ReadOperation, "creds/bearer", nil).Data["token_id"].(string)
	possessed := m.must(logical.ReadOperation, "creds/jwt", nil)
	m.must(logical.UpdateOperation, "revoke", map[string]any{"token": possessed.Data["token"]})
	m.clock.Advance(16 * time.Minute)
	if err := m.revoke(possessed.Secret); err != nil {
		t.Fatal(err)
	}
	m.clock.Advance(2 * time.Hour)
	for range 62 {
		m.periodic()
	}
	m.must(logical.DeleteOperation, "roles/never", nil)
	log := m.log.String()
	for text, want := range map[string]int{
		"token expired: token_id=" + unleased:                            1,
		"token revoked: token_id=" + possessed.Data["token_id"].(string): 1,
		"token expired: token_id=" + possessed.Data["token_id"].(string): 0,
		"role deleted": 0,
	} {
		if n := strings.Count(log, text); n != want {
			t.Errorf("%q is in the log %d times, want %d", text, n, want)
		}
	}
}

// newMountOn is the same mount as another node sees it.
func newMountOn(m *mount) *mount {
	other := *m
	other.restart()
	return &other
}

func (m *mount) statusURI(token string) string {
	m.t.Helper()
	status := m.claims(token)["status"].(map[string]any)["status_list"].(map[string]any)
	if !slices.Equal(slices.Sorted(maps.Keys(status)), []string{"idx", "uri"}) {
		m.t.Errorf("status_list is %v", status)
	}
	return status["uri"].(string)
}
