package tokens

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"reflect"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"
	"github.com/hashicorp/vault/sdk/logical"
)

func TestStatusList(t *testing.T) {
	m := newMount(t).withRoles()
	kept, _ := m.issueJWT()
	gone := m.must(logical.ReadOperation, "creds/jwt", nil)
	place := func(token string) (list string, index int) {
		t.Helper()
		var claims struct {
			jwt.RegisteredClaims
			Status struct {
				List struct {
					Index int    `json:"idx"`
					URI   string `json:"uri"`
				} `json:"status_list"`
			} `json:"status"`
		}
		if _, _, err := jwt.NewParser().ParseUnverified(token, &claims); err != nil {
			t.Fatal(err)
		}
		return claims.Status.List.URI[len(testIssuer)+1:], claims.Status.List.Index
	}
	path, keptIndex := place(kept)
	_, goneIndex := place(gone.Data["token"].(string))
	fetch := func() (body string, statuses map[int]bool) {
		t.Helper()
		body = string(m.must(logical.ReadOperation, path, nil).Data[logical.HTTPRawBody].([]byte))
		return body, m.decodeStatusList(body, testIssuer+"/"+path)
	}

	const (
		all      = 1 << 17 // indexes of a list
		given    = 1 << 14 // may be given out on it by the process that made it
		reserved = 32      // are its first block
	)
	before, statuses := fetch()
	if len(statuses) != all-given || statuses[goneIndex] {
		t.Errorf("%d are revoked before any was, want what is never given out", len(statuses))
	}
	if again, _ := fetch(); again != before {
		t.Error("signed again although nothing changed")
	}
	if err := m.revoke(gone.Secret); err != nil {
		t.Fatal(err)
	}
	if _, statuses = fetch(); !statuses[goneIndex] || statuses[keptIndex] || len(statuses) != all-given+1 {
		t.Errorf("%d are revoked, want %d as well", len(statuses), goneIndex)
	}
	m.restart()
	after, statuses := fetch()
	if !statuses[goneIndex] || statuses[keptIndex] || len(statuses) != all-reserved+1 {
		t.Errorf("after a restart, %d are revoked, want %d and what is in no block", len(statuses), goneIndex)
	}

	writes := m.storage.Writes.Load()
	m.clock.Advance(31 * time.Minute)
	if renewed, _ := fetch(); renewed == after {
		t.Error("not signed anew in the second half of its life")
	}
	if m.storage.Writes.Load() != writes {
		t.Error("a fetch wrote the storage")
	}

	m.clock.Advance(49 * time.Hour)
	m.periodic()
	if resp, err := m.do(logical.ReadOperation, path, nil); err != nil || resp != nil {
		t.Errorf("a list whose tokens have all expired is still there: %v", err)
	}
	for _, prefix := range []string{"list/", "revoked/"} {
		left, err := m.storage.List(context.Background(), prefix)
		if err != nil || len(left) != 0 {
			t.Errorf("left below %s: %v, %v", prefix, left, err)
		}
	}
}

func TestStatusIndexesAreUnique(t *testing.T) {
	m := newMount(t).withRoles()
	var mu sync.Mutex
	seen := map[string]bool{}
	for round := range 3 {
		var issuers sync.WaitGroup
		for range 16 {
			issuers.Go(func() {
				for range 100 {
					token, _ := m.issueJWT()
					var claims jwt.MapClaims
					if _, _, err := jwt.NewParser().ParseUnverified(token, &claims); err != nil {
						t.Error(err)
						return
					}
					place, err := json.Marshal(claims["status"])
					if err != nil {
						t.Error(err)
					}
					mu.Lock()
					if seen[string(place)] {
						t.Errorf("round %d: %s is given out twice", round, place)
					}
					seen[string(place)] = true
					mu.Unlock()
				}
			})
		}
		issuers.Wait()
		m.restart()
	}
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

// A list that cannot be read refuses its own tokens, and nobody else: all roles
// issue, and what is on it can be revoked by its lease.
func TestOneUnreadableListStopsNoOther(t *testing.T) {
	for name, damage := range map[string]func(m *mount, list string){
		"its entry":                      func(m *mount, list string) { m.put("list/"+list, "{") },
		"its entry, of a newer version":  func(m *mount, list string) { m.put("list/"+list, `{"format":99}`) },
		"a revocation of a later format": func(m *mount, list string) { m.put("revoked/"+list+"/4096-8191", "{}") },
	} {
		t.Run(name, func(t *testing.T) {
			m := newMount(t).withRoles()
			m.must(logical.CreateOperation, "keys/other", nil)
			m.must(logical.CreateOperation, "roles/other", map[string]any{"token_type": "jwt", "audiences": "a", "key": "other"})
			bad, good := m.must(logical.ReadOperation, "creds/jwt", nil), m.must(logical.ReadOperation, "creds/other", nil)
			path := func(issued *logical.Response) string {
				return strings.TrimPrefix(m.statusURI(issued.Data["token"].(string)), testIssuer+"/")
			}
			damage(m, strings.TrimPrefix(path(bad), "status/"))
			m.restart()
			if !m.active(good.Data["token"].(string)) {
				t.Error("a token of another list is inactive")
			}
			m.must(logical.ReadOperation, path(good), nil)
			for _, role := range []string{"jwt", "other"} {
				if !m.active(m.must(logical.ReadOperation, "creds/"+role, nil).Data["token"].(string)) {
					t.Errorf("a new token of %s is inactive", role)
				}
			}
			if resp, err := m.do(logical.UpdateOperation, "introspect", map[string]any{"token": bad.Data["token"]}); err == nil {
				t.Errorf("a token of which the bit cannot be read is answered with %v", resp.Data)
			}
			if resp, err := m.do(logical.ReadOperation, path(bad), nil); err == nil {
				t.Errorf("the list is answered with %v", resp)
			}
			if err := m.revoke(bad.Secret); err != nil {
				t.Errorf("its token cannot be revoked: %v", err)
			}
			if err := m.revoke(good.Secret); err != nil || m.active(good.Data["token"].(string)) {
				t.Errorf("a token of another list is not revoked: %v", err)
			}
		})
	}
}

// A verifier that asks for the list of another time must not take that of now for
// it (draft-ietf-oauth-status-list, Historical Resolution).
func TestListsOfAnotherTimeAreNotImplemented(t *testing.T) {
	m := newMount(t).withRoles()
	token, _ := m.issueJWT()
	path := strings.TrimPrefix(m.statusURI(token), testIssuer+"/")
	for _, at := range []any{"1686925000", "", "soon", []string{"1", "2"}} {
		resp, err := m.do(logical.ReadOperation, path, map[string]any{"time": at})
		var coded logical.HTTPCodedError
		if !errors.As(err, &coded) || coded.Code() != http.StatusNotImplemented {
			t.Errorf("time=%v: %v, %v", at, resp, err)
		}
	}
	// What keeps caches from answering is no question.
	if resp := m.must(logical.ReadOperation, path, map[string]any{"_": "1", "list": "x"}); resp == nil || resp.Data[logical.HTTPStatusCode] != http.StatusOK {
		t.Errorf("answered with %v", resp)
	}
}

func TestStatus(t *testing.T) {
	m := newMount(t).withRoles()
	m.must(logical.UpdateOperation, "config", map[string]any{"status_list_ttl": "20s"})
	issued := m.must(logical.ReadOperation, "creds/jwt", nil)
	path := strings.TrimPrefix(m.statusURI(issued.Data["token"].(string)), testIssuer+"/")
	before, tag := m.raw(path, "application/statuslist+jwt", 20*time.Second, 20*time.Second)
	m.notModified(path, tag)
	if err := m.revoke(issued.Secret); err != nil {
		t.Fatal(err)
	}
	if after, _ := m.raw(path, "application/statuslist+jwt", 20*time.Second, 20*time.Second); after == before {
		t.Error("the same after a revocation")
	}
	if reads, writes := m.storage.Count(func() { m.raw(path, "application/statuslist+jwt", 20*time.Second, 20*time.Second) }); reads+writes != 0 {
		t.Errorf("%d reads and %d writes", reads, writes)
	}

	// What is no list costs nothing, whoever asks; what has not even the shape
	// of one, not a look into memory.
	m.restart()
	if reads, _ := m.storage.Count(func() { m.answers([]row{{operation: logical.ReadOperation, path: "status/x"}}) }); reads != 0 {
		t.Errorf("%d reads for what is no id", reads)
	}
	m.raw(path, "application/statuslist+jwt", 20*time.Second, 20*time.Second)
	for _, id := range []string{strings.Repeat("0", 22), "x", "a/b", strings.Repeat("a", 10000), path[len("status/"):] + "/0"} {
		if reads, writes := m.storage.Count(func() { m.answers([]row{{operation: logical.ReadOperation, path: "status/" + id}}) }); reads+writes != 0 {
			t.Errorf("%.30s: %d reads and %d writes", id, reads, writes)
		}
	}
	m.fails(logical.ReadOperation, path, nil, unread("config/"), unread("key/"), unread("list/"), unread("revoked/"))
}

// figures reads the figures, which must not cost an operation of the storage.
func (m *mount) figures() map[string]any {
	m.t.Helper()
	var data map[string]any
	if reads, writes := m.storage.Count(func() { data = m.must(logical.ReadOperation, "status", nil).Data }); reads+writes != 0 {
		m.t.Errorf("%d reads and %d writes for the figures", reads, writes)
	}
	return data
}

// counted compares the counts of one field that are not zero.
func (m *mount) counted(field string, want map[string]any) {
	m.t.Helper()
	got := map[string]any{}
	for label, n := range m.figures()[field].(map[string]any) {
		if n != int64(0) {
			got[label] = n
		}
	}
	if !reflect.DeepEqual(got, want) {
		m.t.Errorf("%s is %v, want %v", field, got, want)
	}
}

type labels = map[string]any

func TestFiguresCountTokens(t *testing.T) {
	m := newMount(t).withRoles()
	m.must(logical.UpdateOperation, "roles/bearer", map[string]any{"generate_lease": false, "ttl": "5m"})
	revoked := map[string]*logical.Response{}
	for _, kind := range []string{"api_key", "bearer", "jwt"} {
		m.must(logical.ReadOperation, "creds/"+kind, nil)
		revoked[kind] = m.must(logical.ReadOperation, "creds/"+kind, nil)
	}
	m.counted("issued", labels{"api_key": int64(2), "bearer": int64(2), "jwt": int64(2)})
	if _, err := m.renew(revoked["api_key"].Secret); err != nil {
		t.Fatal(err)
	}
	m.counted("renewed", labels{"api_key": int64(1)})
	for range 2 { // the second time there is nothing left to do
		m.must(logical.UpdateOperation, "revoke", map[string]any{"token": revoked["api_key"].Data["token"]})
		if err := m.revoke(revoked["jwt"].Secret); err != nil {
			t.Fatal(err)
		}
	}
	m.counted("revoked", labels{"api_key": int64(1), "jwt": int64(1)})
	m.counted("expired", labels{})
	lease := m.must(logical.ReadOperation, "creds/jwt", nil).Secret
	m.clock.Advance(lease.TTL)
	if err := m.revoke(lease); err != nil {
		t.Fatal(err)
	}
	m.clock.Advance(49 * time.Hour)
	m.periodic()
	m.counted("expired", labels{"api_key": int64(1), "bearer": int64(2), "jwt": int64(1)})
	m.counted("storage_errors", labels{})

	before := m.figures()["started_at"]
	m.clock.Advance(time.Second)
	m.restart()
	m.counted("issued", labels{})
	if m.figures()["started_at"] == before {
		t.Error("a new process counts since the start of another one")
	}
}

func TestFiguresCountIntrospections(t *testing.T) {
	m := newMount(t).withRoles()
	token, _ := m.issueJWT()
	m.active(token)
	m.active("made up")
	m.must(logical.UpdateOperation, "introspect", map[string]any{"token": token, "audience": "another"})
	gone := m.must(logical.ReadOperation, "creds/jwt", nil)
	if err := m.revoke(gone.Secret); err != nil {
		t.Fatal(err)
	}
	m.active(gone.Data["token"].(string))
	key := m.must(logical.ReadOperation, "creds/api_key", nil)
	if err := m.revoke(key.Secret); err != nil {
		t.Fatal(err)
	}
	m.active(key.Data["token"].(string))
	m.clock.Advance(48 * time.Hour)
	m.active(token)
	m.counted("introspections", labels{
		"active": int64(1), "malformed": int64(1), "check_failed": int64(1), "revoked": int64(1), "unknown_or_revoked": int64(1), "expired": int64(1),
	})
}

func TestFiguresCountWhatDidNotWork(t *testing.T) {
	m := newMount(t).withRoles()
	m.refused(logical.UpdateOperation, "introspect", nil)
	m.refused(logical.CreateOperation, "roles/a", map[string]any{"made_up": 1})
	m.do(logical.ReadOperation, "status/x", nil)
	m.do(logical.ReadOperation, "status/x", map[string]any{"time": "1"})
	m.do(logical.ReadOperation, "roles/absent", nil)
	for _, path := range []string{"made-up", "other"} {
		if _, err := m.backend.HandleRequest(t.Context(), &logical.Request{Operation: logical.ReadOperation, Path: path, Storage: m.storage}); err == nil {
			t.Fatal("there is such a path")
		}
	}
	renewal := m.must(logical.ReadOperation, "creds/api_key", nil).Secret
	if err := m.revoke(renewal); err != nil {
		t.Fatal(err)
	}
	if _, err := m.renew(renewal); err == nil {
		t.Fatal("renewed")
	}
	m.counted("requests_refused", labels{"introspect": int64(1), "roles": int64(2), "status": int64(2), "other": int64(2), "leases": int64(1)})
	m.counted("requests_failed", labels{})

	m.restart()
	m.storage.Before(unread("config/"))
	if _, err := m.do(logical.ReadOperation, "config", nil); err == nil {
		t.Fatal("the storage has not failed")
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := m.doWith(ctx, logical.ReadOperation, "creds/api_key", nil); err == nil {
		t.Fatal("answered a caller who is gone")
	}
	m.storage.Before(unread(""))
	if _, err := m.backend.HandleRequest(t.Context(), &logical.Request{Operation: logical.RollbackOperation, Storage: m.storage}); err == nil {
		t.Fatal("the storage has not failed")
	}
	if _, _, err := m.backend.HandleExistenceCheck(t.Context(), &logical.Request{Operation: logical.UpdateOperation, Path: "roles/bearer", Storage: m.storage}); err == nil {
		t.Fatal("the storage has not failed")
	}
	m.storage.Heal()
	m.counted("requests_failed", labels{"config": int64(1), "periodic": int64(1), "roles": int64(1)})
	if errors := m.figures()["storage_errors"].(map[string]any); errors["get"].(int64) < 3 || errors["put"] != int64(0) {
		t.Errorf("storage_errors is %v", errors)
	}
}

func TestFiguresOfMemory(t *testing.T) {
	m := newMount(t).withRoles()
	m.must(logical.UpdateOperation, "roles/api_key", map[string]any{"max_tokens": 5})
	for _, unknown := range []string{"records", "tidy_started_at", "tidy_finished_at", "tidy_looked", "last_rotation", "next_rotation"} {
		if value, ok := m.figures()[unknown]; ok {
			t.Errorf("%s is %v before anything is known of it", unknown, value)
		}
	}
	for range 3 {
		m.must(logical.ReadOperation, "creds/api_key", nil)
	}
	token, _ := m.issueJWT()
	m.active(token)
	started := rfc3339(m.clock.Now())
	m.periodic()
	got := m.figures()
	for field, want := range map[string]any{
		"records": int64(3), "records_cached": int64(3), "jwts_cached": int64(1), "jwts_cached_bytes": int64(len(token)),
		"capped_roles": int64(1), "capped_tokens": int64(3), "status_lists": int64(2), "status_lists_loaded": int64(2),
		"signing_keys": int64(1), "signing_keys_failing": int64(0),
		"tidy_started_at": started, "tidy_finished_at": started, "tidy_looked": int64(3), "tidy_removed": int64(0), "tidy_slots_removed": int64(0), "tidy_failed": int64(0),
	} {
		if got[field] != want {
			t.Errorf("%s is %v, want %v", field, got[field], want)
		}
	}
	for _, field := range []string{"records_cached_bytes", "status_lists_loaded_bytes"} {
		if got[field].(int64) <= 0 {
			t.Errorf("%s is %v", field, got[field])
		}
	}
}

func TestFiguresOfKeys(t *testing.T) {
	m := newMount(t).withRoles()
	m.must(logical.CreateOperation, "keys/a", map[string]any{"rotation_period": "24h"})
	due := rfc3339(m.clock.Now().Add(24 * time.Hour))
	got := m.figures()
	want := []map[string]any{{"name": "a", "versions": 2, "next_rotation": due}, {"name": "default", "versions": 2}}
	if !reflect.DeepEqual(got["keys"], want) || got["next_rotation"] != due || got["last_rotation"] != nil {
		t.Errorf("keys are %v, next_rotation is %v and last_rotation %v; want %v, %s and none", got["keys"], got["next_rotation"], got["last_rotation"], want, due)
	}

	m.clock.Advance(24 * time.Hour)
	m.storage.Before(unwritten("key/a"))
	m.backend.HandleRequest(t.Context(), &logical.Request{Operation: logical.RollbackOperation, Storage: m.storage})
	m.storage.Heal()
	m.active("warm") // what could not be written is read again
	m.must(logical.ReadOperation, "jwks", nil)
	got = m.figures()
	key := got["keys"].([]map[string]any)[0]
	if problem, _ := key["last_error"].(string); !strings.Contains(problem, "rotate key a") || got["signing_keys_failing"] != int64(1) || got["next_rotation"] != due {
		t.Errorf("a key that cannot be rotated is shown as %v, and %v are failing", key, got["signing_keys_failing"])
	}
	m.periodic()
	rotated := rfc3339(m.clock.Now())
	got = m.figures()
	if key := got["keys"].([]map[string]any)[0]; key["last_rotation"] != rotated || key["last_error"] != nil || got["last_rotation"] != rotated || got["signing_keys_failing"] != int64(0) {
		t.Errorf("a key that was rotated is shown as %v, last_rotation is %v", key, got["last_rotation"])
	}
}

// One that cannot be decoded counts as failing, and its error shows no token.
func TestFiguresOfUnreadableKey(t *testing.T) {
	m := newMount(t).withRoles()
	if err := m.storage.Put(t.Context(), &logical.StorageEntry{Key: "key/default", Value: []byte("{")}); err != nil {
		t.Fatal(err)
	}
	m.restart()
	m.must(logical.ReadOperation, "jwks", nil)
	got := m.figures()
	if keys := got["keys"].([]map[string]any); len(keys) != 1 || keys[0]["last_error"] == nil || got["signing_keys_failing"] != int64(1) {
		t.Errorf("shown as %v, %v are failing", keys, got["signing_keys_failing"])
	}
}

func TestFiguresForPrometheus(t *testing.T) {
	m := newMount(t).withRoles()
	m.issueJWT()
	m.must(logical.CreateOperation, "keys/secret-name", map[string]any{"rotation_period": "24h"})
	m.do(logical.ReadOperation, "made-up", nil)
	m.periodic()
	resp := m.must(logical.ReadOperation, "status", map[string]any{"format": "prometheus"})
	if resp.Data[logical.HTTPContentType] != "text/plain; version=0.0.4" || resp.Data[logical.HTTPStatusCode] != http.StatusOK {
		t.Errorf("answered as %v, %v", resp.Data[logical.HTTPContentType], resp.Data[logical.HTTPStatusCode])
	}
	if cached, ok := resp.Data[logical.HTTPCacheControlHeader]; ok {
		t.Errorf("may be cached: %v", cached)
	}
	text := string(resp.Data[logical.HTTPRawBody].([]byte))
	const label = `[a-z_]+="[a-z0-9._-]+"`
	sample := regexp.MustCompile(`^(vault_tokens_[a-z_]+)(\{` + label + `\})? \d+$`)
	head, typed := "", map[string]string{}
	for line := range strings.Lines(text) {
		words := strings.Fields(line)
		switch found := sample.FindStringSubmatch(strings.TrimSuffix(line, "\n")); {
		case words[1] == "HELP":
			head = words[2]
		case words[1] == "TYPE" && words[2] == head:
			typed[head] = words[3]
		case found == nil || found[1] != head:
			t.Errorf("below %s is %q", head, line)
		}
	}
	for name, want := range map[string]string{
		"vault_tokens_started_timestamp_seconds":       "gauge",
		"vault_tokens_issued_total":                    "counter",
		"vault_tokens_records":                         "gauge",
		"vault_tokens_next_rotation_timestamp_seconds": "gauge",
		"vault_tokens_tidy_finished_timestamp_seconds": "gauge",
	} {
		if typed[name] != want {
			t.Errorf("%s is a %q, want a %s", name, typed[name], want)
		}
	}
	if len(typed) != len(figures)-1 { // no key was rotated
		t.Errorf("%d metrics for %d figures", len(typed), len(figures))
	}
	if !strings.Contains(text, "\nvault_tokens_issued_total{token_type=\"jwt\"} 1\n") || strings.Contains(text, "secret-name") {
		t.Errorf("no JWT is counted, or a key is named:\n%s", text)
	}
	m.answers([]row{
		{operation: logical.ReadOperation, path: "status", data: map[string]any{"format": "json"}, refused: "format"},
		{operation: logical.ReadOperation, path: "status", data: map[string]any{"made_up": "x"}, refused: "made_up"},
	})
}

// What needs no Vault token are the lists below the figures, and not the figures.
func TestFiguresNeedAToken(t *testing.T) {
	m := newMount(t)
	if m.backend.unauthenticated("status") || !m.backend.unauthenticated("status/x") {
		t.Error("the figures are for everybody, or the lists are not")
	}
	if path := m.backend.Route("status/"); path != nil {
		t.Errorf("status/, which needs no Vault token, is answered by %s", path.Pattern)
	}
}
