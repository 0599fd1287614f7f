package engine

import (
	"bytes"
	"compress/zlib"
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/vault-tokens/vault-plugin-secrets-tokens/test/suite"
	"github.com/vault-tokens/vault-plugin-secrets-tokens/test/vaulttest"
)

// place is where a JWT stands in the status lists (its status.status_list).
type place struct {
	List  string `json:"uri"`
	Index int    `json:"idx"`
}

func placeOf(token string) (place, error) {
	var claims struct {
		Status struct {
			StatusList place `json:"status_list"`
		} `json:"status"`
	}
	parts := strings.Split(token, ".")
	if len(parts) != 3 {
		return place{}, fmt.Errorf("%d parts, want 3", len(parts))
	}
	if err := decodePart(parts[1], &claims); err != nil {
		return place{}, err
	}
	if claims.Status.StatusList.List == "" {
		return place{}, errors.New("the token names no status list")
	}
	return claims.Status.StatusList, nil
}

// statusList is a list that was fetched and verified.
type statusList struct {
	statuses []byte
	size     int // of the answer's body, in bytes
	ttl      time.Duration
	issuedAt time.Time
	expires  time.Time
}

func (l *statusList) revoked(index int) bool { return l.statuses[index/8]>>(index%8)&1 == 1 }

func (l *statusList) count() (revoked int) {
	for i := range 8 * len(l.statuses) {
		if l.revoked(i) {
			revoked++
		}
	}
	return revoked
}

// fetchStatusList does what a verifier that knows only the URI and the key set
// has to do (draft-ietf-oauth-status-list, section 8.3).
func fetchStatusList(ctx context.Context, s *vaulttest.Deployment, uri string, keySet []byte) (*statusList, error) {
	resp, err := s.Anonymous().Must(ctx, "GET", strings.TrimPrefix(uri, s.Addr+"/v1/"), nil)
	if err != nil {
		return nil, err
	}
	if got := resp.Header.Get("Content-Type"); got != "application/statuslist+jwt" {
		return nil, fmt.Errorf("%s: Content-Type %q", uri, got)
	}
	header, _, err := verifyJWT(string(resp.Raw), keySet)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", uri, err)
	}
	var claims struct {
		Subject    string `json:"sub"`
		IssuedAt   int64  `json:"iat"`
		Expires    int64  `json:"exp"`
		TTL        int64  `json:"ttl"`
		StatusList struct {
			Bits int    `json:"bits"`
			List string `json:"lst"`
		} `json:"status_list"`
	}
	if err := decodePart(strings.Split(string(resp.Raw), ".")[1], &claims); err != nil {
		return nil, fmt.Errorf("%s: %w", uri, err)
	}
	list := &statusList{
		size: len(resp.Raw), ttl: time.Duration(claims.TTL) * time.Second,
		issuedAt: time.Unix(claims.IssuedAt, 0), expires: time.Unix(claims.Expires, 0),
	}
	switch cached := "public, max-age=" + strconv.FormatInt(claims.TTL, 10); {
	case header["typ"] != "statuslist+jwt" || claims.Subject != uri || claims.StatusList.Bits != 1:
		return nil, fmt.Errorf("%s: typ %v, sub %q, bits %d", uri, header["typ"], claims.Subject, claims.StatusList.Bits)
	case claims.TTL <= 0 || !list.expires.After(time.Now()) || list.issuedAt.After(time.Now()):
		return nil, fmt.Errorf("%s: ttl %d, from %s to %s", uri, claims.TTL, list.issuedAt, list.expires)
	case resp.Header.Get("Cache-Control") != cached:
		return nil, fmt.Errorf("%s: Cache-Control %q, want %q", uri, resp.Header.Get("Cache-Control"), cached)
	}
	if list.statuses, err = unpackStatuses(claims.StatusList.List); err != nil {
		return nil, fmt.Errorf("%s: %w", uri, err)
	}
	return list, nil
}

func unpackStatuses(lst string) ([]byte, error) {
	const size = 1 << 17 / 8
	raw, err := base64.RawURLEncoding.DecodeString(lst)
	if err != nil {
		return nil, err
	}
	reader, err := zlib.NewReader(bytes.NewReader(raw))
	if err != nil {
		return nil, err
	}
	statuses, err := io.ReadAll(io.LimitReader(reader, 2*size))
	if err == nil && len(statuses) != size {
		err = fmt.Errorf("%d bytes unpacked, want %d", len(statuses), size)
	}
	return statuses, err
}

// offlineVerifier is an API server: it has verified a token's signature once,
// and from then on asks for nothing but the status list, when its copy is older
// than the list's ttl.
type offlineVerifier struct {
	s       *vaulttest.Deployment
	keySet  []byte
	token   string
	place   place
	copy    *statusList
	asked   time.Time
	fetches int
}

func newOfflineVerifier(s *vaulttest.Deployment, keySet []byte, token string) (*offlineVerifier, error) {
	if _, _, err := verifyJWT(token, keySet); err != nil {
		return nil, err
	}
	place, err := placeOf(token)
	return &offlineVerifier{s: s, keySet: keySet, token: token, place: place}, err
}

func (v *offlineVerifier) accepts(ctx context.Context) (bool, error) {
	if now := time.Now(); v.copy == nil || now.Sub(v.asked) >= v.copy.ttl {
		list, err := fetchStatusList(ctx, v.s, v.place.List, v.keySet)
		if err != nil {
			return false, err
		}
		v.copy, v.asked = list, now
		v.fetches++
	}
	return !v.copy.revoked(v.place.Index), nil
}

// TestRevocationReachesOfflineVerifiers measures, from the return of a lease's
// revocation, how long a verifier goes on to accept the token that asks nobody
// and reads the status list as often as its ttl allows.
func TestRevocationReachesOfflineVerifiers(t *testing.T) {
	const revocations, bystanders, ttl = 100, 5, 5 * time.Second // the default
	s := common(t, 2*time.Minute)
	s.Role("status-latency", vaulttest.JWT.RoleBody())
	keySet := s.Must("GET", "tokens/jwks", nil).Raw

	tokens := make([]*issued, revocations+bystanders)
	verifiers := make([]*offlineVerifier, len(tokens))
	for i := range tokens {
		tokens[i] = s.Issue("status-latency", nil)
		var err error
		if verifiers[i], err = newOfflineVerifier(s.Deployment, keySet, tokens[i].Data.Token); err != nil {
			t.Fatal(err)
		}
	}

	var revokedOnes, others sync.WaitGroup
	refused := make([]time.Time, len(tokens))
	failed := make(chan error, len(tokens))
	everyone, stop := context.WithCancel(s.Ctx)
	defer stop()
	started := time.Now()
	for i, v := range verifiers {
		running := &others
		if i < revocations {
			running = &revokedOnes
		}
		running.Go(func() {
			tick := time.NewTicker(10 * time.Millisecond)
			defer tick.Stop()
			for {
				select {
				case <-everyone.Done():
					return
				case <-tick.C:
				}
				ok, err := v.accepts(everyone)
				switch {
				case err != nil && everyone.Err() == nil:
					failed <- err
					return
				case err == nil && !ok:
					refused[i] = time.Now()
					return
				}
			}
		})
	}

	// Spread over more than the ttl, so that verifiers' copies are of any age.
	acknowledged := make([]time.Time, revocations)
	tick := time.NewTicker(ttl / 80)
	defer tick.Stop()
	for i := range revocations {
		<-tick.C
		if err := vaulttest.ByLease.Revoke(s.Ctx, s.Deployment, tokens[i]); err != nil {
			t.Fatal(err)
		}
		acknowledged[i] = time.Now()
		// Whoever asks from now on is told.
		list, err := fetchStatusList(s.Ctx, s.Deployment, verifiers[i].place.List, keySet)
		if err != nil {
			t.Fatal(err)
		}
		if !list.revoked(verifiers[i].place.Index) {
			t.Fatalf("revocation %d is not in the list that was fetched after it", i)
		}
	}
	limit := ttl + time.Second
	allRefuse := make(chan struct{})
	go func() {
		revokedOnes.Wait()
		close(allRefuse)
	}()
	select {
	case <-allRefuse:
	case <-time.After(limit + 5*time.Second): // what is too late is said below
	}
	stop()
	<-allRefuse
	others.Wait()
	select {
	case err := <-failed:
		t.Fatal(err)
	default:
	}

	delays := make([]time.Duration, revocations)
	for i := range delays {
		if refused[i].IsZero() {
			t.Fatalf("verifier %d still accepts a token %s after its revocation", i, time.Since(acknowledged[i]))
		}
		delays[i] = refused[i].Sub(acknowledged[i])
		if delays[i] > limit {
			t.Errorf("verifier %d accepted a revoked token for %s, want at most %s", i, delays[i], limit)
		}
	}
	for i := revocations; i < len(tokens); i++ {
		if !refused[i].IsZero() {
			t.Errorf("verifier %d refuses a token that nobody revoked", i)
		}
	}
	for i, v := range verifiers {
		if most := int(time.Since(started)/ttl) + 2; v.fetches > most {
			t.Errorf("verifier %d fetched the list %d times, want at most %d", i, v.fetches, most)
		}
	}
	slices.Sort(delays)
	t.Logf("%d revocations, ttl %s: refused after %s at most, median %s", revocations, ttl,
		delays[revocations-1].Round(time.Millisecond), delays[revocations/2].Round(time.Millisecond))
}

// defaultIssued is how many tokens TestStatusListScale issues. With
// TOKENS_STATUS_COUNT=100000 it takes minutes, and gives figures for the docs.
const defaultIssued = 5000

// TestStatusListScale issues many JWTs from 16 clients, kills Vault halfway,
// and revokes one in a hundred: no two tokens have the same index, and exactly
// those that were revoked are revoked in the list.
func TestStatusListScale(t *testing.T) {
	const issuers, revokedOneIn = 16, 100
	total := defaultIssued
	if text := os.Getenv("TOKENS_STATUS_COUNT"); text != "" {
		var err error
		if total, err = strconv.Atoi(text); err != nil {
			t.Fatal(err)
		}
	}
	s := in(t, startForScale(t, total != defaultIssued), suite.Deadline(t, 2*time.Minute+time.Duration(total)*20*time.Millisecond))
	s.Role("scale", vaulttest.JWT.RoleBody().With(fields{"generate_lease": false, "ttl": "1h"}))
	s.Issue("scale", nil) // so that the plugin runs
	before := s.pluginMemory()

	started := time.Now()
	tokens := s.issueThroughRestart("scale", issuers, total)
	t.Logf("%d JWTs from %d clients through a restart in %s", len(tokens), issuers, time.Since(started).Round(time.Second))
	places := distinctPlaces(t, tokens)

	keySet := s.Must("GET", "tokens/jwks", nil).Raw
	lists := map[string]bool{}
	for _, p := range places {
		lists[p.List] = true
	}
	// Each instance of the plugin begins with a small list and doubles.
	if most := total/(1<<17) + 5; len(lists) > most {
		t.Errorf("%d tokens are on %d lists, want at most %d", total, len(lists), most)
	}

	// Fetched once, so that what is measured below is a change.
	revoked := map[place]bool{}
	s.checkLists(lists, places, revoked, keySet)
	for i := 0; i < total; i += revokedOneIn {
		if err := s.Expect(s.Ctx, s.App, "POST", "tokens/revoke", fields{"token": tokens[i]}, http.StatusNoContent); err != nil {
			t.Fatal(err)
		}
		revoked[places[i]] = true
	}
	s.checkLists(lists, places, revoked, keySet)
	after := s.pluginMemory()

	// And again from storage alone.
	s.killPlugin()
	if err := suite.Poll(s.Ctx, 30*time.Second, func() (bool, error) {
		_, err := s.Anonymous().Must(s.Ctx, "GET", "tokens/jwks", nil)
		return err == nil, err
	}); err != nil {
		t.Fatal(err)
	}
	s.checkLists(lists, places, revoked, keySet)
	t.Logf("the plugin's memory: %d MiB before, %d MiB after, %d MiB with all read from storage", before>>20, after>>20, s.pluginMemory()>>20)
}

// startForScale is a server on raft. Figures that are to be published are taken
// without the race detector, which multiplies memory and time.
func startForScale(t *testing.T, figures bool) *vaulttest.Deployment {
	t.Helper()
	if !figures {
		return vaulttest.Own(t, vaulttest.Options{Raft: true, Audit: true})
	}
	vault, _ := vaulttest.Binaries(t)
	plugin, err := vaulttest.BuildPlugin(suite.Context(), t.TempDir(), false)
	if err != nil {
		t.Fatal(err)
	}
	s, err := vaulttest.Deploy(suite.Context(), vaulttest.Options{Vault: vault, Plugin: plugin, Raft: true, LogLevel: "warn"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Close)
	return s
}

// issueThroughRestart issues until there are total tokens. Halfway Vault is
// killed and started again; a request that fails is made again.
func (s *session) issueThroughRestart(role string, issuers, total int) (tokens []string) {
	s.T.Helper()
	var mu sync.Mutex
	var issuing sync.WaitGroup
	halfway := make(chan struct{})
	for range issuers {
		issuing.Go(func() {
			for s.Ctx.Err() == nil {
				token, err := s.IssueAt(s.Ctx, s.Client(s.App), s.Mount, role, nil)
				mu.Lock()
				if len(tokens) >= total {
					mu.Unlock()
					return
				}
				if err == nil {
					if tokens = append(tokens, token.Data.Token); len(tokens) == total/2 {
						close(halfway)
					}
				}
				mu.Unlock()
			}
		})
	}
	select {
	case <-halfway:
	case <-s.Ctx.Done():
		s.T.Fatal(context.Cause(s.Ctx))
	}
	s.Kill()
	s.restart()
	issuing.Wait()
	if err := s.Ctx.Err(); err != nil {
		s.T.Fatal(context.Cause(s.Ctx))
	}
	return tokens
}

// distinctPlaces reads where tokens stand, and fails if two stand at one place.
func distinctPlaces(t *testing.T, tokens []string) []place {
	t.Helper()
	seen := map[place]bool{}
	places := make([]place, len(tokens))
	for i, token := range tokens {
		p, err := placeOf(token)
		if err != nil {
			t.Fatal(err)
		}
		if seen[p] {
			t.Fatalf("two tokens have the index %d of %s", p.Index, p.List)
		}
		seen[p], places[i] = true, p
	}
	return places
}

// checkLists compares the published lists with what was revoked, and tells how
// large they are and how long the first answer took.
func (s *session) checkLists(lists map[string]bool, places []place, revoked map[place]bool, keySet []byte) {
	s.T.Helper()
	for uri := range lists {
		list, first, err := s.timedFetch(uri, keySet)
		if err != nil {
			s.T.Fatal(err)
		}
		_, second, err := s.timedFetch(uri, keySet)
		if err != nil {
			s.T.Fatal(err)
		}
		s.T.Logf("a list with %d revoked or never given out takes %d bytes; first answer after %s, second after %s",
			list.count(), list.size, first.Round(100*time.Microsecond), second.Round(100*time.Microsecond))
		for _, p := range places {
			if p.List == uri && list.revoked(p.Index) != revoked[p] {
				s.T.Fatalf("index %d of %s is revoked: %v, want %v", p.Index, uri, list.revoked(p.Index), revoked[p])
			}
		}
	}
}

func (s *session) timedFetch(uri string, keySet []byte) (*statusList, time.Duration, error) {
	start := time.Now()
	list, err := fetchStatusList(s.Ctx, s.Deployment, uri, keySet)
	return list, time.Since(start), err
}

// pluginMemory is the resident set of the plugin's processes, in bytes.
func (s *session) pluginMemory() (bytes int) {
	s.T.Helper()
	pids, err := s.PluginPIDs()
	if err != nil {
		s.T.Fatal(err)
	}
	for _, pid := range pids {
		out, err := exec.Command("ps", "-o", "rss=", "-p", strconv.Itoa(pid)).Output()
		if err != nil {
			s.T.Fatalf("ps: %v", err)
		}
		kilobytes, err := strconv.Atoi(strings.TrimSpace(string(out)))
		if err != nil {
			s.T.Fatalf("ps: %v", err)
		}
		bytes += kilobytes << 10
	}
	return bytes
}
