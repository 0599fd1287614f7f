package tokens

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/golang-jwt/jwt/v5"
	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/vault/sdk/helper/testhelpers/schema"
	"github.com/hashicorp/vault/sdk/logical"

	"github.com/vault-tokens/vault-plugin-secrets-tokens/backend/keyring"
	"github.com/vault-tokens/vault-plugin-secrets-tokens/backend/store/storetest"
	"github.com/vault-tokens/vault-plugin-secrets-tokens/verify/format"
)

const testIssuer = "https://vault.example.com/v1/tokens"

// mount is one mount of the engine in this process, on a storage that counts
// and can fail, at a time that the test sets. Everything that only a real
// Vault can show is tested in test/.
type mount struct {
	t       *testing.T
	backend *tokensBackend
	storage *storetest.Storage
	clock   *testClock
	log     *lockedBuffer
	system  *logical.StaticSystemView
}

func newMount(t *testing.T) *mount {
	t.Helper()
	m := &mount{
		t:       t,
		storage: &storetest.Storage{},
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
	return m.doWith(context.Background(), operation, path, data)
}

func (m *mount) doWith(ctx context.Context, operation logical.Operation, path string, data map[string]any) (*logical.Response, error) {
	m.t.Helper()
	req := &logical.Request{
		Operation: operation, Path: path, Data: maps.Clone(data), Storage: m.storage,
		EntityID: "entity-1", DisplayName: "approle-billing",
	}
	resp, err := m.backend.HandleRequest(ctx, req)
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

// row is a request of a door's table, with its answer.
type row struct {
	operation logical.Operation
	path      string
	data      map[string]any
	want      map[string]any // the answer's data; nil: it has none
	warning   string         // a part of it; empty: there is none
	refused   string         // the field that a refusal names; empty: it is not refused
}

// answers sends the requests of a table, one after the other.
func (m *mount) answers(rows []row) {
	m.t.Helper()
	for i, r := range rows {
		name := fmt.Sprintf("%d: %s %s %v", i, r.operation, r.path, r.data)
		if r.refused != "" {
			if message := m.refused(r.operation, r.path, r.data); !strings.HasPrefix(message, r.refused+": ") {
				m.t.Errorf("%s: refused with %q, want field %s", name, message, r.refused)
			}
			continue
		}
		resp := m.must(r.operation, r.path, r.data)
		if resp == nil {
			resp = &logical.Response{}
		}
		if !reflect.DeepEqual(resp.Data, r.want) {
			m.t.Errorf("%s: answered\n%#v, want\n%#v", name, resp.Data, r.want)
		}
		if warnings := strings.Join(resp.Warnings, "; "); (warnings == "") != (r.warning == "") || !strings.Contains(warnings, r.warning) {
			m.t.Errorf("%s: warned %q, want %q", name, warnings, r.warning)
		}
	}
}

// fails sends a request while the storage fails as each of the hooks says, and
// once for a caller that is gone, with nothing in memory. Each must end in an
// error that is no mistake of the caller, and no panic. Then the same request
// must succeed.
func (m *mount) fails(operation logical.Operation, path string, data map[string]any, hooks ...storetest.Hook) (succeeded int) {
	m.t.Helper()
	gone, cancel := context.WithCancel(context.Background())
	cancel()
	for i, hook := range append(hooks, nil) {
		m.restart()
		ctx := context.Background()
		if hook == nil {
			ctx = gone
		} else {
			m.storage.Before(hook)
		}
		resp, err := m.doWith(ctx, operation, path, data)
		m.storage.Heal()
		if hook == nil && err == nil && !resp.IsError() {
			succeeded++ // what has begun goes on
			continue
		}
		if resp != nil || !errors.Is(err, storetest.ErrInjected) && !errors.Is(err, context.Canceled) {
			m.t.Errorf("%s %s, fault %d: answered %v, %v", operation, path, i, resp, err)
		}
	}
	m.must(operation, path, data)
	return succeeded + 1
}

// unread and unwritten are hooks that fail reads and writes below a prefix.
func unread(prefix string) storetest.Hook {
	return storetest.Fail(prefix, storetest.Get, storetest.List)
}

func unwritten(prefix string) storetest.Hook {
	return storetest.Fail(prefix, storetest.Put, storetest.Delete)
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

// published returns the ids of the keys in the JWKS.
func (m *mount) published() []string {
	m.t.Helper()
	var set jose.JSONWebKeySet
	if err := json.Unmarshal(m.must(logical.ReadOperation, "jwks", nil).Data[logical.HTTPRawBody].([]byte), &set); err != nil {
		m.t.Fatal(err)
	}
	ids := []string{}
	for _, key := range set.Keys {
		if !key.IsPublic() || !key.Valid() {
			m.t.Errorf("key %s is not a valid public key", key.KeyID)
		}
		ids = append(ids, key.KeyID)
	}
	return ids
}

func (m *mount) periodic() {
	m.t.Helper()
	if err := m.backend.periodic(context.Background(), &logical.Request{Storage: m.storage}); err != nil {
		m.t.Fatal(err)
	}
}

// signing returns the version that signs, which no caller of Vault can have.
func (m *mount) signing() *keyring.Version {
	m.t.Helper()
	key, err := m.backend.engine.Keys.Get(context.Background(), m.storage, "default")
	if err != nil {
		m.t.Fatal(err)
	}
	version, err := key.Signing()
	if err != nil {
		m.t.Fatal(err)
	}
	return version
}

func (m *mount) claims(token string) jwt.MapClaims {
	m.t.Helper()
	var claims jwt.MapClaims
	if _, _, err := jwt.NewParser().ParseUnverified(token, &claims); err != nil {
		m.t.Fatal(err)
	}
	return claims
}

func (m *mount) issueJWT() (token, kid string) {
	m.t.Helper()
	token = m.must(logical.ReadOperation, "creds/jwt", nil).Data["token"].(string)
	parsed, _, err := jwt.NewParser().ParseUnverified(token, jwt.MapClaims{})
	if err != nil {
		m.t.Fatal(err)
	}
	return token, parsed.Header["kid"].(string)
}

// decodeStatusList verifies a Status List Token as a verifier would, and
// returns the indexes that are revoked.
func (m *mount) decodeStatusList(body, uri string) map[int]bool {
	m.t.Helper()
	var set jose.JSONWebKeySet
	if err := json.Unmarshal(m.must(logical.ReadOperation, "jwks", nil).Data[logical.HTTPRawBody].([]byte), &set); err != nil {
		m.t.Fatal(err)
	}
	var claims struct {
		jwt.RegisteredClaims
		TTL        int64 `json:"ttl"`
		StatusList struct {
			Bits int    `json:"bits"`
			List string `json:"lst"`
		} `json:"status_list"`
	}
	token, err := jwt.NewParser(jwt.WithTimeFunc(m.clock.Now), jwt.WithExpirationRequired(), jwt.WithSubject(uri)).ParseWithClaims(body, &claims, func(token *jwt.Token) (any, error) {
		return set.Key(token.Header["kid"].(string))[0].Key, nil
	})
	if err != nil {
		m.t.Fatal(err)
	}
	if token.Header["typ"] != "statuslist+jwt" || claims.TTL != 5 || claims.IssuedAt == nil {
		m.t.Errorf("header %v, claims %+v", token.Header, claims)
	}
	list, err := format.DecodeStatusList(claims.StatusList.Bits, claims.StatusList.List, 1<<20)
	if err != nil {
		m.t.Fatal(err)
	}
	revoked := map[int]bool{}
	for i := range list.Len() {
		if status, _ := list.Get(i); status != format.StatusValid {
			revoked[i] = true
		}
	}
	return revoked
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

// raw reads a path that needs no Vault token, and holds what is answered
// besides the body.
func (m *mount) raw(path, contentType string, minAge, maxAge time.Duration) (body, tag string) {
	m.t.Helper()
	// A parameter that is there to avoid a cache changes nothing.
	resp := m.must(logical.ReadOperation, path, map[string]any{"nonce": "1"})
	if resp == nil || resp.Data[logical.HTTPStatusCode] != 200 || resp.Data[logical.HTTPContentType] != contentType {
		m.t.Fatalf("%s: %+v", path, resp)
	}
	var age int
	if _, err := fmt.Sscanf(resp.Data[logical.HTTPCacheControlHeader].(string), "public, max-age=%d", &age); err != nil || age < int(minAge.Seconds()) || age > int(maxAge.Seconds()) {
		m.t.Errorf("%s: Cache-Control %v, %v", path, resp.Data[logical.HTTPCacheControlHeader], err)
	}
	return string(resp.Data[logical.HTTPRawBody].([]byte)), resp.Headers["ETag"][0]
}

// notModified asks for a path again, with the tag of the copy that is there.
func (m *mount) notModified(path, tag string) {
	m.t.Helper()
	for header, want := range map[string]int{tag: 304, `"other"`: 200, "": 200} {
		resp, err := m.backend.HandleRequest(context.Background(), &logical.Request{
			Operation: logical.ReadOperation, Path: path, Storage: m.storage, Headers: map[string][]string{"If-None-Match": {header}},
		})
		if err != nil {
			m.t.Fatal(err)
		}
		_, hasBody := resp.Data[logical.HTTPRawBody]
		if resp.Data[logical.HTTPStatusCode] != want || hasBody != (want == 200) || resp.Headers["ETag"][0] != tag {
			m.t.Errorf("%s, If-None-Match %s: status %v, a body %v, ETag %v; want %d", path, header, resp.Data[logical.HTTPStatusCode], hasBody, resp.Headers["ETag"], want)
		}
	}
}
