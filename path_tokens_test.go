package tokens

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/vault/sdk/logical"

	"github.com/vault-tokens/vault-plugin-secrets-tokens/backend/store/storetest"
	"github.com/vault-tokens/vault-plugin-secrets-tokens/backend/token"
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
		next, more := resp.Data["next"]
		if more != (len(resp.Warnings) == 1) || more && next != after {
			t.Fatalf("page %d ends with %s, its next is %v, and its warnings are %q", page, after, next, resp.Warnings)
		}
		if !more {
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
		if op != storetest.Put || !strings.HasPrefix(key, "token/") {
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

func TestTokens(t *testing.T) {
	m := newMount(t).withRoles()
	m.must(logical.UpdateOperation, "roles/api_key", map[string]any{"bound_cidrs": "10.0.0.0/8", "metadata": map[string]any{"team": "payments"}})
	issued := m.must(logical.ReadOperation, "creds/api_key", nil).Data
	id, token := issued["token_id"].(string), issued["token"].(string)
	signed := m.must(logical.ReadOperation, "creds/jwt", nil).Data["token_id"].(string)
	shown := map[string]any{
		"subject": "entity-1", "client_id": "entity-1", "entity_id": "entity-1", "display_name": "approle-billing", "bound_cidrs": []string{"10.0.0.0/8"},
	}
	for _, name := range []string{"token_id", "token_type", "role", "scopes", "scope", "audience", "issued_at", "expires_at", "metadata"} {
		shown[name] = issued[name]
	}
	info := map[string]any{}
	for _, name := range []string{"token_type", "role", "entity_id", "display_name", "issued_at", "expires_at"} {
		info[name] = shown[name]
	}
	listed := map[string]any{"keys": []string{id}, "key_info": map[string]any{id: info}}
	expiry := issued["expires_at"].(string)
	const nothing = "nothing was revoked"
	m.answers([]row{
		{operation: logical.ListOperation, path: "tokens/", want: listed},
		{operation: logical.ListOperation, path: "tokens/", data: map[string]any{"role": "api_key", "entity_id": "entity-1", "token_type": "api_key", "expires_before": "2999-01-01T00:00:00+01:00"}, want: listed},
		{operation: logical.ListOperation, path: "tokens/", data: map[string]any{"role": "bearer"}, want: map[string]any{}},
		{operation: logical.ListOperation, path: "tokens/", data: map[string]any{"entity_id": "entity-2"}, want: map[string]any{}},
		{operation: logical.ListOperation, path: "tokens/", data: map[string]any{"token_type": "bearer"}, want: map[string]any{}},
		{operation: logical.ListOperation, path: "tokens/", data: map[string]any{"expires_before": expiry}, want: map[string]any{}},
		{operation: logical.ListOperation, path: "tokens/", data: map[string]any{"expires_before": "0001-01-01T00:00:00Z"}, want: map[string]any{}},
		{operation: logical.ListOperation, path: "tokens/", data: map[string]any{"role": ""}, refused: "role"},
		{operation: logical.ListOperation, path: "tokens/", data: map[string]any{"role": "a/b"}, refused: "role"},
		{operation: logical.ListOperation, path: "tokens/", data: map[string]any{"entity_id": ""}, refused: "entity_id"},
		{operation: logical.ListOperation, path: "tokens/", data: map[string]any{"token_type": ""}, refused: "token_type"},
		{operation: logical.ListOperation, path: "tokens/", data: map[string]any{"token_type": "apikey"}, refused: "token_type"},
		{operation: logical.ListOperation, path: "tokens/", data: map[string]any{"expires_before": ""}, refused: "expires_before"},
		{operation: logical.ListOperation, path: "tokens/", data: map[string]any{"expires_before": "24h"}, refused: "expires_before"},
		{operation: logical.ListOperation, path: "tokens/", data: map[string]any{"expires_before": "1790000000"}, refused: "expires_before"},
		{operation: logical.ListOperation, path: "tokens/", data: map[string]any{"expires_before": "2027-01-01T00:00:00 01:00"}, refused: "expires_before"},
		{operation: logical.ReadOperation, path: "tokens/" + id, want: shown},
		{operation: logical.ReadOperation, path: "tokens/" + signed}, // of which there is no record
		{operation: logical.ReadOperation, path: "tokens/" + strings.Repeat("0", 22)},
		{operation: logical.ReadOperation, path: "tokens/" + token, refused: "id"},
		{operation: logical.ReadOperation, path: "tokens/x", refused: "id"},
		{operation: logical.ReadOperation, path: "tokens/a/b", refused: "id"},
		{operation: logical.DeleteOperation, path: "tokens/" + token, refused: "id"},
		{operation: logical.DeleteOperation, path: "tokens/" + signed, warning: nothing},
		{operation: logical.DeleteOperation, path: "tokens/" + strings.Repeat("0", 22), warning: nothing},
		{operation: logical.ListOperation, path: "tokens/", data: map[string]any{"limit": 0}, refused: "limit"},
		{operation: logical.ListOperation, path: "tokens/", data: map[string]any{"limit": 1001}, refused: "limit"},
		{operation: logical.ListOperation, path: "tokens/", data: map[string]any{"limit": "many"}, refused: "limit"},
		{operation: logical.ListOperation, path: "tokens/", data: map[string]any{"after": token}, refused: "after"},
		{operation: logical.ListOperation, path: "tokens/", data: map[string]any{"before": id}, refused: "before"},
		{operation: logical.ListOperation, path: "tokens/", data: map[string]any{"after": id, "limit": "1000"}, want: map[string]any{}},
		{operation: logical.DeleteOperation, path: "tokens/" + id},
		{operation: logical.DeleteOperation, path: "tokens/" + id, warning: nothing},
		{operation: logical.ReadOperation, path: "tokens/" + id},
		{operation: logical.ListOperation, path: "tokens/", want: map[string]any{}},
		{operation: logical.UpdateOperation, path: "introspect", data: map[string]any{"token": token}, want: map[string]any{"active": false}},
	})
	expired := m.must(logical.ReadOperation, "creds/bearer", nil).Data["token_id"].(string)
	m.clock.Advance(time.Hour)
	m.answers([]row{
		{operation: logical.ReadOperation, path: "tokens/" + expired},
		{operation: logical.ListOperation, path: "tokens/", want: map[string]any{}},
	})
}

// A page without a match that is not the last one says where to go on.
func TestListOfManyOthers(t *testing.T) {
	m := newMount(t).withRoles()
	ctx := context.Background()
	for range 1100 {
		if _, err := m.backend.engine.Tokens.Issue(ctx, m.storage, token.Request{Role: "bearer"}); err != nil {
			t.Fatal(err)
		}
	}
	want := m.must(logical.ReadOperation, "creds/api_key", nil).Data["token_id"].(string)
	var found []string
	data, pages := map[string]any{"role": "api_key"}, 0
	for ; ; pages++ {
		resp := m.must(logical.ListOperation, "tokens/", data)
		ids, _ := resp.Data["keys"].([]string)
		found = append(found, ids...)
		next, more := resp.Data["next"]
		if !more {
			break
		}
		if len(resp.Warnings) != 1 || !strings.Contains(resp.Warnings[0], "after="+next.(string)) {
			t.Errorf("warnings are %q", resp.Warnings)
		}
		data["after"] = next
	}
	if pages != 1 || !slices.Equal(found, []string{want}) {
		t.Errorf("found %v on %d pages, want %s on the second", found, pages+1, want)
	}
}

// A record that cannot be read is in the list, and can be deleted. A list with
// filters names it, and leaves it out: who deletes what it lists must not delete
// what a newer version wrote.
func TestListOfUnreadable(t *testing.T) {
	m := newMount(t).withRoles()
	id := m.must(logical.ReadOperation, "creds/api_key", nil).Data["token_id"].(string)
	for stored, reason := range map[string]string{`{"format":1,"id":"x","role":{"s3cret":1}}`: "cannot be decoded", `{"format":99}`: "newer version"} {
		if err := m.storage.Put(context.Background(), &logical.StorageEntry{Key: "token/" + id[21:] + "/" + id, Value: []byte(stored)}); err != nil {
			t.Fatal(err)
		}
		m.restart()
		resp := m.must(logical.ListOperation, "tokens/", nil)
		info, _ := resp.Data["key_info"].(map[string]any)[id].(map[string]any)
		if text, _ := info["error"].(string); len(info) != 1 || !strings.Contains(text, reason) || strings.Contains(text, "s3cret") {
			t.Errorf("listed as %v", resp.Data)
		}
		m.answers([]row{{operation: logical.ListOperation, path: "tokens/", data: map[string]any{"role": "api_key"}, want: map[string]any{}, warning: id}})
	}
	m.answers([]row{
		{operation: logical.DeleteOperation, path: "tokens/" + id, warning: "could not be decoded"},
		{operation: logical.ListOperation, path: "tokens/", want: map[string]any{}},
	})
}

// The read of a token shows when introspection last said that it is active. The
// introspection itself reads and writes nothing for it.
func TestLastIntrospectedAt(t *testing.T) {
	m := newMount(t).withRoles()
	issued := m.must(logical.ReadOperation, "creds/api_key", nil)
	token, path := issued.Data["token"].(string), "tokens/"+issued.Data["token_id"].(string)
	want := func(when, at string) {
		t.Helper()
		shown, _ := m.must(logical.ReadOperation, path, nil).Data["last_introspected_at"].(string)
		if shown != at {
			t.Errorf("%s: %q, want %q", when, shown, at)
		}
	}
	introspect := func(data map[string]any, active bool) {
		t.Helper()
		reads, writes := m.storage.Count(func() {
			if resp := m.must(logical.UpdateOperation, "introspect", data); resp.Data["active"] != active {
				t.Errorf("%v", resp.Data)
			}
		})
		if reads+writes != 0 {
			t.Errorf("an introspection costs %d reads and %d writes", reads, writes)
		}
	}
	want("never", "")
	m.must(logical.UpdateOperation, "introspect", map[string]any{"token": m.must(logical.ReadOperation, "creds/jwt", nil).Data["token"]})
	introspect(map[string]any{"token": token, "required_scopes": "admin"}, false)
	want("not active", "")
	introspect(map[string]any{"token": token}, true)
	first := rfc3339(m.clock.Now())
	want("at once", first)
	m.clock.Advance(10 * time.Minute)
	introspect(map[string]any{"token": token, "audience": "other"}, false)
	want("refused since", first)
	m.clock.Advance(time.Hour)
	m.periodic()
	if keys, err := logical.CollectKeysWithPrefix(context.Background(), m.storage, "seen/"); err != nil || len(keys) != 1 {
		t.Errorf("stored are %v, %v, want an entry for the API key, and none for the JWT", keys, err)
	}
	m.restart()
	want("after a restart", first)

	// What is stored of a renewed token is kept for as long as it lives.
	m.clock.Advance(20 * time.Hour)
	m.renew(issued.Secret)
	m.clock.Advance(2 * time.Hour)
	m.periodic()
	record := m.must(logical.ReadOperation, path, nil).Data
	id := record["token_id"].(string)
	ends, err := time.Parse(time.RFC3339, record["expires_at"].(string))
	entry, errStored := m.storage.Get(context.Background(), "seen/"+id[20:])
	if errors.Join(err, errStored) != nil || record["expires_at"] == issued.Data["expires_at"] {
		t.Fatalf("%v, %v, %v", record, err, errStored)
	}
	if !strings.Contains(string(entry.Value), fmt.Sprintf(`"ends":%d`, ends.Unix())) {
		t.Errorf("stored is %s, and it ends at %d", entry.Value, ends.Unix())
	}

	// What is stored of it cannot be read: the token is shown all the same.
	m.restart()
	if err := m.storage.Put(context.Background(), &logical.StorageEntry{Key: "seen/" + id[20:], Value: []byte("{")}); err != nil {
		t.Fatal(err)
	}
	resp := m.must(logical.ReadOperation, path, nil)
	if resp.Data["last_introspected_at"] != nil || len(resp.Warnings) != 1 || resp.Data["token_id"] != id {
		t.Errorf("answered %v, with %q", resp.Data, resp.Warnings)
	}
}

func TestTokensOnFaults(t *testing.T) {
	m := newMount(t).withRoles()
	id := m.must(logical.ReadOperation, "creds/api_key", nil).Data["token_id"].(string)
	m.fails(logical.ListOperation, "tokens/", nil, unread("token/"))
	m.fails(logical.ReadOperation, "tokens/"+id, nil, unread("token/"), unread("seen/"))
	m.fails(logical.DeleteOperation, "tokens/"+id, nil, unwritten("token/"), storetest.Fail("token/", storetest.Get, storetest.Delete))
	if n := strings.Count(m.log.String(), "token revoked: token_id="+id); n != 1 {
		t.Errorf("the log tells of the revocation %d times", n)
	}
}

// The bit of a token was in its record: whoever removes one that cannot be decoded is
// told what that means.
func TestDeleteOfABadRecord(t *testing.T) {
	m := newMount(t).withRoles()
	id := m.must(logical.ReadOperation, "creds/bearer", nil).Data["token_id"].(string)
	m.put("token/"+id[len(id)-1:]+"/"+id, "{")
	m.restart()
	m.answers([]row{
		{operation: logical.DeleteOperation, path: "tokens/" + id, warning: "could not be decoded"},
		{operation: logical.DeleteOperation, path: "tokens/" + id, warning: "no token that has a record"},
	})
}
