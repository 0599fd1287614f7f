package tokens

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
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
