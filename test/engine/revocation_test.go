package engine

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/vault-tokens/vault-plugin-secrets-tokens/test/suite"
	"github.com/vault-tokens/vault-plugin-secrets-tokens/test/vaulttest"
)

// newIntrospectingVerifier is an API server that has asked once about an opaque
// token, and from then on goes by the status list that the answer named.
func newIntrospectingVerifier(ctx context.Context, s *vaulttest.Deployment, keySet []byte, token string) (*offlineVerifier, error) {
	answer, err := s.IntrospectAt(ctx, vaulttest.MountPath, token, nil)
	if err != nil {
		return nil, err
	}
	place, err := placeAnswered(answer)
	return &offlineVerifier{s: s, keySet: keySet, token: token, place: place}, err
}

// placeAnswered is the place that an answer of introspection names.
func placeAnswered(answer map[string]any) (place, error) {
	var named struct {
		Status struct {
			StatusList place `json:"status_list"`
		} `json:"status"`
	}
	raw, err := json.Marshal(answer)
	if err == nil {
		err = json.Unmarshal(raw, &named)
	}
	if err == nil && named.Status.StatusList.List == "" {
		err = fmt.Errorf("introspection names no status list: %v", answer)
	}
	return named.Status.StatusList, err
}

// watched is a token, the verifier that goes by its list, and when that one
// refused it.
type watched struct {
	*issued
	verifier     *offlineVerifier
	acknowledged time.Time // the revocation; zero if nobody revokes it
	refused      time.Time
	failed       error
	done         chan struct{} // closed when the verifier looks no more
}

// watch issues a token to the holder of a Vault token, and asks about it once.
func (s *session) watch(vaultToken, role string) *watched {
	s.T.Helper()
	token, err := s.IssueAt(s.Ctx, s.Client(vaultToken), s.Mount, role, nil)
	if err != nil {
		s.T.Fatal(err)
	}
	w := &watched{issued: token, done: make(chan struct{})}
	keySet := s.Must("GET", s.Mount+"/jwks", nil).Raw
	if w.verifier, err = newIntrospectingVerifier(s.Ctx, s.Deployment, keySet, token.Data.Token); err != nil {
		s.T.Fatal(err)
	}
	return w
}

// poll has the verifier look until it refuses the token, or ctx ends.
func (w *watched) poll(ctx context.Context) {
	defer close(w.done)
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		ok, err := w.verifier.accepts(ctx)
		switch {
		case ctx.Err() != nil:
			return
		case err != nil:
			w.failed = err
			return
		case !ok:
			w.refused = time.Now()
			return
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

// pollAll has all verifiers look, until settle: it waits for those whose token is
// revoked, at most so long, and stops the others.
func pollAll(ctx context.Context, all []*watched) (settle func(limit time.Duration)) {
	ctx, cancel := context.WithCancel(ctx)
	for _, w := range all {
		go w.poll(ctx)
	}
	return func(limit time.Duration) {
		late := time.After(limit)
		for _, w := range all {
			if w.acknowledged.IsZero() {
				continue
			}
			select {
			case <-w.done:
			case <-late: // what is too late is said by wantRefused
				cancel()
			}
		}
		cancel()
		for _, w := range all {
			<-w.done
		}
	}
}

// TestRevocationOfOpaqueTokensReachesVerifiers measures, from the acknowledgement of
// a revocation, how long a verifier goes on to accept an opaque token that goes by
// the status list which introspection named.
func TestRevocationOfOpaqueTokensReachesVerifiers(t *testing.T) {
	const revocations, bystanders, ttl = 100, 6, 5 * time.Second // the default
	const limit = ttl + time.Second
	s := common(t, 2*time.Minute)
	kinds := []vaulttest.TokenType{vaulttest.APIKey, vaulttest.Bearer}
	for _, k := range kinds {
		s.Role("reach-"+k.Name, k.RoleBody())
	}
	all := make([]*watched, revocations+bystanders)
	for i := range all {
		all[i] = s.watch(s.App, "reach-"+kinds[i%len(kinds)].Name)
	}
	settle := pollAll(s.Ctx, all)
	defer settle(0)
	// Spread over more than the ttl, so that verifiers' copies are of any age.
	tick := time.NewTicker(ttl / 80)
	defer tick.Stop()
	for i, w := range all[:revocations] {
		<-tick.C
		if err := vaulttest.Revokers[i/len(kinds)%len(vaulttest.Revokers)].Revoke(s.Ctx, s.Deployment, w.issued); err != nil {
			t.Fatal(err)
		}
		w.acknowledged = time.Now()
		s.wantListed(w) // whoever asks from now on is told
	}
	settle(limit + 5*time.Second)
	wantRefused(t, all, limit)
}

// wantListed fetches the list of a token, which must say that it is revoked.
func (s *session) wantListed(w *watched) {
	s.T.Helper()
	list, err := fetchStatusList(s.Ctx, s.Deployment, w.verifier.place.List, w.verifier.keySet)
	if err != nil {
		s.T.Fatal(err)
	}
	if !list.revoked(w.verifier.place.Index) {
		s.T.Fatalf("%s %s is not in the list that was fetched after its revocation", w.Data.TokenType, w.Data.TokenID)
	}
}

// wantRefused holds verifiers to the bound, and to refusing nothing else.
func wantRefused(t *testing.T, all []*watched, limit time.Duration) {
	t.Helper()
	var delays []time.Duration
	for _, w := range all {
		about := w.Data.TokenType + " " + w.Data.TokenID
		switch {
		case w.failed != nil:
			t.Errorf("%s: %v", about, w.failed)
		case w.acknowledged.IsZero() && !w.refused.IsZero():
			t.Errorf("%s is refused, and nobody revoked it", about)
		case w.acknowledged.IsZero():
		case w.refused.IsZero():
			t.Errorf("%s is still accepted %s after its revocation", about, time.Since(w.acknowledged))
		default:
			delay := w.refused.Sub(w.acknowledged)
			if delays = append(delays, delay); delay > limit {
				t.Errorf("%s was accepted for %s, want at most %s", about, delay, limit)
			}
		}
	}
	if len(delays) == 0 {
		t.Fatal("no token was revoked and refused")
	}
	slices.Sort(delays)
	t.Logf("%d revoked: refused after %s at most, median %s", len(delays),
		delays[len(delays)-1].Round(time.Millisecond), delays[len(delays)/2].Round(time.Millisecond))
}

// TestKillSwitchesReachVerifiers ends roles and an entity: introspection refuses
// their tokens at once, and so does, within the bound, a verifier that goes by the
// lists. For an entity, that counts from the end of the pass over all records.
func TestKillSwitchesReachVerifiers(t *testing.T) {
	const limit = 5*time.Second + time.Second // status_list_ttl, and one
	s := common(t, 2*time.Minute)
	login, entity, err := s.NewUser(s.Ctx, "kill-switch", vaulttest.Policy("tokens/creds/kill-*", "read"))
	if err != nil {
		t.Fatal(err)
	}
	var all, ofRoles, ofEntity []*watched
	for _, k := range vaulttest.TokenTypes {
		s.Role("kill-role-"+k.Name, k.RoleBody())
		body := k.RoleBody()
		if !k.Opaque {
			body["track"] = true
		}
		s.Role("kill-entity-"+k.Name, body)
		for range 5 {
			ofRoles = append(ofRoles, s.watch(s.App, "kill-role-"+k.Name))
			ofEntity = append(ofEntity, s.watch(login, "kill-entity-"+k.Name))
		}
		all = append(all, s.watch(s.App, "kill-entity-"+k.Name))
	}
	all = append(append(all, ofRoles...), ofEntity...)
	settle := pollAll(s.Ctx, all)
	defer settle(0)
	for _, k := range vaulttest.TokenTypes {
		s.Must("POST", s.Mount+"/roles/kill-role-"+k.Name+"/revoke", nil)
		for _, w := range ofRoles {
			if w.Data.TokenType == k.Name {
				w.acknowledged = time.Now()
				s.WantInactive(w.Data.Token)
				s.wantListed(w)
			}
		}
	}
	s.Must("POST", s.Mount+"/entities/"+entity+"/revoke", nil)
	for _, w := range ofEntity {
		s.WantInactive(w.Data.Token)
	}
	s.awaitTidied(entity)
	for _, w := range ofEntity {
		w.acknowledged = time.Now() // the pass has ended
		s.wantListed(w)
	}
	settle(limit + 5*time.Second)
	wantRefused(t, all, limit)
}

// awaitTidied waits until all records were looked at since an entity was cut off.
func (s *session) awaitTidied(entity string) {
	s.T.Helper()
	if err := suite.Poll(s.Ctx, time.Minute, func() (bool, error) {
		resp, err := s.Root().Must(s.Ctx, http.MethodGet, s.Mount+"/entities/"+entity, nil)
		if err != nil {
			return false, err
		}
		return resp.Data()["tidied"] == true, fmt.Errorf("not tidied: %s", strings.TrimSpace(string(resp.Raw)))
	}); err != nil {
		s.T.Fatal(err)
	}
}
