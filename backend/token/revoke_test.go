package token

import (
	"context"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/hashicorp/vault/sdk/logical"

	"github.com/vault-tokens/vault-plugin-secrets-tokens/backend/role"
	"github.com/vault-tokens/vault-plugin-secrets-tokens/backend/statuslist"
	"github.com/vault-tokens/vault-plugin-secrets-tokens/backend/store/storetest"
)

func TestRevoke(t *testing.T) {
	for _, name := range []string{"api_key", "bearer", "jwt"} {
		t.Run(name, func(t *testing.T) {
			f := newFixture(t)
			issued, kept := f.issue(name), f.issue(name)
			if _, err := f.roles.Remove(f.ctx, f.storage, name); err != nil { // which revoking does not need
				t.Fatal(err)
			}
			ended, err := f.revoke(issued)
			if err != nil || ended == nil || *ended != (Ended{ID: issued.ID, TokenType: issued.TokenType, Role: name}) {
				t.Errorf("revoked %+v, %v", ended, err)
			}
			for _, when := range []string{"at once", "after a restart"} {
				if f.active(issued) || !f.active(kept) {
					t.Errorf("%s: active are %v and %v, want the second alone", when, f.active(issued), f.active(kept))
				}
				if ended, err := f.revoke(issued); ended != nil || err != nil {
					t.Errorf("%s: revoked again: %v, %v", when, ended, err)
				}
				f.restart()
			}
			f.now = kept.ExpiresAt
			ended, err = f.revoke(kept)
			if err != nil || ended == nil || *ended != (Ended{ID: kept.ID, TokenType: kept.TokenType, Role: name, Expired: true}) {
				t.Errorf("expired %+v, %v", ended, err)
			}
		})
	}
	f := newFixture(t)
	for _, id := range []string{"", "x", "../config/config"} {
		if _, writes := f.storage.Count(func() {
			if ended, err := f.Revoke(f.ctx, f.storage, Lease{ID: id}); ended != nil || err != nil {
				t.Errorf("revoked %q: %v, %v", id, ended, err)
			}
		}); writes != 0 {
			t.Errorf("%q: %d writes", id, writes)
		}
	}
}

// Revocation by possession takes the token alone, of any kind.
func TestRevokePossessed(t *testing.T) {
	f := newFixture(t)
	for _, name := range []string{"api_key", "bearer", "jwt"} {
		issued := f.issue(name)
		ended, err := f.RevokePossessed(f.ctx, f.storage, issued.Token)
		if err != nil || ended == nil || *ended != (Ended{ID: issued.ID, TokenType: issued.TokenType, Role: name}) || f.active(issued) {
			t.Errorf("%s: revoked %+v, %v", name, ended, err)
		}
	}
}

// A revocation that failed is not acknowledged, and one that is tried again
// holds; a record that cannot be read must go all the same.
func TestRevokeOnFaults(t *testing.T) {
	for _, name := range []string{"bearer", "jwt"} {
		for fault, test := range map[string]struct {
			inject func(f *fixture)
			gone   bool // all the same
		}{
			"write refused": {func(f *fixture) { f.storage.Before(storetest.Fail("", storetest.Put, storetest.Delete)) }, false},
			"reply lost":    {func(f *fixture) { f.storage.After(storetest.Fail("", storetest.Put, storetest.Delete)) }, false},
			"caller gone":   {func(f *fixture) { f.ctx = cancelled() }, true},
			"record unread": {func(f *fixture) { f.restart(); f.storage.Before(storetest.Fail(recordPrefix, storetest.Get)) }, true},
		} {
			t.Run(name+"/"+fault, func(t *testing.T) {
				f := newFixture(t)
				issued := f.issue(name)
				ctx := f.ctx
				test.inject(f)
				if _, err := f.revoke(issued); (err == nil) != test.gone {
					t.Errorf("got %v", err)
				}
				f.storage.Heal()
				f.ctx = ctx
				if _, err := f.revoke(issued); err != nil || f.active(issued) {
					t.Errorf("tried again: %v, active %v", err, f.active(issued))
				}
				if f.restart(); f.active(issued) {
					t.Error("active after a restart")
				}
			})
		}
	}
	f := newFixture(t)
	issued := f.issue("bearer")
	entry, err := f.storage.Get(f.ctx, f.records.Key(issued.ID))
	if err != nil {
		t.Fatal(err)
	}
	entry.Value = []byte("{")
	if err := f.storage.Put(f.ctx, entry); err != nil {
		t.Fatal(err)
	}
	f.restart()
	if answer, err := f.Introspect(f.ctx, f.storage, Introspection{Token: issued.Token}); err == nil {
		t.Errorf("a record that cannot be decoded answers %+v", answer)
	}
	if ended, err := f.revoke(issued); err != nil || ended == nil || ended.ID != issued.ID {
		t.Errorf("revoked %v, %v", ended, err)
	}
	if f.active(issued) {
		t.Error("active after its revocation")
	}
	// Expired, a JWT needs nothing, whatever the storage says.
	signed := f.issue("jwt")
	f.now = signed.ExpiresAt
	f.restart()
	f.storage.Before(storetest.Fail("", storetest.Get, storetest.List, storetest.Put, storetest.Delete))
	if ended, err := f.revoke(signed); ended != nil || err != nil {
		t.Errorf("revoked an expired JWT: %v, %v", ended, err)
	}
}

// A revocation that this node's clock takes for too late is written all the same,
// since the clock may be ahead: by lease if it is not the lease's own end, and by
// possession always.
func TestRevokeWhileClockIsAhead(t *testing.T) {
	for _, name := range []string{"api_key", "bearer", "jwt"} {
		for how, revoke := range map[string]func(f *fixture, issued *Issued) error{
			"by lease": func(f *fixture, issued *Issued) error { _, err := f.revoke(issued); return err },
			"by possession": func(f *fixture, issued *Issued) error {
				_, err := f.RevokePossessed(f.ctx, f.storage, issued.Token)
				return err
			},
		} {
			for _, ahead := range []time.Duration{-time.Minute, clockSlack, 23 * time.Hour} {
				f := newFixture(t)
				issued := f.issue(name)
				right := f.now
				f.now = issued.ExpiresAt.Add(ahead)
				if err := revoke(f, issued); err != nil {
					t.Fatal(err)
				}
				f.now = right
				for range 2 {
					if f.active(issued) {
						t.Errorf("%s, %s with the clock %s after its expiry: active once the clock is right", name, how, ahead)
					}
					f.restart()
				}
			}
		}
	}
}

// So is that of a JWT whose key has retired, and by that clock is not published any
// more.
func TestRevokeWhileClockIsPastTheKey(t *testing.T) {
	f := newFixture(t)
	issued := f.issue("jwt")
	if _, err := f.keys.Rotate(f.ctx, f.storage, role.DefaultKey, true, time.Time{}); err != nil {
		t.Fatal(err)
	}
	right := f.now
	f.now = f.now.Add(23 * time.Hour)
	if f.active(issued) {
		t.Error("active after its expiry")
	}
	if _, err := f.RevokePossessed(f.ctx, f.storage, issued.Token); err != nil {
		t.Fatal(err)
	}
	f.now = right
	for range 2 {
		if f.active(issued) {
			t.Error("active once the clock is right")
		}
		f.restart()
	}
}

// The end of a lease costs a JWT nothing; nor does the revocation of one whose list
// is gone.
func TestExpiryOfAJWTCostsNothing(t *testing.T) {
	f := newFixture(t)
	issued := f.issue("jwt")
	f.now = issued.ExpiresAt.Add(clockSlack - time.Second)
	if reads, writes := f.storage.Count(func() {
		if ended, err := f.revoke(issued); err != nil || ended == nil || !ended.Expired {
			t.Errorf("ended %+v, %v", ended, err)
		}
	}); reads+writes != 0 {
		t.Errorf("%d reads and %d writes", reads, writes)
	}
	f.now = f.now.Add(2 * 24 * time.Hour)
	if done, err := f.lists.Tidy(f.ctx, f.storage, margin); err != nil || done.Lists != 1 {
		t.Fatal(done, err)
	}
	if _, writes := f.storage.Count(func() {
		f.revoke(issued)
		f.RevokePossessed(f.ctx, f.storage, issued.Token)
	}); writes != 0 {
		t.Errorf("%d writes for a token whose list is gone", writes)
	}
}

// A JWT that this storage does not know, since a snapshot was restored or another
// node was the leader, is refused, and whoever holds it can revoke it for good.
func TestRevokeWhatIsNotKnown(t *testing.T) {
	for how, revoke := range map[string]func(f *fixture, issued *Issued) (*Ended, error){
		"by lease": (*fixture).revoke,
		"by possession": func(f *fixture, issued *Issued) (*Ended, error) {
			return f.RevokePossessed(f.ctx, f.storage, issued.Token)
		},
	} {
		for lost, prefix := range map[string]string{"a block": "", "the list": "list/"} {
			f := newFixture(t)
			f.issue("jwt")
			snapshot := map[string]*logical.StorageEntry{}
			lists, err := f.storage.List(f.ctx, "list/")
			if err != nil {
				t.Fatal(err)
			}
			for _, id := range lists {
				if snapshot[id], err = f.storage.Get(f.ctx, "list/"+id); err != nil {
					t.Fatal(err)
				}
			}
			var late *Issued
			for range 100 { // into another block
				late = f.issue("jwt")
			}
			for id, entry := range snapshot {
				if prefix != "" {
					err = f.storage.Delete(f.ctx, prefix+id)
				} else {
					err = f.storage.Put(f.ctx, entry)
				}
				if err != nil {
					t.Fatal(err)
				}
			}
			f.restart()
			if got := f.introspect(Introspection{Token: late.Token}); got.Active || got.Reason != NotGiven {
				t.Errorf("%s lost: active %v, %q", lost, got.Active, got.Reason)
			}
			_, writes := f.storage.Count(func() {
				if ended, err := revoke(f, late); err != nil || ended == nil || ended.ID != late.ID {
					t.Errorf("%s lost, revoked %s: %+v, %v", lost, how, ended, err)
				}
			})
			if writes != 1 {
				t.Errorf("%s lost, revoked %s with %d writes", lost, how, writes)
			}
			if prefix != "" { // the old leader's list arrives
				for _, entry := range snapshot {
					if err := f.storage.Put(f.ctx, entry); err != nil {
						t.Fatal(err)
					}
				}
			}
			for range 200 {
				f.issue("jwt")
			}
			for range 2 {
				f.restart()
				if f.active(late) {
					t.Errorf("%s lost, revoked %s: active again", lost, how)
				}
			}
		}
	}
}

// A revocation that failed is written by the next try, whoever makes it, and
// whatever the clock says by then.
func TestRetryOfAFailedRevocationWrites(t *testing.T) {
	possessed := func(f *fixture, issued *Issued) error {
		_, err := f.RevokePossessed(f.ctx, f.storage, issued.Token)
		return err
	}
	leased := func(f *fixture, issued *Issued) error { _, err := f.revoke(issued); return err }
	for _, name := range []string{"bearer", "jwt"} {
		for how, tries := range map[string][2]func(*fixture, *Issued) error{
			"lease, lease":           {leased, leased},
			"lease, possession":      {leased, possessed},
			"possession, lease":      {possessed, leased},
			"possession, possession": {possessed, possessed},
		} {
			for _, ahead := range []time.Duration{-time.Minute, time.Hour} {
				f := newFixture(t)
				issued := f.issue(name)
				right := f.now
				f.now = issued.ExpiresAt.Add(ahead)
				f.storage.Before(storetest.Fail("", storetest.Put, storetest.Delete))
				if tries[0](f, issued) == nil {
					t.Errorf("%s, %s: the first try was acknowledged", name, how)
				}
				f.storage.Heal()
				if err := tries[1](f, issued); err != nil {
					t.Errorf("%s, %s: %v", name, how, err)
				}
				f.now = right
				if f.restart(); f.active(issued) {
					t.Errorf("%s, %s, %s after its expiry: acknowledged, and active after a restart", name, how, ahead)
				}
			}
		}
	}
}

// A renewal whose caller hung up does not bring a token back that was revoked
// since.
func TestGivenUpRenewalDoesNotRevive(t *testing.T) {
	f := newFixture(t)
	issued := f.issue("bearer")
	seen, release := make(chan struct{}), make(chan struct{})
	var renewing atomic.Bool
	renewing.Store(true)
	f.storage.Before(func(op storetest.Op, key string) error {
		if op == storetest.Put && strings.HasPrefix(key, recordPrefix) && renewing.CompareAndSwap(true, false) {
			close(seen)
			<-release
		}
		return nil
	})
	ctx, cancel := context.WithCancel(f.ctx)
	var renewal, revocation sync.WaitGroup
	renewal.Go(func() { f.Renew(ctx, f.storage, issued.ID, 2*time.Hour) })
	<-seen
	cancel()
	var err error
	revocation.Go(func() { _, err = f.revoke(issued) }) // waits for the write
	close(release)
	renewal.Wait()
	revocation.Wait()
	f.storage.Heal()
	if f.restart(); err != nil || f.active(issued) {
		t.Errorf("active after its revocation was acknowledged (%v)", err)
	}
}

// The end of a token is reported when it is confirmed, once.
func TestEndIsReportedOnce(t *testing.T) {
	for _, name := range []string{"api_key", "bearer", "jwt"} {
		for fault, inject := range map[string]func(f *fixture){
			"refused":          func(f *fixture) { f.storage.Before(storetest.Fail("", storetest.Put, storetest.Delete)) },
			"reply lost":       func(f *fixture) { f.storage.After(storetest.Fail("", storetest.Put, storetest.Delete)) },
			"slot not removed": func(f *fixture) { f.storage.Before(storetest.Fail(capPrefix, storetest.Delete)) },
			"record unread": func(f *fixture) {
				f.records.Invalidate(recordPrefix + "x")
				f.storage.Before(storetest.Fail("", storetest.Get, storetest.Delete))
			},
		} {
			f := newFixture(t).capped(10)
			issued := f.issue(name)
			inject(f)
			var reported []*Ended
			for range 3 {
				if ended, err := f.revoke(issued); err == nil && ended != nil {
					reported = append(reported, ended)
				}
			}
			f.storage.Heal()
			for range 3 {
				if ended, err := f.revoke(issued); err != nil {
					t.Error(err)
				} else if ended != nil {
					reported = append(reported, ended)
				}
			}
			if len(reported) != 1 || reported[0].ID != issued.ID || reported[0].Role != name {
				t.Errorf("%s, %s: reported %+v", name, fault, reported)
			}
		}
	}
}

// What is genuine is revoked by who holds it even if its list cannot be read: without
// a lease there is no other way.
func TestRevokePossessedOnAnUnreadableList(t *testing.T) {
	for _, name := range []string{"bearer", "jwt"} {
		f := newFixture(t)
		issued := f.issue(name)
		key := "list/" + issued.Ref.List
		good, err := f.storage.Get(f.ctx, key)
		if err != nil {
			t.Fatal(err)
		}
		bad := *good
		bad.Value = []byte("{")
		if err := f.storage.Put(f.ctx, &bad); err != nil {
			t.Fatal(err)
		}
		f.restart()
		if ended, err := f.RevokePossessed(f.ctx, f.storage, issued.Token); ended == nil || err != nil {
			t.Errorf("%s: %v, %v", name, ended, err)
		}
		if err := f.storage.Put(f.ctx, good); err != nil {
			t.Fatal(err)
		}
		if f.restart(); f.active(issued) {
			t.Errorf("%s: active", name)
		}
		if _, status, err := f.lists.Status(f.ctx, f.storage, issued.Ref); status != statuslist.Revoked || err != nil {
			t.Errorf("%s: its bit is %v, %v", name, status, err)
		}
	}
}
