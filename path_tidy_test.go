package tokens

import (
	"context"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/hashicorp/vault/sdk/logical"

	"github.com/vault-tokens/vault-plugin-secrets-tokens/backend/store/storetest"
)

func TestTidyDoors(t *testing.T) {
	m := newMount(t).withRoles()
	none := map[string]any{"state": "idle", "dry_run": false, "lists": 0, "revocations": 0, "cutoffs": 0}
	m.answers([]row{
		{operation: logical.ReadOperation, path: "tidy/status", want: none},
		{operation: logical.UpdateOperation, path: "tidy/cancel", warning: "nothing was under way"},
		{operation: logical.UpdateOperation, path: "tidy", data: map[string]any{"dry_run": "perhaps"}, refused: "dry_run"},
		{operation: logical.UpdateOperation, path: "tidy", data: map[string]any{"safety_buffer": "1h"}, refused: "safety_buffer"},
	})
	for range 3 {
		m.must(logical.ReadOperation, "creds/bearer", nil)
	}
	m.clock.Advance(50 * time.Hour)
	m.must(logical.ReadOperation, "creds/api_key", nil)
	at := rfc3339(m.clock.Now())
	figures := map[string]any{
		"state": "idle", "dry_run": true, "started_at": at, "finished_at": at, "position": 1.0, "looked_at": 4, "removed": 3,
		"ended": 0, "left": 1, "failed": 0, "slots": 0, "lists": 0, "revocations": 0, "cutoffs": 0,
	}
	started := map[string]any{"state": "running", "dry_run": true}
	m.answers([]row{{operation: logical.UpdateOperation, path: "tidy", data: map[string]any{"dry_run": true}, want: started, warning: "tidy/status"}})
	m.idle()
	m.answers([]row{{operation: logical.ReadOperation, path: "tidy/status", want: figures}})
	if n := m.records(); n != 4 {
		t.Errorf("a dry run left %d records", n)
	}
	m.clock.Advance(time.Second)
	started["dry_run"] = false
	m.answers([]row{{operation: logical.UpdateOperation, path: "tidy", want: started, warning: "tidy/status"}})
	m.idle()
	if n := m.records(); n != 1 {
		t.Errorf("left are %d records", n)
	}
	at = rfc3339(m.clock.Now())
	for _, name := range []string{"started_at", "finished_at", "last_complete_started_at", "last_complete_finished_at"} {
		figures[name] = at
	}
	figures["dry_run"] = false
	m.restart() // and another process says the same
	m.answers([]row{{operation: logical.ReadOperation, path: "tidy/status", want: figures}})
	if n := strings.Count(m.log.String(), "token expired"); n != 3 {
		t.Errorf("%d tokens are in the log", n)
	}
}

// A pass that is under way is shown, stops with the mount, is under way for the next
// process as well, and can be cancelled.
func TestTidyUnderWay(t *testing.T) {
	m := newMount(t).withRoles()
	for range 300 {
		m.must(logical.ReadOperation, "creds/bearer", nil)
	}
	arrived, free := make(chan struct{}), make(chan struct{})
	var once sync.Once
	m.storage.Before(func(op storetest.Op, key string) error {
		if op == storetest.Get && strings.HasPrefix(key, "token/") {
			once.Do(func() { close(arrived) })
			<-free
		}
		return nil
	})
	underWay := func(when string) {
		t.Helper()
		status := m.must(logical.ReadOperation, "tidy/status", nil).Data
		if status["state"] != "running" || status["started_at"] == nil || status["finished_at"] != nil || status["position"].(float64) >= 1 {
			t.Errorf("%s: %v", when, status)
		}
	}
	m.must(logical.UpdateOperation, "tidy", nil)
	<-arrived
	underWay("at once")
	if message := m.refused(logical.UpdateOperation, "tidy", map[string]any{"dry_run": true}); !strings.HasPrefix(message, "dry_run: ") {
		t.Errorf("a dry run: %s", message)
	}
	gone, cancel := context.WithCancel(context.Background())
	cancel()
	m.backend.Cleanup(gone) // without waiting for the read
	m.storage.Heal()
	close(free)
	for deadline := time.Now().Add(time.Minute); ; {
		if entry, err := m.storage.InmemStorage.Get(context.Background(), "tidy/tokens"); err != nil || time.Now().After(deadline) {
			t.Fatalf("the pass is not stored: %v", err)
		} else if entry != nil {
			break
		}
	}
	m.must(logical.UpdateOperation, "tidy", nil) // begins nothing any more
	m.restart()
	underWay("after a restart")
	if resp := m.must(logical.UpdateOperation, "tidy/cancel", nil); resp != nil {
		t.Errorf("answered %v", resp)
	}
	for range 2 {
		m.clock.Advance(time.Minute)
		m.periodic()
		if status := m.must(logical.ReadOperation, "tidy/status", nil).Data; status["state"] != "cancelled" || status["last_complete_started_at"] != nil {
			t.Errorf("cancelled: %v", status)
		}
		m.restart()
	}
}

func TestTidyDoorsOnFaults(t *testing.T) {
	m := newMount(t).withRoles()
	m.periodic()
	m.fails(logical.ReadOperation, "tidy/status", nil, unread("tidy/"), unread("cutoff/"))
	m.fails(logical.UpdateOperation, "tidy/cancel", nil, unread("tidy/"))
	// What fails in the background is in the log.
	m.storage.Before(unread("token/"))
	m.must(logical.UpdateOperation, "tidy", nil)
	for deadline := time.Now().Add(time.Minute); !strings.Contains(m.log.String(), "tidying in the background failed"); {
		if time.Now().After(deadline) {
			t.Fatal("nothing in the log")
		}
	}
	m.storage.Heal()
	m.periodic()
	if status := m.idle(); status["failed"].(int) == 0 || status["finished_at"] == nil {
		t.Errorf("then %v", status)
	}
}
