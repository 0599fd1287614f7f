package tokens

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/hashicorp/vault/sdk/logical"

	"github.com/vault-tokens/vault-plugin-secrets-tokens/backend/store/storetest"
)

// killable returns a mount whose roles issue tokens of every kind, and tokens of
// each: with a lease, without, capped, and tracked.
func killable(t *testing.T) (m *mount, issued map[string][]*logical.Response) {
	t.Helper()
	m = newMount(t).withRoles()
	m.must(logical.CreateOperation, "roles/unleased", map[string]any{"token_type": "bearer", "generate_lease": false})
	m.must(logical.CreateOperation, "roles/capped", map[string]any{"token_type": "api_key", "max_tokens": 2})
	m.must(logical.CreateOperation, "roles/tracked", map[string]any{"token_type": "jwt", "track": true, "audiences": "api"})
	issued = map[string][]*logical.Response{}
	for _, name := range []string{"api_key", "bearer", "jwt", "unleased", "capped", "tracked"} {
		for range 2 {
			issued[name] = append(issued[name], m.must(logical.ReadOperation, "creds/"+name, nil))
		}
	}
	return m, issued
}

func TestRevokeRole(t *testing.T) {
	for name, killed := range map[string]func(*mount){
		"at once":         func(*mount) {},
		"after a restart": (*mount).restart,
		"after tidying": func(m *mount) {
			m.clock.Advance(13 * time.Hour)
			m.periodic()
		},
	} {
		t.Run(name, func(t *testing.T) {
			for _, role := range []string{"api_key", "bearer", "jwt", "unleased", "capped", "tracked"} {
				m, issued := killable(t)
				resp := m.must(logical.UpdateOperation, "roles/"+role+"/revoke", nil)
				if resp.Data["status_lists"] != 1 {
					t.Errorf("%s: %v", role, resp.Data)
				}
				if counted, want := resp.Data["tokens"], any(2); role == "capped" && counted != want || role != "capped" && counted != nil {
					t.Errorf("%s: %v tokens", role, counted)
				}
				killed(m)
				m.checkKilled(role, issued)
			}
		})
	}
}

// checkKilled checks that the tokens of a role have ended, and no others.
func (m *mount) checkKilled(role string, issued map[string][]*logical.Response) {
	m.t.Helper()
	listed := strings.Join(m.must(logical.ListOperation, "tokens/", nil).Data["keys"].([]string), " ")
	for name, responses := range issued {
		for _, resp := range responses {
			if !m.clock.Now().Before(expiryOf(resp)) {
				continue
			}
			id, dead := resp.Data["token_id"].(string), name == role
			if m.active(resp.Data["token"].(string)) == dead {
				m.t.Errorf("%s: a token of %s is active: %v", role, name, !dead)
			}
			if name != "jwt" {
				if found := m.must(logical.ReadOperation, "tokens/"+id, nil); (found == nil) != dead {
					m.t.Errorf("%s: a token of %s is looked up as %v", role, name, found)
				}
				if strings.Contains(listed, id) == dead {
					m.t.Errorf("%s: a token of %s is listed: %v", role, name, !dead)
				}
			}
			if dead && resp.Secret != nil {
				if name != "jwt" && name != "tracked" {
					if _, err := m.renew(resp.Secret); err == nil {
						m.t.Errorf("%s: renewed", role)
					}
				}
				if err := m.revoke(resp.Secret); err != nil {
					m.t.Errorf("%s: its lease ends with %v", role, err)
				}
			}
		}
	}
	// The role goes on, with all of its cap.
	for range 2 {
		if !m.active(m.must(logical.ReadOperation, "creds/"+role, nil).Data["token"].(string)) {
			m.t.Errorf("%s: a token that was issued afterwards is inactive", role)
		}
	}
	if role == "capped" {
		m.refused(logical.ReadOperation, "creds/capped", nil)
	}
}

func expiryOf(resp *logical.Response) time.Time {
	expires, _ := time.Parse(time.RFC3339, resp.Data["expires_at"].(string))
	return expires
}

func TestRevokeRoleAnswers(t *testing.T) {
	m, _ := killable(t)
	for _, name := range []string{"none", "a..b", strings.Repeat("x", 200)} {
		resp, err := m.do(logical.UpdateOperation, "roles/"+name+"/revoke", nil)
		if name != "none" {
			if !resp.IsError() {
				t.Errorf("%.10s: %v, %v", name, resp, err)
			}
		} else if err != nil || resp.Data["status_lists"] != 0 || len(resp.Warnings) != 1 {
			t.Errorf("a role without tokens: %v, %v", resp, err)
		}
	}
	m.refused(logical.UpdateOperation, "roles/bearer/revoke", map[string]any{"x": 1})
	// A role that is gone, or cannot be read, is no obstacle.
	token := m.must(logical.ReadOperation, "creds/bearer", nil).Data["token"].(string)
	m.must(logical.DeleteOperation, "roles/bearer", nil)
	m.must(logical.UpdateOperation, "roles/bearer/revoke", nil)
	if m.active(token) {
		t.Error("active after its role was deleted and revoked")
	}
}

// A token whose issue has returned before the call does is dead, and one whose issue
// began after it is not.
func TestRevokeRoleWhileIssuing(t *testing.T) {
	for _, role := range []string{"bearer", "jwt"} {
		m := newMount(t).withRoles()
		m.must(logical.ReadOperation, "creds/"+role, nil)
		var mu sync.Mutex
		killed := false
		var before, after []string
		var issuers sync.WaitGroup
		for range 4 {
			issuers.Go(func() {
				for enough := false; !enough; {
					mu.Lock()
					late := killed
					enough = len(after) > 100
					mu.Unlock()
					resp, err := m.backend.HandleRequest(context.Background(), &logical.Request{Operation: logical.ReadOperation, Path: "creds/" + role, Storage: m.storage, EntityID: "entity-1"})
					if err != nil {
						t.Error(err)
						return
					}
					mu.Lock()
					switch {
					case !killed:
						before = append(before, resp.Data["token"].(string))
					case late:
						after = append(after, resp.Data["token"].(string))
					}
					mu.Unlock()
				}
			})
		}
		for {
			mu.Lock()
			n := len(before)
			mu.Unlock()
			if n > 100 {
				break
			}
		}
		mu.Lock() // so that before is complete when the call returns
		n := len(before)
		mu.Unlock()
		if _, err := m.backend.HandleRequest(context.Background(), &logical.Request{Operation: logical.UpdateOperation, Path: "roles/" + role + "/revoke", Storage: m.storage}); err != nil {
			t.Fatal(err)
		}
		mu.Lock()
		killed = true
		mu.Unlock()
		issuers.Wait()
		for _, token := range before[:n] {
			if m.active(token) {
				t.Fatalf("%s: a token from before the call is active", role)
			}
		}
		for _, token := range after {
			if !m.active(token) {
				t.Fatalf("%s: a token from after the call is inactive", role)
			}
		}
		if len(after) == 0 {
			t.Errorf("%s: nothing was issued after the call", role)
		}
	}
}

// A call that was answered with an error is finished by the next one.
func TestRevokeRoleOnFaults(t *testing.T) {
	for _, role := range []string{"bearer", "capped", "tracked", "jwt"} {
		for nth := range 6 {
			for _, after := range []bool{false, true} {
				m, issued := killable(t)
				m.restart()
				seen, failed := 0, false
				hook := func(storetest.Op, string) error {
					if seen++; seen == nth+1 {
						failed = true
						return storetest.ErrInjected
					}
					return nil
				}
				if after {
					m.storage.After(hook)
				} else {
					m.storage.Before(hook)
				}
				resp, err := m.do(logical.UpdateOperation, "roles/"+role+"/revoke", nil)
				m.storage.Heal()
				if failed && err == nil {
					t.Errorf("%s, fault %d: answered %v", role, nth, resp)
				}
				if err != nil {
					m.must(logical.UpdateOperation, "roles/"+role+"/revoke", nil)
				}
				what := fmt.Sprint(role, ", fault ", nth)
				for _, restarted := range []bool{false, true} {
					for _, resp := range issued[role] {
						if m.active(resp.Data["token"].(string)) {
							t.Fatalf("%s: active after the retry, restarted: %v", what, restarted)
						}
					}
					m.restart()
				}
			}
		}
	}
}
