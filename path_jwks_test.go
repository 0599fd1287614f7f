package tokens

import (
	"context"
	"slices"
	"strings"
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

// What anybody may fetch is made once per change, entity tag included, and not
// once per request.
func TestPublishedDocumentsAreMadeOnce(t *testing.T) {
	m := newMount(t).withRoles()
	read := func(path string) (body []byte, tag string) {
		t.Helper()
		resp := m.must(logical.ReadOperation, path, nil)
		return resp.Data[logical.HTTPRawBody].([]byte), resp.Headers["ETag"][0]
	}
	for path, algorithm := range map[string]string{"jwks": "ES256", pathOpenIDConfiguration: "EdDSA", pathOAuthServer: "ES384"} {
		body, tag := read(path)
		if again, _ := read(path); &body[0] != &again[0] {
			t.Errorf("%s is made anew", path)
		}
		m.must(logical.CreateOperation, "keys/"+algorithm, map[string]any{"algorithm": algorithm})
		changed, changedTag := read(path)
		if string(changed) == string(body) || changedTag == tag {
			t.Errorf("%s is not made anew after a change", path)
		}
		resp, err := m.backend.HandleRequest(context.Background(), &logical.Request{Operation: logical.ReadOperation, Path: path, Storage: m.storage, Headers: map[string][]string{"If-None-Match": {changedTag}}})
		if err != nil || resp.Data[logical.HTTPStatusCode] != 304 || resp.Data[logical.HTTPRawBody] != nil {
			t.Errorf("%s: answered with %v, %v to who has it", path, resp, err)
		}
	}
	m.must(logical.UpdateOperation, "config", map[string]any{"issuer": "https://other.example.com"})
	if body, _ := read(pathOpenIDConfiguration); !strings.Contains(string(body), "other.example.com") {
		t.Errorf("the metadata are %s", body)
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
	m.must(logical.UpdateOperation, "keys/default/rotate", map[string]any{"force": true})
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
