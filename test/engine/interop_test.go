package engine

import (
	"context"
	"errors"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/vault-tokens/vault-plugin-secrets-tokens/test/suite"
	"github.com/vault-tokens/vault-plugin-secrets-tokens/test/vaulttest"
)

// algorithms are all that a key can have.
var algorithms = []string{"ES256", "ES384", "RS256", "PS256", "EdDSA", "Ed25519"}

// What a library says of a key that the set has not, or has not any more.
const joseNoKey = "ERR_JWKS_NO_MATCHING_KEY"

// keyInfo is the answer of keys/<name>.
type keyInfo struct {
	Algorithm      string       `json:"algorithm"`
	RotationPeriod int          `json:"rotation_period"`
	AllowedRoles   []string     `json:"allowed_roles"`
	NextRotation   string       `json:"next_rotation"`
	CreatedAt      string       `json:"created_at"`
	Versions       []keyVersion `json:"versions"`
}

type keyVersion struct {
	Version   int    `json:"version"`
	KeyID     string `json:"kid"`
	State     string `json:"state"`
	CreatedAt string `json:"created_at"`
	PublicKey string `json:"public_key"`
	NotAfter  string `json:"not_after"`
}

func (s *session) key(name string) keyInfo {
	s.T.Helper()
	var answer struct {
		Data keyInfo `json:"data"`
	}
	suite.Decode(s.T, s.Must("GET", s.Mount+"/keys/"+name, nil).Raw, &answer)
	return answer.Data
}

// inState returns the one version of a key in a state.
func (s *session) inState(key, state string) keyVersion {
	s.T.Helper()
	versions := slices.DeleteFunc(s.key(key).Versions, func(v keyVersion) bool { return v.State != state })
	if len(versions) != 1 {
		s.T.Fatalf("key %s has %d versions that are %s, want 1", key, len(versions), state)
	}
	return versions[0]
}

func (s *session) jwksURI() string { return s.Issuer(s.Mount) + "/jwks" }

// published is the kids in the key set, by alg.
func (s *session) published() map[string]string {
	s.T.Helper()
	resp, err := s.Anonymous().Must(s.Ctx, "GET", s.Mount+"/jwks", nil)
	if err != nil {
		s.T.Fatal(err)
	}
	var set struct {
		Keys []jwk `json:"keys"`
	}
	suite.Decode(s.T, resp.Raw, &set)
	kids := map[string]string{}
	for _, key := range set.Keys {
		kids[key.KeyID] = key.Algorithm
	}
	return kids
}

type verified struct {
	Header  map[string]any `json:"header"`
	Claims  map[string]any `json:"claims"`
	Fetches int            `json:"fetches"`
}

// joseVerifier is an API server that verifies with jose.
type joseVerifier struct {
	s    *session
	node *node
	name string
	alg  string
}

// verifier opens one that has fetched nothing yet. Names must differ.
func (s *session) verifier(n *node, name, alg string) *joseVerifier {
	s.T.Helper()
	if err := n.call(s.Ctx, "open", fields{"verifier": name, "jwksURI": s.jwksURI()}, nil); err != nil {
		s.T.Fatal(err)
	}
	return &joseVerifier{s: s, node: n, name: name, alg: alg}
}

func (v *joseVerifier) args(more fields) fields {
	return fields{
		"verifier": v.name, "issuer": v.s.Issuer(v.s.Mount), "audience": vaulttest.Audiences[0], "algorithms": []string{v.alg},
	}.With(more)
}

func (v *joseVerifier) verify(token string, more fields) (verified, error) {
	var out verified
	err := v.node.call(v.s.Ctx, "verify", v.args(fields{"token": token}).With(more), &out)
	return out, err
}

func (v *joseVerifier) accepts(what string, token *issued) verified {
	v.s.T.Helper()
	out, err := v.verify(token.Data.Token, nil)
	if err != nil {
		v.s.T.Fatalf("%s: jose refuses it: %v", what, err)
	}
	if out.Header["alg"] != v.alg || out.Claims["jti"] != token.Data.TokenID {
		v.s.T.Fatalf("%s: alg %v, jti %v; want %s, %s", what, out.Header["alg"], out.Claims["jti"], v.alg, token.Data.TokenID)
	}
	return out
}

func (v *joseVerifier) refuses(what, token, code string, more fields) {
	v.s.T.Helper()
	_, err := v.verify(token, more)
	var refused *nodeError
	if !errors.As(err, &refused) || refused.Code != code {
		v.s.T.Fatalf("%s: got %v, want jose to say %s", what, err, code)
	}
}

// TestInterop has every algorithm verified by npm's jose and by oauth4webapi,
// which openid-client is made of, from discovery alone, before, during and
// after a rotation; and refused once a key is gone.
func TestInterop(t *testing.T) {
	s := common(t, 5*time.Minute).at("interop")
	if err := s.Enable(s.Ctx, s.Mount, nil); err != nil {
		t.Fatal(err)
	}
	if err := s.SetIssuer(s.Ctx, s.Mount); err != nil {
		t.Fatal(err)
	}
	s.Must("POST", s.Mount+"/config", fields{"status_list_ttl": "1s", "status_list_lifetime": "10m"})
	n := startNode(t)
	var versions map[string]string
	if err := n.call(s.Ctx, "versions", nil, &versions); err != nil {
		t.Fatal(err)
	}
	t.Logf("verified by %v", versions)
	for _, alg := range algorithms {
		s.Must("POST", s.Mount+"/keys/"+alg, fields{"algorithm": alg})
		s.Role(alg, vaulttest.JWT.RoleBody().With(fields{"key": alg}))
	}
	t.Run("discovery", func(t *testing.T) { testDiscovery(s.sub(t), n) })
	t.Run("algorithms", func(t *testing.T) {
		for _, alg := range algorithms {
			t.Run(alg, func(t *testing.T) {
				t.Parallel()
				s := s.sub(t)
				testResource(s, n, alg)
				testRotation(s, n, alg)
				testKeyRemoval(s, n, alg)
				testStatus(s, n, alg)
			})
		}
	})
	t.Run("proof of possession", func(t *testing.T) { testProof(s.sub(t), n) })
}

// testDiscovery has openid-client configure itself.
func testDiscovery(s *session, n *node) {
	issuer := s.Issuer(s.Mount)
	for name, server := range map[string]string{
		"from the issuer":        issuer,
		"from OpenID metadata":   issuer + "/.well-known/openid-configuration",
		"from RFC 8414 metadata": issuer + "/.well-known/oauth-authorization-server",
	} {
		var metadata struct {
			Issuer        string   `json:"issuer"`
			JWKSURI       string   `json:"jwks_uri"`
			Algorithms    []string `json:"id_token_signing_alg_values_supported"`
			SubjectTypes  []string `json:"subject_types_supported"`
			ResponseTypes []string `json:"response_types_supported"`
		}
		if err := n.call(s.Ctx, "discover", fields{"name": name, "server": server}, &metadata); err != nil {
			s.T.Fatalf("%s: openid-client: %v", name, err)
		}
		if metadata.Issuer != issuer || metadata.JWKSURI != s.jwksURI() {
			s.T.Errorf("%s: issuer %q, jwks_uri %q", name, metadata.Issuer, metadata.JWKSURI)
		}
		for _, alg := range algorithms {
			if strings.Contains(server, "oauth-authorization-server") {
				break // RFC 8414 has no such field
			}
			if !slices.Contains(metadata.Algorithms, alg) {
				s.T.Errorf("%s: id_token_signing_alg_values_supported is %q, without %s", name, metadata.Algorithms, alg)
			}
		}
		if strings.Contains(server, "openid") && (len(metadata.SubjectTypes) == 0 || metadata.ResponseTypes == nil) {
			s.T.Errorf("%s: subject_types_supported %q, response_types_supported %q", name, metadata.SubjectTypes, metadata.ResponseTypes)
		}
	}
	// A key set that nobody tells of in discovery is none that a client finds.
	if err := n.call(s.Ctx, "discover", fields{"name": "nowhere", "server": s.Addr + "/v1/no-such-mount"}, nil); err == nil {
		s.T.Error("openid-client configures itself from a mount that does not exist")
	}
}

// testResource verifies with an OAuth library's own access token check, which
// has found the keys by discovery.
func testResource(s *session, n *node, alg string) {
	token := s.Issue(alg, nil)
	var claims map[string]any
	args := fields{"name": "from the issuer", "token": token.Data.Token, "audience": vaulttest.Audiences[1]}
	if err := n.call(s.Ctx, "resource", args, &claims); err != nil {
		s.T.Fatalf("oauth4webapi refuses a token: %v", err)
	}
	if claims["jti"] != token.Data.TokenID || claims["scope"] != "orders:read stock:read" {
		s.T.Errorf("oauth4webapi reads jti %v, scope %v", claims["jti"], claims["scope"])
	}
	var refused *nodeError
	if err := n.call(s.Ctx, "resource", args.With(fields{"audience": "https://other.example.com"}), nil); !errors.As(err, &refused) {
		s.T.Errorf("oauth4webapi, for another audience: %v, want it to refuse", err)
	}
}

func testRotation(s *session, n *node, alg string) {
	name := func(what string) string { return alg + ", " + what }
	early := s.verifier(n, name("early"), alg)
	late := func(what string) *joseVerifier { return s.verifier(n, name(what), alg) }

	// Before: it verifies, and is refused for another audience or issuer, and
	// where another algorithm is expected.
	before := s.Issue(alg, nil)
	early.accepts("before the rotation", before)
	for what, wrong := range map[string]fields{
		"another audience": {"audience": "https://other.example.com"},
		"another issuer":   {"issuer": s.Issuer("tokens")},
	} {
		early.refuses(what, before.Data.Token, "ERR_JWT_CLAIM_VALIDATION_FAILED", wrong)
	}
	early.refuses("another algorithm", before.Data.Token, "ERR_JOSE_ALG_NOT_ALLOWED", fields{"algorithms": []string{"ES512"}})
	early.refuses("a changed token", tampered(before.Data.Token), "ERR_JWS_SIGNATURE_VERIFICATION_FAILED", nil)

	// The next key is there before it signs.
	signing, next := s.inState(alg, "signing"), s.inState(alg, "next")
	if kids := s.published(); kids[signing.KeyID] != alg || kids[next.KeyID] != alg {
		s.T.Fatalf("the key set has %v, want the signing and the next key of %s in it", kids, alg)
	}

	during := s.issueDuring(alg, 4, func() {
		rotated := s.Must("POST", s.Mount+"/keys/"+alg+"/rotate", fields{"force": true})
		if rotated.String("kid") != next.KeyID || rotated.String("next_kid") == "" || rotated.String("next_kid") == next.KeyID {
			s.T.Errorf("rotate answers kid %q and next_kid %q, want %q and a new one", rotated.String("kid"), rotated.String("next_kid"), next.KeyID)
		}
	})
	after := s.Issue(alg, nil)

	// A verifier that has asked once, before the rotation, verifies all of them
	// and never has to ask again.
	var all struct {
		KeyIDs  []string `json:"kids"`
		Fetches int      `json:"fetches"`
	}
	if err := n.call(s.Ctx, "verifyAll", early.args(fields{"tokens": append(during, after.Data.Token)}), &all); err != nil {
		s.T.Fatalf("of %d tokens issued during the rotation: %v", len(during), err)
	}
	slices.Sort(all.KeyIDs)
	if want := slices.Sorted(slices.Values([]string{signing.KeyID, next.KeyID})); !slices.Equal(all.KeyIDs, want) {
		s.T.Errorf("the tokens during the rotation were signed by %q, want %q", all.KeyIDs, want)
	}
	if all.Fetches != 1 {
		s.T.Errorf("the verifier asked for the key set %d times, want once", all.Fetches)
	}

	// One that asks after the rotation still finds the retired key.
	if got := late("after").accepts("issued before the rotation", before).Header["kid"]; got != signing.KeyID {
		s.T.Errorf("signed by %v, want %s", got, signing.KeyID)
	}
	if got := late("new").accepts("issued after the rotation", after).Header["kid"]; got != next.KeyID {
		s.T.Errorf("signed by %v, want %s", got, next.KeyID)
	}
	retired := s.inState(alg, "retired")
	if expires := parseTime(s.T, before.Data.ExpiresAt); parseTime(s.T, retired.NotAfter).Before(expires) {
		s.T.Errorf("the retired key is published until %s, its token lives until %s", retired.NotAfter, expires)
	}

	// An emergency drops them all at once, and says what that breaks.
	dropped := s.Must("POST", s.Mount+"/keys/"+alg+"/rotate-emergency", nil)
	if len(dropped.Warnings()) == 0 {
		s.T.Error("an emergency rotation has no warning")
	}
	fresh := s.Issue(alg, nil)
	verifier := late("after the emergency")
	verifier.accepts("issued after the emergency", fresh)
	for what, token := range map[string]*issued{"two rotations ago": before, "before the emergency": after} {
		verifier.refuses(what, token.Data.Token, joseNoKey, nil)
		s.WantInactive(token.Data.Token)
	}
	s.WantActive(fresh)
	kids := s.published()
	for _, old := range []keyVersion{signing, next, retired} {
		if _, there := kids[old.KeyID]; there {
			s.T.Errorf("the key set has %s after an emergency", old.KeyID)
		}
	}
}

// issueDuring calls f while others issue, and returns what they got: some
// before, some meanwhile, some after.
func (s *session) issueDuring(role string, issuers int, f func()) (tokens []string) {
	s.T.Helper()
	ctx, stop := context.WithCancel(s.Ctx)
	defer stop()
	var mu sync.Mutex
	count := func() int {
		mu.Lock()
		defer mu.Unlock()
		return len(tokens)
	}
	var running sync.WaitGroup
	failed := make(chan error, issuers)
	for range issuers {
		running.Go(func() {
			for ctx.Err() == nil {
				token, err := s.IssueAt(s.Ctx, s.Client(s.App), s.Mount, role, nil)
				if err != nil {
					failed <- err
					return
				}
				mu.Lock()
				tokens = append(tokens, token.Data.Token)
				mu.Unlock()
			}
		})
	}
	more := func() {
		start := count()
		if err := suite.Poll(s.Ctx, 20*time.Second, func() (bool, error) { return count() >= start+2*issuers || len(failed) > 0, nil }); err != nil {
			s.T.Error(err)
		}
	}
	more()
	f()
	more()
	stop()
	running.Wait()
	select {
	case err := <-failed:
		s.T.Errorf("issue during a rotation: %v", err)
	default:
	}
	return tokens
}

// testKeyRemoval deletes a key once its last token has expired. The verifier's
// clock stands still, so that it is the missing key that it refuses.
func testKeyRemoval(s *session, n *node, alg string) {
	name := "gone-" + alg
	s.Must("POST", s.Mount+"/keys/"+name, fields{"algorithm": alg})
	s.Role(name, vaulttest.JWT.RoleBody().With(fields{"key": name, "ttl": "1s"}))
	token := s.Issue(name, nil)
	at := fields{"at": parseTime(s.T, token.Data.IssuedAt).Unix()}
	if _, err := s.verifier(n, name+", there", alg).verify(token.Data.Token, at); err != nil {
		s.T.Fatalf("jose refuses a token of a key that is there: %v", err)
	}
	s.Answers(http.StatusBadRequest, "DELETE", s.Mount+"/keys/"+name, nil)
	s.Must("DELETE", s.Mount+"/roles/"+name, nil)
	// What signed can sign no more: its tokens are bounded by what the key
	// reserved, which is longer than they live.
	s.Must("POST", s.Mount+"/keys/"+name+"/rotate-emergency", nil)
	s.Must("DELETE", s.Mount+"/keys/"+name, nil)
	s.verifier(n, name+", gone", alg).refuses("a token of a deleted key", token.Data.Token, joseNoKey, at)
	s.Answers(http.StatusNotFound, "GET", s.Mount+"/keys/"+name, nil)
}

// statusFacts are what a verifier in interop/statuslist.mjs saw, after it has
// verified the list's signature, typ and sub.
type statusFacts struct {
	Status       int    `json:"status"`
	Index        int    `json:"index"`
	KeyID        string `json:"kid"`
	Algorithm    string `json:"alg"`
	TTL          int    `json:"ttl"`
	Lifetime     int    `json:"lifetime"`
	Bits         int    `json:"bits"`
	Size         int    `json:"size"`
	ContentType  string `json:"contentType"`
	CacheControl string `json:"cacheControl"`
}

// testStatus has a verifier in JavaScript learn of a revocation from the status
// list alone, and of no other; also after the key that signs it was replaced.
func testStatus(s *session, n *node, alg string) {
	verifier := s.verifier(n, alg+", status", alg)
	revoked, other := s.Issue(alg, nil), s.Issue(alg, nil)
	status := func(token *issued) statusFacts {
		s.T.Helper()
		var facts statusFacts
		if err := n.call(s.Ctx, "status", fields{"verifier": verifier.name, "token": token.Data.Token}, &facts); err != nil {
			s.T.Fatalf("the status of a token: %v", err)
		}
		return facts
	}
	facts := status(revoked)
	want := statusFacts{
		Status: 0, Index: facts.Index, KeyID: s.inState(alg, "signing").KeyID, Algorithm: alg, TTL: 1, Lifetime: 600, Bits: 1, Size: 1 << 17,
		ContentType: "application/statuslist+jwt", CacheControl: "public, max-age=1",
	}
	if facts != want {
		s.T.Errorf("the list: %+v, want %+v", facts, want)
	}
	if other := status(other); other.Status != 0 || other.Index == facts.Index {
		s.T.Errorf("another token has status %d and index %d; the first has index %d", other.Status, other.Index, facts.Index)
	}
	if err := vaulttest.ByLease.Revoke(s.Ctx, s.Deployment, revoked); err != nil {
		s.T.Fatal(err)
	}
	if err := suite.Poll(s.Ctx, 10*time.Second, func() (bool, error) { return status(revoked).Status == 1, nil }); err != nil {
		s.T.Fatalf("the verifier still accepts a revoked token: %v", err)
	}
	if got := status(other).Status; got != 0 {
		s.T.Errorf("a token that was not revoked has status %d", got)
	}
	// The signature says nothing of it, which is why there is a list.
	verifier.accepts("a revoked token, by its signature", revoked)

	s.Must("POST", s.Mount+"/keys/"+alg+"/rotate-emergency", nil)
	verifier = s.verifier(n, alg+", status after an emergency", alg)
	third := s.Issue(alg, nil)
	if err := suite.Poll(s.Ctx, 10*time.Second, func() (bool, error) {
		var facts statusFacts
		if err := n.call(s.Ctx, "status", fields{"verifier": verifier.name, "token": third.Data.Token}, &facts); err != nil {
			return false, err
		}
		return facts.Status == 0 && facts.KeyID == s.inState(alg, "signing").KeyID, nil
	}); err != nil {
		s.T.Errorf("the list after an emergency is not signed by the new key: %v", err)
	}
}

// testProof binds a token to a key of the client (RFC 9449), which
// oauth4webapi checks.
func testProof(s *session, n *node) {
	newKey := func(name string) (thumbprint string) {
		var made struct {
			Thumbprint string `json:"jkt"`
		}
		if err := n.call(s.Ctx, "newProofKey", fields{"name": name}, &made); err != nil {
			s.T.Fatal(err)
		}
		return made.Thumbprint
	}
	mine := newKey("mine")
	newKey("a thief's")
	token := s.Issue("ES256", fields{"cnf": fields{"jkt": mine}})
	present := func(with fields) error {
		return n.call(s.Ctx, "resource", fields{"name": "from the issuer", "token": token.Data.Token, "audience": vaulttest.Audiences[0]}.With(with), nil)
	}
	if err := present(fields{"proofKey": "mine"}); err != nil {
		s.T.Errorf("oauth4webapi refuses a token with its holder's proof: %v", err)
	}
	for what, with := range map[string]fields{"without a proof": nil, "with another's proof": {"proofKey": "a thief's"}} {
		var refused *nodeError
		if err := present(with); !errors.As(err, &refused) {
			s.T.Errorf("a bound token %s: %v, want oauth4webapi to refuse it", what, err)
		}
	}
}

// tampered changes a character of a token's claims.
func tampered(token string) string {
	at := strings.LastIndexByte(token, '.') - 5
	replacement := "A"
	if token[at] == 'A' {
		replacement = "B"
	}
	return token[:at] + replacement + token[at+1:]
}
