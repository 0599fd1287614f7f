package engine

import (
	"fmt"
	"math/rand/v2"
	"net/http"
	"os"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/vault-tokens/vault-plugin-secrets-tokens/test/suite"
	"github.com/vault-tokens/vault-plugin-secrets-tokens/test/vaulttest"
)

// defaultCrashes is how often TestCrashDuringRevocation kills. TOKENS_CRASHES=50
// takes minutes, and meets more moments.
const defaultCrashes = 3

// doomed is tokens that one act ends: a revocation of one, or a kill switch.
type doomed struct {
	about  string
	tokens []*watched
	end    func() error
	acked  bool
	later  bool // the lists say so once all records were looked at
}

// TestCrashDuringRevocation kills Vault or the plugin at random moments while tokens
// are revoked, one by one and by kill switches. What was acknowledged holds after
// each restart, what was not is done by asking again, nothing else is revoked, and
// the pass over all records comes to its end.
func TestCrashDuringRevocation(t *testing.T) {
	rounds := defaultCrashes
	if text := os.Getenv("TOKENS_CRASHES"); text != "" {
		var err error
		if rounds, err = strconv.Atoi(text); err != nil {
			t.Fatal(err)
		}
	}
	s := own(t, 2*time.Minute+time.Duration(rounds)*30*time.Second, vaulttest.Options{Raft: true, Audit: true})
	s.revocableRoles("crash-kept")
	var kept []*watched
	acked, asked, started := 0, 0, time.Now()
	for round := range rounds {
		for _, k := range vaulttest.TokenTypes {
			kept = append(kept, s.watch(s.App, "crash-kept-"+k.Name))
		}
		acts, entity, bystanders := s.prepareCrash(round)
		kept = append(kept, bystanders...)
		s.endWhileKilling(acts, round)
		for _, act := range acts {
			if asked++; act.acked {
				acked++
				s.wantEnded(act, !act.later)
			}
		}
		s.wantKept(kept)
		for _, act := range acts { // asking again works, whatever the first one has done
			if err := act.end(); err != nil {
				t.Fatalf("round %d, %s again: %v", round, act.about, err)
			}
		}
		s.awaitTidied(entity)
		s.awaitIdle()
		for _, act := range acts {
			s.wantEnded(act, true)
		}
		s.wantKept(kept)
	}
	t.Logf("%d kills in %s: %d of %d acts acknowledged before, %d tokens kept", rounds, time.Since(started).Round(time.Second), acked, asked, len(kept))
}

// revocableRoles writes a role of each type, whose tokens all have a record.
func (s *session) revocableRoles(prefix string) {
	s.T.Helper()
	for _, k := range vaulttest.TokenTypes {
		body := k.RoleBody().With(fields{"ttl": "2h", "max_ttl": "4h"})
		if !k.Opaque {
			body["track"] = true
		}
		s.Role(prefix+"-"+k.Name, body)
	}
}

// prepareCrash issues the tokens of a round, and says what will end them.
// Bystanders are of the same entity or role as others that are revoked one by one.
func (s *session) prepareCrash(round int) (acts []*doomed, entity string, bystanders []*watched) {
	s.T.Helper()
	prefix := fmt.Sprintf("crash-%d", round)
	login, entity, err := s.NewUser(s.Ctx, prefix, vaulttest.Policy("tokens/creds/crash-*", "read"))
	if err != nil {
		s.T.Fatal(err)
	}
	s.revocableRoles(prefix)
	post := func(path string) func() error {
		return func() error {
			_, err := s.Root().Must(s.Ctx, http.MethodPost, s.Mount+"/"+path, nil)
			return err
		}
	}
	ofEntity := &doomed{about: "entity", end: post("entities/" + entity + "/revoke"), later: true}
	for _, k := range vaulttest.TokenTypes {
		role := prefix + "-" + k.Name
		ofRole := &doomed{about: "role of " + k.Name, end: post("roles/" + role + "/revoke")}
		for n := range 3 {
			one := s.watch(s.App, "crash-kept-"+k.Name)
			by := vaulttest.Revokers[n]
			acts = append(acts, &doomed{
				about: k.Name + " " + by.Name, tokens: []*watched{one},
				end: func() error { return by.Revoke(s.Ctx, s.Deployment, one.issued) },
			})
			ofRole.tokens = append(ofRole.tokens, s.watch(s.App, role))
			ofEntity.tokens = append(ofEntity.tokens, s.watch(login, "crash-kept-"+k.Name))
		}
		bystanders = append(bystanders, s.watch(s.App, "crash-kept-"+k.Name))
		acts = append(acts, ofRole)
	}
	return append(acts, ofEntity), entity, bystanders
}

// endWhileKilling does all acts, in random order and some at once, and kills the
// plugin or all of Vault when a random number of them was acknowledged, and up to a
// few milliseconds more have passed. It returns when the engine answers again.
func (s *session) endWhileKilling(acts []*doomed, round int) {
	s.T.Helper()
	order := rand.Perm(len(acts))
	turns, done := make(chan *doomed), make(chan bool, len(acts))
	var clients sync.WaitGroup
	for range 3 {
		clients.Go(func() {
			for act := range turns {
				act.acked = act.end() == nil
				done <- act.acked
			}
		})
	}
	go func() {
		defer close(turns)
		for _, i := range order {
			turns <- acts[i]
		}
	}()
	for range rand.IntN(len(acts)) {
		<-done
	}
	moment := time.NewTimer(rand.N(10 * time.Millisecond))
	<-moment.C
	if round%2 == 0 {
		s.Kill()
		clients.Wait()
		s.restart()
	} else {
		s.killPlugin()
		clients.Wait()
	}
	if err := suite.Poll(s.Ctx, 30*time.Second, func() (bool, error) {
		_, err := s.IntrospectAt(s.Ctx, s.Mount, "x", nil)
		return err == nil, err
	}); err != nil {
		s.T.Fatal(err)
	}
}

// wantEnded wants the tokens of an act refused, and listed as revoked.
func (s *session) wantEnded(act *doomed, listed bool) {
	s.T.Helper()
	for _, w := range act.tokens {
		if data := s.Introspect(w.Data.Token, nil); data["active"] != false {
			s.T.Fatalf("%s: %s %s is active", act.about, w.Data.TokenType, w.Data.TokenID)
		}
		if listed {
			s.wantListed(w)
		}
	}
}

// wantKept wants tokens active, and not listed as revoked.
func (s *session) wantKept(tokens []*watched) {
	s.T.Helper()
	lists := map[string]*statusList{}
	for _, w := range tokens {
		s.WantActive(w.issued)
		at, err := w.verifier.place, error(nil)
		if lists[at.List] == nil {
			if lists[at.List], err = fetchStatusList(s.Ctx, s.Deployment, at.List, w.verifier.keySet); err != nil {
				s.T.Fatal(err)
			}
		}
		if lists[at.List].revoked(at.Index) {
			s.T.Fatalf("%s %s is listed as revoked, and nobody did that", w.Data.TokenType, w.Data.TokenID)
		}
	}
}

// awaitIdle waits for the end of what is done in the background.
func (s *session) awaitIdle() {
	s.T.Helper()
	if err := suite.Poll(s.Ctx, time.Minute, func() (bool, error) {
		resp, err := s.Root().Must(s.Ctx, http.MethodGet, s.Mount+"/tidy/status", nil)
		if err != nil {
			return false, err
		}
		return resp.Data()["state"] == "idle", fmt.Errorf("tidy/status: %v", resp.Data())
	}); err != nil {
		s.T.Fatal(err)
	}
}
