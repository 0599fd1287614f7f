package engine

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/vault-tokens/vault-plugin-secrets-tokens/test/suite"
)

// TestHangUpsLoseNoSlot issues under a cap to clients that hang up at any moment
// of it. A token whose answer nobody read is live, and can be seen and revoked;
// but it must not happen that a slot is taken by no token: then fewer than
// max_tokens can be live until the next pass over all records, hours later.
func TestHangUpsLoseNoSlot(t *testing.T) {
	const limit, requests, rounds, clients = 20, 2000, 40, 4
	s := common(t, 3*time.Minute).at("hangups")
	if err := s.Enable(s.Ctx, s.Mount, nil); err != nil {
		t.Fatal(err)
	}
	s.Role("capped", fields{"token_type": "api_key", "max_tokens": limit, "ttl": "1h"})
	s.Role("uncapped", fields{"token_type": "api_key"})
	patience := s.patience(clients)
	outcomes, revoked := map[string]int{}, 0
	for range rounds {
		s.hangUp(requests/rounds, clients, patience, outcomes)
		// Or else all that follow are refused, since the cap is reached. What is still
		// under way meets the revocations.
		n, err := s.revokeListed(clients)
		if err != nil {
			t.Fatal(err)
		}
		revoked += n
	}
	t.Logf("%d requests: %v; %d tokens revoked in between", requests, outcomes, revoked)
	if outcomes["hung up"] < requests/4 || revoked < 5*limit {
		t.Error("too few clients hung up, or too few of them while a token was issued, for this to show anything")
	}
	for _, when := range []string{"after the hang-ups", "after all tokens were revoked"} {
		if err := suite.Poll(s.Ctx, 20*time.Second, func() (bool, error) { return s.fillsCap(limit) }); err != nil {
			t.Fatalf("%s: %v", when, err)
		}
		if _, err := s.revokeListed(clients); err != nil {
			t.Fatal(err)
		}
	}
}

// patience returns how long a client waits before it hangs up: 0.3 to 7 ms or, on
// a slow machine, up to somewhat more than it takes to issue a token.
func (s *session) patience(clients int) func() time.Duration {
	s.T.Helper()
	const each, shortest, longest = 10, 300 * time.Microsecond, 7 * time.Millisecond
	took := make([]time.Duration, each*clients)
	errs := inParallel(clients, len(took), func(i int) error {
		began := time.Now()
		_, err := s.IssueAt(s.Ctx, s.Client(s.App), s.Mount, "uncapped", nil)
		took[i] = time.Since(began)
		return err
	})
	if errs != nil {
		s.T.Fatal(errs)
	}
	slices.Sort(took)
	spread := max(longest, took[len(took)/2]*5/4) - shortest
	random := rand.New(rand.NewPCG(20, 2000))
	var mu sync.Mutex
	return func() time.Duration {
		mu.Lock()
		defer mu.Unlock()
		return shortest + time.Duration(random.Int64N(int64(spread)))
	}
}

// hangUp makes requests that end when the client loses patience, and counts what
// came of them.
func (s *session) hangUp(requests, clients int, patience func() time.Duration, outcomes map[string]int) {
	var mu sync.Mutex
	_ = inParallel(clients, requests, func(int) error {
		ctx, cancel := context.WithTimeout(s.Ctx, patience())
		resp, err := s.Client(s.App).Do(ctx, http.MethodGet, s.Mount+"/creds/capped", nil)
		cancel()
		mu.Lock()
		defer mu.Unlock()
		switch {
		case err == nil:
			outcomes[http.StatusText(resp.Status)]++
			s.Secrets.Add(resp.String("token"), "capped")
		case errors.Is(err, context.DeadlineExceeded):
			outcomes["hung up"]++
		default:
			outcomes[err.Error()]++
		}
		return nil
	})
}

// inParallel calls do with 0 to n-1 from several goroutines.
func inParallel(goroutines, n int, do func(i int) error) error {
	errs := make([]error, n)
	var next atomic.Int64
	var running sync.WaitGroup
	for range goroutines {
		running.Go(func() {
			for i := int(next.Add(1)) - 1; i < n; i = int(next.Add(1)) - 1 {
				errs[i] = do(i)
			}
		})
	}
	running.Wait()
	return errors.Join(errs...)
}

// revokeListed revokes the tokens that are listed, by their ids.
func (s *session) revokeListed(clients int) (n int, err error) {
	ids, err := s.listTokens()
	if err != nil {
		return 0, err
	}
	return len(ids), inParallel(clients, len(ids), func(i int) error {
		return s.Expect(s.Ctx, s.RootToken, "DELETE", s.Mount+"/tokens/"+ids[i], nil, http.StatusNoContent, http.StatusOK)
	})
}

func (s *session) listTokens() (ids []string, err error) {
	resp, err := s.Root().Do(s.Ctx, "LIST", s.Mount+"/tokens/", nil)
	if err != nil {
		return nil, err
	}
	keys, _ := resp.Data()["keys"].([]any) // none with a 404
	for _, key := range keys {
		ids = append(ids, fmt.Sprint(key))
	}
	return ids, nil
}

// liveTokens counts the tokens of role "capped" that can be read.
func (s *session) liveTokens() (n int, err error) {
	ids, err := s.listTokens()
	for _, id := range ids {
		resp, err := s.Root().Do(s.Ctx, "GET", s.Mount+"/tokens/"+id, nil)
		switch {
		case err != nil:
			return 0, err
		case resp.Status == http.StatusOK && resp.String("role") == "capped":
			n++
		case resp.Status != http.StatusOK && resp.Status != http.StatusNotFound:
			return 0, fmt.Errorf("tokens/%s: %d %s", id, resp.Status, resp.Raw)
		}
	}
	return n, err
}

// fillsCap issues until the cap refuses, and reports whether then exactly limit
// tokens are live.
func (s *session) fillsCap(limit int) (bool, error) {
	for issued := 0; ; issued++ {
		resp, err := s.Client(s.App).Do(s.Ctx, "GET", s.Mount+"/creds/capped", nil)
		if err != nil {
			return false, err
		}
		if resp.Status == http.StatusOK && issued < limit {
			s.Secrets.Add(resp.String("token"), "capped")
			continue
		}
		if resp.Status != http.StatusBadRequest || !strings.Contains(string(resp.Raw), "max_tokens") {
			s.T.Fatalf("token %d of at most %d: %d %s", issued+1, limit, resp.Status, redact(string(resp.Raw), resp.String("token")))
		}
		break
	}
	live, err := s.liveTokens()
	if live > limit {
		s.T.Fatalf("%d tokens are live, and max_tokens is %d", live, limit)
	}
	return live == limit, errors.Join(err, fmt.Errorf("no more are issued, and %d of %d are live", live, limit))
}
