package token

import (
	"sync"
	"testing"
	"time"

	"github.com/vault-tokens/vault-plugin-secrets-tokens/backend/role"
	"github.com/vault-tokens/vault-plugin-secrets-tokens/backend/store/storetest"
)

// capped gives the bearer role a cap.
func (f *fixture) capped(maxTokens int) *fixture {
	f.t.Helper()
	f.change("bearer", func(r *role.Role) { r.MaxTokens = maxTokens })
	return f
}

// full wants the cap to be reached.
func (f *fixture) full(when string) {
	f.t.Helper()
	_, err := f.Issue(f.ctx, f.storage, Request{Role: "bearer", Caller: caller})
	wantMistake(f.t, when, err, "role")
}

func TestCap(t *testing.T) {
	f := newFixture(t).capped(2)
	first, second := f.issue("bearer"), f.issue("bearer")
	f.full("at the cap")
	f.issue("api_key") // of another role
	f.restart()
	f.full("after a restart")

	if _, err := f.revoke(first); err != nil {
		t.Fatal(err)
	}
	f.issue("bearer")
	f.full("after a revocation and a token")

	// A renewal moves what counts.
	f.now = f.now.Add(30 * time.Minute)
	if _, err := f.Renew(f.ctx, f.storage, second.ID, 0); err != nil {
		t.Fatal(err)
	}
	f.now = f.now.Add(30 * time.Minute)
	f.issue("bearer") // in place of the one that expired
	f.full("beside the renewed one")
	f.restart()
	f.full("after a restart beside the renewed one")

	f.capped(3)
	f.issue("bearer")
	f.full("at the raised cap")
	f.capped(1)
	f.full("above the lowered cap")
	f.capped(0)
	f.issue("bearer")
}

// What was issued without a cap does not count when there is one.
func TestCapCountsWhatWasIssuedUnderOne(t *testing.T) {
	f := newFixture(t)
	f.issue("bearer")
	f.capped(1)
	f.issue("bearer")
	f.full("at the cap")
}

func TestCapUnderLoad(t *testing.T) {
	f := newFixture(t).capped(10)
	var mu sync.Mutex
	issued := 0
	var issuers sync.WaitGroup
	for range 8 {
		issuers.Go(func() {
			for range 5 {
				if _, err := f.Issue(f.ctx, f.storage, Request{Role: "bearer", Caller: caller}); err == nil {
					mu.Lock()
					issued++
					mu.Unlock()
				}
			}
		})
	}
	issuers.Wait()
	if issued != 10 {
		t.Errorf("issued %d under a cap of 10", issued)
	}
}

// A fault never lets more tokens live than the cap, and tokens that were never
// issued take no place for longer than they would have lived.
func TestCapOnFaults(t *testing.T) {
	for name, inject := range map[string]func(*storetest.Storage){
		"count refused":        func(s *storetest.Storage) { s.Before(storetest.Fail(capPrefix, storetest.Put)) },
		"reply of count lost":  func(s *storetest.Storage) { s.After(storetest.Fail(capPrefix, storetest.Put)) },
		"record refused":       func(s *storetest.Storage) { s.Before(storetest.Fail(recordPrefix, storetest.Put)) },
		"reply of record lost": func(s *storetest.Storage) { s.After(storetest.Fail(recordPrefix, storetest.Put)) },
		"count cannot be read": func(s *storetest.Storage) { s.Before(storetest.Fail(capPrefix, storetest.Get, storetest.List)) },
	} {
		t.Run(name, func(t *testing.T) {
			f := newFixture(t).capped(2)
			f.issue("bearer")
			f.restart()
			inject(f.storage)
			if issued, err := f.Issue(f.ctx, f.storage, Request{Role: "bearer", Caller: caller}); err == nil {
				t.Errorf("issued %s", issued.ID)
			}
			f.storage.Heal()
			for range 3 {
				f.Issue(f.ctx, f.storage, Request{Role: "bearer", Caller: caller}) // the cap may refuse it
			}
			ids, _, err := f.List(f.ctx, f.storage, "", 100)
			if err != nil || len(ids) > 2 {
				t.Errorf("%d tokens live under a cap of 2, %v", len(ids), err)
			}
			f.now = f.now.Add(time.Hour)
			f.issue("bearer")
			f.issue("bearer")
			f.full("afterwards")
		})
	}
}
