package token

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/hashicorp/vault/sdk/logical"

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
			if ids := f.ids(); len(ids) > 2 {
				t.Errorf("%d tokens live under a cap of 2", len(ids))
			}
			f.now = f.now.Add(time.Hour)
			f.issue("bearer")
			f.issue("bearer")
			f.full("afterwards")
		})
	}
}

// whole wants exactly the cap to be issuable in all, beside the live ones.
func (f *fixture) whole(maxTokens, live int, when string) {
	f.t.Helper()
	for n := range maxTokens - live {
		if _, err := f.Issue(f.ctx, f.storage, Request{Role: "bearer", Caller: caller}); err != nil {
			f.t.Errorf("%s: %d of %d could be issued: %v", when, live+n, maxTokens, err)
			return
		}
	}
	f.full(when)
}

// No slot is lost to a fault, a lost reply or a caller that hangs up, at issue or
// at revocation, once Vault has tried again what failed.
func TestNoSlotIsLost(t *testing.T) {
	const maxTokens = 3
	faults := map[string]func(f *fixture){
		"caller gone": func(f *fixture) { f.ctx = cancelled() },
	}
	for _, prefix := range []string{capPrefix, recordPrefix} {
		for _, op := range []storetest.Op{storetest.Get, storetest.List, storetest.Put, storetest.Delete} {
			faults[string(op)+" of "+prefix+" refused"] = func(f *fixture) { f.storage.Before(storetest.Fail(prefix, op)) }
			faults["reply of "+string(op)+" of "+prefix+" lost"] = func(f *fixture) { f.storage.After(storetest.Fail(prefix, op)) }
		}
	}
	for name, inject := range faults {
		for _, restart := range []bool{false, true} {
			t.Run(fmt.Sprint(name, "/restart ", restart), func(t *testing.T) {
				f := newFixture(t).capped(maxTokens)
				first := f.issue("bearer")
				if restart {
					f.restart()
				}
				ctx := f.ctx
				heal := func() { f.storage.Heal(); f.ctx = ctx }
				inject(f)
				issued, issueErr := f.Issue(f.ctx, f.storage, Request{Role: "bearer", Caller: caller})
				heal()
				live := 0
				if issueErr == nil {
					live++
				}
				if restart {
					f.restart()
				}
				inject(f)
				_, err := f.revoke(first)
				heal()
				for err != nil { // as Vault does
					_, err = f.revoke(first)
				}
				if f.active(first) {
					t.Error("active after its revocation")
				}
				if !restart {
					f.whole(maxTokens, live, "at once")
				}
				for _, id := range f.ids() {
					if issueErr != nil || id != issued.ID {
						f.Revoke(f.ctx, f.storage, Lease{ID: id})
					}
				}
				f.now = f.now.Add(settleAfter)
				f.tidy()
				f.whole(maxTokens, live, "after tidying")
			})
		}
	}
}

// A slot whose write was answered with an error, and which then could not be
// removed, is found as well.
func TestSlotOfTwoFaults(t *testing.T) {
	f := newFixture(t).capped(1)
	f.storage.Before(storetest.Fail(capPrefix, storetest.Delete))
	f.storage.After(storetest.Fail(capPrefix, storetest.Put))
	if _, err := f.Issue(f.ctx, f.storage, Request{Role: "bearer", Caller: caller}); err == nil {
		t.Error("issued")
	}
	f.storage.Heal()
	f.full("with the slot that is left")
	f.tidy()
	f.full("right after, when the record might still be on its way")
	f.now = f.now.Add(passEvery)
	f.tidy()
	f.whole(1, 0, "after tidying")
}

// A role with many tokens is counted with one listing, and no read.
func TestCapLoadsWithOneListing(t *testing.T) {
	const many = 100_000
	f := newFixture(t).capped(many + 1)
	for n := range many {
		f.seedSlot(fmt.Sprintf("%022d", n), f.now.Add(time.Hour))
	}
	f.restart()
	f.issue("api_key") // so that what it needs is in memory
	f.roles.Get(f.ctx, f.storage, "bearer")
	reads, writes := f.storage.Count(func() { f.issue("bearer") })
	if reads != 2 || writes != 3 {
		t.Errorf("%d reads and %d writes, want one listing of slots and one of cut-offs, and the role's first block, the slot and the record", reads, writes)
	}
	f.full("at the cap")
	// A refusal looks at none of them.
	shortest := time.Hour
	for range 50 {
		began := time.Now()
		f.full("again")
		shortest = min(shortest, time.Since(began))
	}
	t.Logf("a refusal with %d slots takes %s", many, shortest)
	if shortest > 500*time.Microsecond {
		t.Errorf("a refusal takes %s", shortest)
	}
}

// seedSlot stores a slot without a token.
func (f *fixture) seedSlot(id string, expires time.Time) {
	f.t.Helper()
	if err := f.records.caps.entries.Put(f.ctx, f.storage, "bearer/"+slotKey{id: id, expires: expires}.name(), &slot{}); err != nil {
		f.t.Fatal(err)
	}
}

// While the slots are listed nobody counts without them.
func TestIssueWaitsForTheCount(t *testing.T) {
	f := newFixture(t).capped(1)
	f.issue("bearer")
	f.restart()
	f.roles.Get(f.ctx, f.storage, "bearer")
	seen, release := make(chan struct{}), make(chan struct{})
	f.storage.After(func(op storetest.Op, key string) error {
		if op == storetest.List && strings.HasPrefix(key, capPrefix) {
			close(seen)
			<-release
		}
		return nil
	})
	var refused sync.WaitGroup
	refused.Go(func() { f.full("who lists") })
	<-seen
	ctx, cancel := context.WithCancel(f.ctx)
	cancel()
	if issued, err := f.Issue(ctx, f.storage, Request{Role: "bearer", Caller: caller}); err == nil {
		t.Errorf("issued %s beyond the cap, while the slots were listed", issued.ID)
	}
	refused.Go(func() { f.full("who waits") })
	close(release)
	refused.Wait()
	f.storage.Heal()
	f.full("afterwards")
}

// What another node changes, at any time, lets nobody pass the cap, nor makes it
// smaller.
func TestCapUnderInvalidation(t *testing.T) {
	f := newFixture(t).capped(10)
	stop := make(chan struct{})
	var others, issuers sync.WaitGroup
	others.Go(func() {
		for {
			select {
			case <-stop:
				return
			default:
				f.Invalidate(capPrefix + "bearer/x")
				f.Invalidate(recordPrefix + "x/x")
			}
		}
	})
	for range 4 {
		issuers.Go(func() {
			for range 50 {
				issued, err := f.Issue(f.ctx, f.storage, Request{Role: "bearer", Caller: caller})
				if n := len(f.ids()); n > 10 {
					t.Errorf("%d tokens live", n)
				}
				if err == nil {
					if _, err := f.revoke(issued); err != nil {
						t.Error(err)
					}
				}
			}
		})
	}
	issuers.Wait()
	close(stop)
	others.Wait()
	f.whole(10, 0, "afterwards")
}

// A token that is renewed in the moment of its expiry and one that is issued in its
// place do not both live.
func TestRenewedAtItsExpiry(t *testing.T) {
	for _, key := range []string{"config/", recordPrefix} { // read before, and written by, the renewal
		f := newFixture(t).capped(1)
		old := f.issue("bearer")
		f.config.Invalidate("config/config")
		var clock atomic.Int64
		clock.Store(f.now.UnixNano())
		f.Tokens.clock = func() time.Time { return time.Unix(0, clock.Load()) }
		f.records.caps.clock = f.Tokens.clock
		seen, release := make(chan struct{}), make(chan struct{})
		var stopped atomic.Bool
		f.storage.Before(func(op storetest.Op, got string) error {
			if strings.HasPrefix(got, key) && (op == storetest.Put || key == "config/") {
				if stopped.CompareAndSwap(false, true) {
					close(seen)
					<-release
				}
			}
			return nil
		})
		var renewal sync.WaitGroup
		renewal.Go(func() { f.Renew(f.ctx, f.storage, old.ID, 2*time.Hour) })
		<-seen
		clock.Add(int64(time.Hour)) // now it has expired
		var issued *Issued
		var issuing sync.WaitGroup
		if key == "config/" { // which the issue reads as well
			issuing.Go(func() { close(release); issued, _ = f.Issue(f.ctx, f.storage, Request{Role: "bearer", Caller: caller}) })
		} else {
			issued, _ = f.Issue(f.ctx, f.storage, Request{Role: "bearer", Caller: caller})
			close(release)
		}
		issuing.Wait()
		renewal.Wait()
		live := 0
		for _, token := range []*Issued{old, issued} {
			if token != nil && f.active(token) {
				live++
			}
		}
		if live > 1 {
			t.Errorf("%s: %d tokens live under a cap of 1", key, live)
		}
	}
}

// Slots of before their names had an expiry count, and are looked up.
func TestSlotsOfBefore(t *testing.T) {
	f := newFixture(t).capped(2)
	live := f.issue("bearer")
	slots, err := f.records.caps.entries.List(f.ctx, f.storage, "bearer/")
	if err != nil || len(slots) != 1 {
		t.Fatal(slots, err)
	}
	for _, name := range []string{live.ID, strings.Repeat("0", 22)} {
		entry := &logical.StorageEntry{Key: capPrefix + "bearer/" + name, Value: []byte(`{"id":"x","expires_at":"2020-01-01T00:00:00Z"}`)}
		if err := f.storage.Put(f.ctx, entry); err != nil {
			t.Fatal(err)
		}
	}
	if err := f.storage.Delete(f.ctx, capPrefix+"bearer/"+slots[0]); err != nil {
		t.Fatal(err)
	}
	f.restart()
	f.whole(2, 1, "beside the live one")
	if !f.active(live) {
		t.Error("inactive")
	}
}
