package engine

import (
	"fmt"
	"net/http"
	"sync"
	"testing"
	"time"

	"github.com/vault-tokens/vault-plugin-secrets-tokens/test/vaulttest"
)

// TestConcurrentMix sends 1,000 requests at once, several of them about the
// same tokens, to a plugin that was built with the race detector. The race
// detector's reports go to the server's log, which is searched when the test
// ends.
func TestConcurrentMix(t *testing.T) {
	const requests, perRequestKind = 1000, 250
	s := own(t, 3*time.Minute, vaulttest.Options{Audit: true})
	ctx := s.Ctx
	s.writeLedgerRoles()
	var l ledger
	// Tokens with n%4 == 0 are renewed and revoked at the same time, others
	// only one of the two; all are introspected meanwhile.
	prepared := make([]*entry, perRequestKind)
	for n := range prepared {
		e, err := l.issue(ctx, s.Deployment, vaulttest.TokenTypes[n%len(vaulttest.TokenTypes)])
		if err != nil {
			t.Fatal(err)
		}
		prepared[n] = e
	}
	toRevoke := func(n int) bool { return n%4 == 0 || n%4 == 1 }
	toRenew := func(n int) bool { return n%4 == 0 || n%4 == 2 }
	requestsOf := []func(n int) error{
		func(n int) error { // issue
			_, err := l.issue(ctx, s.Deployment, vaulttest.TokenTypes[n%len(vaulttest.TokenTypes)])
			return err
		},
		func(n int) error { // introspect; what is right is known afterwards
			data, err := s.IntrospectAt(ctx, s.Mount, prepared[n].Data.Token, nil)
			if err == nil && data["active"] == false && !toRevoke(n) {
				err = fmt.Errorf("%s is inactive and nobody revokes it", prepared[n].Data.TokenID)
			}
			return err
		},
		func(n int) error {
			if !toRenew(n) || !kindOf(prepared[n].issued).Renewable {
				_, err := s.ActiveAt(ctx, s.Mount, prepared[n].Data.Token)
				return err
			}
			err := l.renew(ctx, s.Deployment, prepared[n])
			if err != nil && toRevoke(n) {
				return nil // the revocation came first
			}
			return err
		},
		func(n int) error {
			if !toRevoke(n) {
				_, err := l.issue(ctx, s.Deployment, vaulttest.TokenTypes[n%len(vaulttest.TokenTypes)])
				return err
			}
			if err := l.revoke(ctx, s.Deployment, prepared[n], n/4); err != nil {
				return err
			}
			// Acknowledged: from now on, whatever runs beside it.
			active, err := s.ActiveAt(ctx, s.Mount, prepared[n].Data.Token)
			if active {
				err = fmt.Errorf("%s is active after its revocation", prepared[n].Data.TokenID)
			}
			return err
		},
	}
	start := make(chan struct{})
	errs := make(chan error, requests)
	var running sync.WaitGroup
	for i := range requests {
		running.Go(func() {
			<-start
			if err := requestsOf[i%len(requestsOf)](i / len(requestsOf)); err != nil {
				errs <- err
			}
		})
	}
	began := time.Now()
	close(start)
	running.Wait()
	took := time.Since(began)
	close(errs)
	failed := 0
	for err := range errs {
		if failed++; failed <= 5 {
			t.Error(err)
		}
	}
	if failed > 0 {
		t.Errorf("%d of %d requests failed", failed, requests)
	}
	l.mustHold(t, ctx, s.Deployment, "afterwards")
	t.Logf("%d concurrent requests in %s", requests, took.Round(time.Millisecond))
}

// TestConcurrentRevocationsOfOneToken ends one token by every way at once.
func TestConcurrentRevocationsOfOneToken(t *testing.T) {
	s := common(t, time.Minute)
	s.writeLedgerRoles()
	for _, k := range vaulttest.TokenTypes {
		var l ledger
		e, err := l.issue(s.Ctx, s.Deployment, k)
		if err != nil {
			t.Fatal(err)
		}
		errs := make(chan error, 30)
		var running sync.WaitGroup
		for n := range 30 {
			running.Go(func() { errs <- l.revoke(s.Ctx, s.Deployment, e, n) })
		}
		running.Wait()
		close(errs)
		for err := range errs {
			if err != nil {
				t.Errorf("%s: %v", k.Name, err)
			}
		}
		s.WantInactive(e.Data.Token)
	}
}

// TestMaxTokensHoldsUnderLoad asks for more tokens at once than a role may have.
func TestMaxTokensHoldsUnderLoad(t *testing.T) {
	const limit, asked = 20, 100
	s := common(t, time.Minute)
	s.Role("capped-load", fields{"token_type": "bearer", "max_tokens": limit})
	statuses := make(chan int, asked)
	var running sync.WaitGroup
	for range asked {
		running.Go(func() {
			resp, err := s.Client(s.App).Do(s.Ctx, "GET", "tokens/creds/capped-load", nil)
			if err != nil {
				statuses <- 0
				return
			}
			s.Secrets.Add(resp.String("token"), "capped-load")
			statuses <- resp.Status
		})
	}
	running.Wait()
	close(statuses)
	count := map[int]int{}
	for status := range statuses {
		count[status]++
	}
	if count[http.StatusOK] != limit || count[http.StatusBadRequest] != asked-limit {
		t.Errorf("answers by status: %v, want %d times 200 and %d times 400", count, limit, asked-limit)
	}
}
