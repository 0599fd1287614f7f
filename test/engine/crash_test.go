package engine

import (
	"context"
	"net/http"
	"sync"
	"testing"
	"time"

	"github.com/vault-tokens/vault-plugin-secrets-tokens/test/suite"
	"github.com/vault-tokens/vault-plugin-secrets-tokens/test/vaulttest"
)

// TestCrash kills the plugin and Vault, which stores its data with raft, again
// and again. What was acknowledged before must hold after.
func TestCrash(t *testing.T) {
	s := own(t, 3*time.Minute, vaulttest.Options{Raft: true, TLS: true, Audit: true})
	ctx := s.Ctx
	s.writeLedgerRoles()
	var l ledger

	l.use(t, ctx, s.Deployment, 8)
	l.mustHold(t, ctx, s.Deployment, "before any crash")

	s.killPlugin()
	l.mustHoldSoon(t, ctx, s.Deployment, "after kill -9 of the plugin")

	l.use(t, ctx, s.Deployment, 4)
	s.Kill()
	s.restart()
	l.mustHoldSoon(t, ctx, s.Deployment, "after kill -9 of Vault")

	l.useWhileKilling(t, ctx, s)
	l.mustHoldSoon(t, ctx, s.Deployment, "after kill -9 of the plugin under load")

	l.use(t, ctx, s.Deployment, 4)
	s.killPlugin()
	s.Kill()
	s.restart()
	l.mustHoldSoon(t, ctx, s.Deployment, "after kill -9 of both")

	s.Stop()
	s.restart()
	l.mustHoldSoon(t, ctx, s.Deployment, "after an orderly restart")

	// The old leases still end their tokens, and the keys are the same.
	for _, k := range vaulttest.TokenTypes {
		for _, e := range l.live(k, 3) {
			if k.Name == "jwt" {
				s.verifyOffline(e.Data.Token)
			}
			if err := l.revoke(ctx, s.Deployment, e, 0); err != nil {
				t.Fatal(err)
			}
		}
	}
	l.mustHold(t, ctx, s.Deployment, "after revoking by leases that are older than the process")
}

func (s *session) killPlugin() {
	s.T.Helper()
	if err := s.KillPlugin(); err != nil {
		s.T.Fatal(err)
	}
}

func (s *session) restart() {
	s.T.Helper()
	if err := s.Restart(s.Ctx); err != nil {
		s.T.Fatalf("restart: %v\n%s", err, s.LogTail(20))
	}
}

// useWhileKilling issues and revokes from several clients while the plugin is
// killed three times. Requests may fail; acknowledged ones count.
func (l *ledger) useWhileKilling(t *testing.T, ctx context.Context, s *session) {
	t.Helper()
	load, stop := context.WithCancel(ctx)
	defer stop()
	var clients sync.WaitGroup
	for client := range 6 {
		clients.Go(func() {
			for n := client; load.Err() == nil; n++ {
				e, err := l.issue(ctx, s.Deployment, vaulttest.TokenTypes[n%len(vaulttest.TokenTypes)])
				if err == nil && n%2 == 0 {
					_ = l.revoke(ctx, s.Deployment, e, n) // unsure, if it failed
				}
			}
		})
	}
	for range 3 {
		_, before, _ := l.counts()
		err := suite.Poll(ctx, 30*time.Second, func() (bool, error) { // until it is at work
			_, now, _ := l.counts()
			return now >= before+10, nil
		})
		if err != nil {
			t.Fatalf("revocations under load: %v", err)
		}
		s.killPlugin()
	}
	stop()
	clients.Wait()
}

// TestUnsealedAgain covers the state that only sealing drops.
func TestUnsealedAgain(t *testing.T) {
	s := own(t, 2*time.Minute, vaulttest.Options{Raft: true, Audit: true})
	ctx := s.Ctx
	s.writeLedgerRoles()
	var l ledger
	l.use(t, ctx, s.Deployment, 4)
	if err := s.Expect(ctx, s.RootToken, "PUT", "sys/seal", nil, http.StatusNoContent); err != nil {
		t.Fatal(err)
	}
	if err := s.Unseal(ctx); err != nil {
		t.Fatal(err)
	}
	l.mustHoldSoon(t, ctx, s.Deployment, "after seal and unseal")
	l.use(t, ctx, s.Deployment, 4)
	l.mustHold(t, ctx, s.Deployment, "and in use again")
}
