package tokens

import (
	"bytes"
	"context"
	"errors"
	"reflect"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/vault/sdk/framework"
	"github.com/hashicorp/vault/sdk/helper/testhelpers/schema"
	"github.com/hashicorp/vault/sdk/logical"
)

const testIssuer = "https://vault.example.com/v1/tokens"

// mount is one mount of the engine in this process, on a storage that counts
// and can fail, at a time that the test sets. Everything that only a real
// Vault can show is tested in test/.
type mount struct {
	t       *testing.T
	backend *tokensBackend
	storage *countingStorage
	clock   *testClock
	log     *lockedBuffer
	system  *logical.StaticSystemView
}

func newMount(t *testing.T) *mount {
	t.Helper()
	m := &mount{
		t:       t,
		storage: &countingStorage{Storage: &logical.InmemStorage{}},
		clock:   &testClock{now: time.Now()},
		log:     &lockedBuffer{},
		system: &logical.StaticSystemView{
			DefaultLeaseTTLVal: 24 * time.Hour,
			MaxLeaseTTLVal:     32 * 24 * time.Hour,
			EntityVal:          &logical.Entity{ID: "entity-1", Name: "billing", Metadata: map[string]string{"team": "payments"}},
			GroupsVal:          []*logical.Group{{ID: "group-1", Name: "services"}},
		},
	}
	m.restart()
	return m
}

// restart gives the mount a new backend on the same storage.
func (m *mount) restart() {
	m.t.Helper()
	b, err := newBackend(context.Background(), &logical.BackendConfig{
		Logger:      hclog.New(&hclog.LoggerOptions{Output: m.log, Level: hclog.Trace}),
		System:      m.system,
		StorageView: m.storage,
	}, m.clock.Now)
	if err != nil {
		m.t.Fatal(err)
	}
	m.backend = b
}

// do sends a request and returns the answer, which it holds against the
// declared schema.
func (m *mount) do(operation logical.Operation, path string, data map[string]any) (*logical.Response, error) {
	m.t.Helper()
	req := &logical.Request{
		Operation: operation, Path: path, Data: data, Storage: m.storage,
		EntityID: "entity-1", DisplayName: "approle-billing",
	}
	resp, err := m.backend.HandleRequest(context.Background(), req)
	if err == nil && !resp.IsError() && (resp == nil || resp.Data[logical.HTTPRawBody] == nil) {
		declared := schema.GetResponseSchema(m.t, m.backend.Route(path), operation)
		schema.ValidateResponse(m.t, declared, resp, true)
	}
	return resp, err
}

// must is do for a request that has to succeed.
func (m *mount) must(operation logical.Operation, path string, data map[string]any) *logical.Response {
	m.t.Helper()
	resp, err := m.do(operation, path, data)
	if err != nil || resp.IsError() {
		m.t.Fatalf("%s %s: %v %v", operation, path, err, resp)
	}
	return resp
}

// refused is do for a request that has to be refused; it returns the message.
func (m *mount) refused(operation logical.Operation, path string, data map[string]any) string {
	m.t.Helper()
	resp, err := m.do(operation, path, data)
	if err != nil || !resp.IsError() {
		m.t.Fatalf("%s %s: not refused: %v %v", operation, path, err, resp)
	}
	return resp.Error().Error()
}

func (m *mount) active(token string) bool {
	m.t.Helper()
	resp := m.must(logical.UpdateOperation, "introspect", map[string]any{"token": token})
	return resp.Data["active"].(bool)
}

// renew and revoke do to an issued token what Vault does to its lease.
func (m *mount) renew(secret *logical.Secret) (*logical.Response, error) {
	return m.backend.HandleRequest(context.Background(), &logical.Request{Operation: logical.RenewOperation, Storage: m.storage, Secret: secret})
}

func (m *mount) revoke(secret *logical.Secret) error {
	_, err := m.backend.HandleRequest(context.Background(), &logical.Request{Operation: logical.RevokeOperation, Storage: m.storage, Secret: secret})
	return err
}

// withRoles configures the mount and writes one role of each kind, named like
// its kind.
func (m *mount) withRoles() *mount {
	m.t.Helper()
	m.must(logical.UpdateOperation, "config", map[string]any{"issuer": testIssuer})
	for _, kind := range []string{"api_key", "bearer", "jwt"} {
		m.must(logical.CreateOperation, "roles/"+kind, map[string]any{
			"token_type":     kind,
			"allowed_scopes": []any{"orders:*"},
			"default_scopes": []any{"orders:read"},
			"audiences":      []any{"https://api.example.com"},
		})
	}
	return m
}

type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lockedBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lockedBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

type testClock struct {
	mu  sync.Mutex
	now time.Time
}

func (c *testClock) Now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.now
}

func (c *testClock) Advance(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.now = c.now.Add(d)
}

var errInjected = errors.New("injected storage failure")

// countingStorage counts operations, and fails writes when told to.
type countingStorage struct {
	logical.Storage
	reads, writes atomic.Int64
	failWrites    atomic.Bool
	afterPut      func(key string) // if not nil
}

func (s *countingStorage) List(ctx context.Context, prefix string) ([]string, error) {
	s.reads.Add(1)
	return s.Storage.List(ctx, prefix)
}

func (s *countingStorage) Get(ctx context.Context, key string) (*logical.StorageEntry, error) {
	s.reads.Add(1)
	return s.Storage.Get(ctx, key)
}

func (s *countingStorage) Put(ctx context.Context, entry *logical.StorageEntry) error {
	s.writes.Add(1)
	if s.failWrites.Load() {
		return errInjected
	}
	err := s.Storage.Put(ctx, entry)
	if s.afterPut != nil {
		s.afterPut(entry.Key)
	}
	return err
}

func (s *countingStorage) Delete(ctx context.Context, key string) error {
	s.writes.Add(1)
	if s.failWrites.Load() {
		return errInjected
	}
	return s.Storage.Delete(ctx, key)
}

// The budget of storage operations decides the engine's speed: each is a call
// to Vault's process, and each write a commit on every node.
func TestStorageBudget(t *testing.T) {
	t.Run("nothing configured", func(t *testing.T) {
		m := newMount(t)
		m.must(logical.CreateOperation, "roles/a", map[string]any{"token_type": "bearer"})
		m.must(logical.ReadOperation, "creds/a", nil)
		reads := m.storage.reads.Load()
		m.active(m.must(logical.ReadOperation, "creds/a", nil).Data["token"].(string))
		m.do(logical.ReadOperation, ".well-known/openid-configuration", nil)
		m.do(logical.ReadOperation, "status/0000000000000000000000", nil)
		m.do(logical.ReadOperation, "status/0000000000000000000001", nil)
		if n := m.storage.reads.Load() - reads; n > 1 {
			t.Errorf("%d reads, want at most the one that loads the status lists", n)
		}
	})
	for _, kind := range []string{"api_key", "bearer", "jwt"} {
		t.Run(kind, func(t *testing.T) {
			m := newMount(t).withRoles()
			warm := m.must(logical.ReadOperation, "creds/"+kind, nil)
			m.active(warm.Data["token"].(string))
			m.must(logical.ReadOperation, "jwks", nil)
			opaque := kind != "jwt"

			count := func(what string, reads, writes int64, do func()) {
				t.Helper()
				readsBefore, writesBefore := m.storage.reads.Load(), m.storage.writes.Load()
				do()
				if r, w := m.storage.reads.Load()-readsBefore, m.storage.writes.Load()-writesBefore; r != reads || w != writes {
					t.Errorf("%s: %d reads and %d writes, want %d and %d", what, r, w, reads, writes)
				}
			}
			choose := func(ifOpaque, ifJWT int64) int64 {
				if opaque {
					return ifOpaque
				}
				return ifJWT
			}

			var issued *logical.Response
			count("creds", 0, choose(1, 0), func() { issued = m.must(logical.ReadOperation, "creds/"+kind, nil) })
			token := issued.Data["token"].(string)
			count("introspect, in memory", 0, 0, func() { m.active(token) })
			if opaque {
				m.backend.engine.Invalidate("token/" + token[len(token)-50:len(token)-49] + "/" + issued.Data["token_id"].(string))
				count("introspect, not in memory", 1, 0, func() { m.active(token) })
				count("renew", 1, 1, func() { m.renew(issued.Secret) })
			}
			count("revoke", 0, 1, func() { m.revoke(issued.Secret) })
			count("introspect, revoked", choose(1, 0), 0, func() {
				if m.active(token) {
					t.Error("active after revoke")
				}
			})
			count("revoke again", choose(1, 0), 0, func() { m.revoke(issued.Secret) })
			count("jwks", 0, 0, func() { m.must(logical.ReadOperation, "jwks", nil) })

			expired := m.must(logical.ReadOperation, "creds/"+kind, nil)
			m.clock.Advance(25 * time.Hour)
			count("revoke, expired", 0, choose(1, 0), func() { m.revoke(expired.Secret) })
		})
	}
}

func TestJWTIssueWritesOncePerBlock(t *testing.T) {
	m := newMount(t).withRoles()
	m.must(logical.ReadOperation, "creds/jwt", nil)
	before := m.storage.writes.Load()
	for range 5000 {
		m.must(logical.ReadOperation, "creds/jwt", nil)
	}
	if writes := m.storage.writes.Load() - before; writes != 1 {
		t.Errorf("5000 JWTs took %d writes, want 1", writes)
	}
}

// Whatever the storage does when a token is revoked, its holder must never be
// told that a revocation held which did not.
func TestFailedWrites(t *testing.T) {
	for _, kind := range []string{"api_key", "jwt"} {
		t.Run(kind, func(t *testing.T) {
			m := newMount(t).withRoles()
			issued := m.must(logical.ReadOperation, "creds/"+kind, nil)
			token := issued.Data["token"].(string)

			m.storage.failWrites.Store(true)
			if m.revoke(issued.Secret) == nil {
				t.Error("revoke succeeded on a storage that fails")
			}
			if kind == "api_key" {
				if resp, err := m.do(logical.ReadOperation, "creds/"+kind, nil); err == nil {
					t.Errorf("issued on a storage that fails: %v", resp.Data["token_id"])
				}
				if _, err := m.renew(issued.Secret); err == nil {
					t.Error("renewed on a storage that fails")
				}
			}
			m.storage.failWrites.Store(false)
			if !m.active(token) {
				t.Error("inactive, although nothing was revoked")
			}
			if err := m.revoke(issued.Secret); err != nil {
				t.Error(err)
			}
			if m.active(token) {
				t.Error("active after revoke")
			}
		})
	}
}

func TestRestart(t *testing.T) {
	for _, kind := range []string{"api_key", "jwt"} {
		t.Run(kind, func(t *testing.T) {
			m := newMount(t).withRoles()
			kept := m.must(logical.ReadOperation, "creds/"+kind, nil).Data["token"].(string)
			gone := m.must(logical.ReadOperation, "creds/"+kind, nil)
			if err := m.revoke(gone.Secret); err != nil {
				t.Fatal(err)
			}
			m.restart()
			if !m.active(kept) {
				t.Error("a token issued before is inactive")
			}
			if m.active(gone.Data["token"].(string)) {
				t.Error("a token revoked before is active")
			}
		})
	}
}

// The cached record must not outlive its own expiry, whatever the lease does.
func TestExpiryWithoutLease(t *testing.T) {
	for _, kind := range []string{"api_key", "bearer", "jwt"} {
		m := newMount(t).withRoles()
		issued := m.must(logical.UpdateOperation, "creds/"+kind, map[string]any{"ttl": "10s"})
		token := issued.Data["token"].(string)
		m.clock.Advance(9 * time.Second)
		if !m.active(token) {
			t.Errorf("%s: inactive before its expiry", kind)
		}
		m.clock.Advance(time.Second)
		if m.active(token) {
			t.Errorf("%s: active after its expiry", kind)
		}
	}
}

func TestMaxTokens(t *testing.T) {
	m := newMount(t).withRoles()
	m.must(logical.UpdateOperation, "roles/bearer", map[string]any{"max_tokens": 2})
	first := m.must(logical.ReadOperation, "creds/bearer", nil)
	m.must(logical.ReadOperation, "creds/bearer", nil)
	m.refused(logical.ReadOperation, "creds/bearer", nil)

	m.restart()
	m.refused(logical.ReadOperation, "creds/bearer", nil)
	if err := m.revoke(first.Secret); err != nil {
		t.Fatal(err)
	}
	m.must(logical.ReadOperation, "creds/bearer", nil)
	m.refused(logical.ReadOperation, "creds/bearer", nil)

	m.clock.Advance(time.Hour)
	m.must(logical.ReadOperation, "creds/bearer", nil)
}

func TestTidyRemovesExpiredRecordsOnly(t *testing.T) {
	m := newMount(t).withRoles()
	m.must(logical.UpdateOperation, "roles/bearer", map[string]any{"generate_lease": false})
	for range 20 {
		m.must(logical.UpdateOperation, "creds/bearer", map[string]any{"ttl": "1m"})
	}
	kept := m.must(logical.ReadOperation, "creds/api_key", nil)
	m.clock.Advance(2 * time.Minute)
	for range 62 {
		if err := m.backend.periodic(context.Background(), &logical.Request{Storage: m.storage}); err != nil {
			t.Fatal(err)
		}
	}
	keys := m.must(logical.ListOperation, "tokens/", nil).Data["keys"].([]string)
	if len(keys) != 1 || keys[0] != kept.Data["token_id"] {
		t.Errorf("after tidying: %v, want only %v", keys, kept.Data["token_id"])
	}
}

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

// A renewal and a revocation of one token that run at once must never leave it
// alive.
func TestRenewDoesNotResurrect(t *testing.T) {
	m := newMount(t).withRoles()
	for range 50 {
		issued := m.must(logical.ReadOperation, "creds/bearer", nil)
		secret := *issued.Secret
		var wg sync.WaitGroup
		wg.Go(func() { m.renew(&secret) })
		wg.Go(func() { m.revoke(issued.Secret) })
		wg.Go(func() { m.active(issued.Data["token"].(string)) })
		wg.Wait()
		if m.active(issued.Data["token"].(string)) {
			t.Fatal("active after revoke")
		}
	}
}

func TestPartialWriteKeepsTheRest(t *testing.T) {
	m := newMount(t).withRoles()
	m.must(logical.UpdateOperation, "roles/bearer", map[string]any{"max_ttl": "2h", "metadata": map[string]any{"team": "payments"}, "generate_lease": false})
	before := m.must(logical.ReadOperation, "roles/bearer", nil).Data
	m.must(logical.UpdateOperation, "roles/bearer", map[string]any{"ttl": "5m"})
	after := m.must(logical.ReadOperation, "roles/bearer", nil).Data
	before["ttl"] = int64(300)
	for name, want := range before {
		if got := after[name]; !deepEqual(got, want) {
			t.Errorf("%s is %v, want %v", name, got, want)
		}
	}
	m.must(logical.PatchOperation, "roles/bearer", map[string]any{"max_ttl": nil, "metadata": nil, "generate_lease": nil, "ttl": nil})
	reset := m.must(logical.ReadOperation, "roles/bearer", nil).Data
	for name, want := range map[string]any{"max_ttl": int64(0), "metadata": map[string]any{}, "generate_lease": true, "ttl": int64(3600)} {
		if got := reset[name]; !deepEqual(got, want) {
			t.Errorf("after reset %s is %v, want %v", name, got, want)
		}
	}
}

func TestRolesAreOneTable(t *testing.T) {
	m := newMount(t).withRoles()
	shown := m.must(logical.ReadOperation, "roles/jwt", nil).Data
	declared := map[string]*framework.FieldSchema{}
	for _, path := range m.backend.pathRoles() {
		for name, field := range path.Fields {
			declared[name] = field
		}
	}
	for name := range declared {
		if _, ok := shown[name]; !ok && name != "name" {
			t.Errorf("field %s can be written but is not shown", name)
		}
	}
}

func TestPanicIsAnError(t *testing.T) {
	m := newMount(t)
	for _, path := range m.backend.Paths {
		if path.Pattern == "config" {
			path.Operations[logical.ReadOperation] = &framework.PathOperation{
				Callback: func(context.Context, *logical.Request, *framework.FieldData) (*logical.Response, error) {
					panic("on purpose")
				},
			}
		}
	}
	// Routed anew, since patterns are compiled on first use.
	if _, err := m.backend.HandleRequest(context.Background(), &logical.Request{Operation: logical.ReadOperation, Path: "config", Storage: m.storage}); err == nil {
		t.Error("a panic passed for an answer")
	}
}

func deepEqual(a, b any) bool { return reflect.DeepEqual(a, b) }

// A token in a field where none belongs must not come back in the error, which
// stands in the audit log in clear.
func TestMisplacedTokenIsNotRepeated(t *testing.T) {
	m := newMount(t).withRoles()
	for _, kind := range []string{"api_key", "jwt"} {
		token := m.must(logical.ReadOperation, "creds/"+kind, nil).Data["token"].(string)
		for path, data := range map[string]map[string]any{
			"creds/api_key":  {"scopes": token},
			"creds/bearer":   {"audience": token, "metadata": map[string]any{"a": "b"}},
			"creds/jwt":      {token: "x"},
			"creds/" + token: nil,
			"roles/" + token: {"ttl": 1},
			"roles/jwt":      {"bound_cidrs": token},
			"roles/bearer":   {"default_scopes": []any{token}},
			"introspect":     {"token": token, "required_scopes": token + " x"},
			"revoke":         {"token": map[string]any{"token": token}},
		} {
			message := m.refused(logical.UpdateOperation, strings.TrimSuffix(path, "?"), data)
			if strings.Contains(message, token[len(token)-30:]) {
				t.Errorf("%.12s: %s", path, message)
			}
			for _, part := range []string{token[20:40], token[40:60]} {
				if strings.Contains(m.log.String(), part) {
					t.Fatalf("%.12s: a part of the token is in the log", path)
				}
			}
		}
	}
}
