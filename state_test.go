package tokens

import (
	"bytes"
	"compress/zlib"
	"context"
	"encoding/base64"
	"encoding/json"
	"io"
	"maps"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/golang-jwt/jwt/v5"
	"github.com/hashicorp/vault/sdk/logical"
)

// state is what an earlier build left in a real Vault's storage, and what it
// answered about it. test/state makes the files; what is in them stays true of
// every later build.
type state struct {
	Made     time.Time                  `json:"made"`
	ClientIP string                     `json:"client_ip"`
	Storage  map[string]json.RawMessage `json:"storage"`
	Reads    map[string]json.RawMessage `json:"reads"` // answers by path; of a list if it ends in a slash
	Tokens   []oldToken                 `json:"tokens"`
	Checks   []struct {
		Request map[string]any  `json:"request"`
		Answer  json.RawMessage `json:"answer"`
	} `json:"checks"`
}

type oldToken struct {
	About string         `json:"about"`
	Role  string         `json:"role"`
	Token string         `json:"token"`
	State string         `json:"state"` // live, revoked, expired, dropped with its key, ended with its role, or cut off with its entity
	Lease map[string]any `json:"lease"` // internal data; nil without a lease
	// Place is an opaque token's in the status lists. Early builds gave it none.
	Place  *oldPlace       `json:"place"`
	Answer json.RawMessage `json:"answer"`
}

// oldPlace is a place as answers and claims name it.
type oldPlace struct {
	URI   string `json:"uri"`
	Index int    `json:"idx"`
}

func (t *oldToken) live() bool { return t.State == "live" }

func (t *oldToken) isJWT() bool { return strings.Count(t.Token, ".") == 2 }

// secret is the token's lease, as Vault hands it to the engine.
func (t *oldToken) secret() *logical.Secret { return &logical.Secret{InternalData: t.Lease} }

// oldMount is a mount on the storage that an earlier build left.
type oldMount struct {
	*mount
	state *state
}

// load starts the engine on the storage, a minute after it was left.
func (s *state) load(t *testing.T) *oldMount {
	t.Helper()
	m := newMount(t)
	for key, value := range s.Storage {
		var stored bytes.Buffer // without the file's indentation
		if err := json.Compact(&stored, value); err != nil {
			t.Fatal(err)
		}
		if err := m.storage.Put(context.Background(), &logical.StorageEntry{Key: key, Value: stored.Bytes()}); err != nil {
			t.Fatal(err)
		}
	}
	m.clock.Advance(s.Made.Add(time.Minute).Sub(m.clock.Now()))
	m.restart()
	return &oldMount{m, s}
}

// TestStoredState holds this build to what every earlier one stored.
func TestStoredState(t *testing.T) {
	files, err := filepath.Glob("testdata/state/*.json")
	if err != nil || len(files) == 0 {
		t.Fatal("no fixtures", err)
	}
	for _, file := range files {
		raw, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		s := &state{}
		if err := json.Unmarshal(raw, s); err != nil {
			t.Fatal(err)
		}
		for name, check := range map[string]func(*oldMount){
			"reads":            (*oldMount).checkReads,
			"introspection":    (*oldMount).checkIntrospection,
			"status lists":     (*oldMount).checkStatusLists,
			"issue":            (*oldMount).checkIssue,
			"caps":             (*oldMount).checkCaps,
			"renewal":          (*oldMount).checkRenewal,
			"revoke by lease":  (*oldMount).checkRevokeByLease,
			"revoke by id":     (*oldMount).checkRevokeByID,
			"revoke possessed": (*oldMount).checkRevokePossessed,
			"rotation":         (*oldMount).checkRotation,
			"expiry":           (*oldMount).checkExpiry,
			"retired keys":     (*oldMount).checkRetiredKeys,
			"tidying keeps":    (*oldMount).checkTidyKeeps,
			"tidying removes":  (*oldMount).checkTidyRemoves,
			"rewrite":          (*oldMount).checkRewrite,
		} {
			t.Run(filepath.Base(file)+" "+name, func(t *testing.T) { check(s.load(t)) })
		}
	}
}

func (m *oldMount) checkReads() {
	m.t.Helper()
	for path, want := range m.state.Reads {
		m.same(path, m.read(path), m.withNewFields(path, want))
	}
}

// withNewFields adds to what an earlier build answered the fields that it did not
// have. They have their defaults.
func (m *oldMount) withNewFields(path string, answer json.RawMessage) json.RawMessage {
	m.t.Helper()
	var added string
	switch {
	case path == "tokens/":
		return m.withKeyInfo(answer)
	case strings.HasPrefix(path, "tokens/"):
		return m.withoutLastSeen(answer)
	case path == "config":
		added = `{"allowed_audiences": ["*"], "standby_introspection": "forward"}`
	case strings.HasPrefix(path, "roles/") && path != "roles/":
		added = `{"allowed_metadata": [], "require_cnf": false, "track": false}`
	case strings.HasPrefix(path, "keys/") && path != "keys/":
		added = `{"allowed_audiences": ["*"]}`
	case strings.HasPrefix(path, ".well-known/"):
		added = `{
			"introspection_endpoint": "` + testIssuer + `/oauth2/introspect", "introspection_endpoint_auth_methods_supported": ["Bearer"],
			"revocation_endpoint": "` + testIssuer + `/oauth2/revoke", "revocation_endpoint_auth_methods_supported": ["Bearer"]
		}`
	default:
		return answer
	}
	fields := m.decode(json.RawMessage(added)).(map[string]any)
	maps.Copy(fields, m.decode(answer).(map[string]any))
	all, err := json.Marshal(fields)
	if err != nil {
		m.t.Fatal(path, err)
	}
	return all
}

// withoutLastSeen takes from an answer what the process knew that gave it, and had
// not stored yet.
func (m *oldMount) withoutLastSeen(answer json.RawMessage) json.RawMessage {
	m.t.Helper()
	token := m.decode(answer).(map[string]any)
	delete(token, "last_introspected_at")
	raw, err := json.Marshal(token)
	if err != nil {
		m.t.Fatal(err)
	}
	return raw
}

// withKeyInfo makes of a list of all records, which is what an early build
// answered, one of live tokens, with what the build answered about each.
func (m *oldMount) withKeyInfo(answer json.RawMessage) json.RawMessage {
	m.t.Helper()
	list := m.decode(answer).(map[string]any)
	if _, ok := list["key_info"]; ok {
		return answer
	}
	keys, info := []any{}, map[string]any{}
	for _, id := range list["keys"].([]any) {
		read, ok := m.state.Reads["tokens/"+id.(string)]
		if !ok { // it had expired
			continue
		}
		token := m.decode(read).(map[string]any)
		maps.DeleteFunc(token, func(name string, _ any) bool {
			return !slices.Contains([]string{"token_type", "role", "entity_id", "display_name", "issued_at", "expires_at"}, name)
		})
		keys, info[id.(string)] = append(keys, id), token
	}
	live, err := json.Marshal(map[string]any{"keys": keys, "key_info": info})
	if err != nil {
		m.t.Fatal(err)
	}
	return live
}

// read answers with a path's data or, if it has one, its raw body.
func (m *oldMount) read(path string) any {
	m.t.Helper()
	var operation logical.Operation = logical.ReadOperation
	if strings.HasSuffix(path, "/") {
		operation = logical.ListOperation
	}
	resp := m.must(operation, path, nil)
	if resp == nil {
		m.t.Fatalf("%s: there is none", path)
	}
	if body, ok := resp.Data[logical.HTTPRawBody].([]byte); ok {
		return json.RawMessage(body)
	}
	return resp.Data
}

func (m *oldMount) checkIntrospection() {
	m.t.Helper()
	for _, token := range m.state.Tokens {
		m.same(token.About, m.withoutStatus(m.introspect(token.Token), token.Answer), token.Answer)
	}
	for _, check := range m.state.Checks {
		resp := m.must(logical.UpdateOperation, "introspect", check.Request)
		m.same("check", m.withoutStatus(resp.Data, check.Answer), check.Answer)
	}
}

// withoutStatus takes the status from an answer that an earlier build gave without.
// Only JWTs had a bit then.
func (m *oldMount) withoutStatus(answer map[string]any, before json.RawMessage) map[string]any {
	m.t.Helper()
	if _, had := m.decode(before).(map[string]any)["status"]; had {
		return answer
	}
	if _, has := answer["status"]; has != (answer["token_type"] == "jwt") {
		m.t.Errorf("a %v has a status: %v", answer["token_type"], has)
	}
	answer = maps.Clone(answer)
	delete(answer, "status")
	return answer
}

func (m *oldMount) introspect(token string) map[string]any {
	m.t.Helper()
	return m.must(logical.UpdateOperation, "introspect", map[string]any{"token": token, "client_ip": m.state.ClientIP}).Data
}

// expect checks whether a token is active.
func (m *oldMount) expect(about, token string, active bool) {
	m.t.Helper()
	if got := m.introspect(token)["active"]; got != active {
		m.t.Errorf("%s: active is %v, want %v", about, got, active)
	}
}

// expectUnchanged checks that every token but the ones named is still as it
// was.
func (m *oldMount) expectUnchanged(but ...string) {
	m.t.Helper()
	for _, token := range m.state.Tokens {
		if !slices.Contains(but, token.Token) {
			m.expect(token.About, token.Token, token.live())
		}
	}
}

func (m *oldMount) checkStatusLists() {
	m.t.Helper()
	revoked, jwts, ended := map[string][]int{}, map[string]bool{}, map[string]bool{}
	for _, token := range m.state.Tokens {
		at, ok := m.place(token)
		if !ok {
			continue
		}
		if revoked[at.URI] == nil {
			revoked[at.URI] = []int{}
		}
		jwts[at.URI] = token.isJWT()
		switch token.State {
		case "ended":
			ended[at.URI] = true
			fallthrough
		case "revoked":
			revoked[at.URI] = append(revoked[at.URI], at.Index)
		}
	}
	if len(jwts) == 0 {
		m.t.Fatal("no place in the fixture")
	}
	for uri, want := range revoked {
		slices.Sort(want)
		got := m.statusList(uri)
		if ended[uri] || !jwts[uri] { // with all that the role reserved, or that has no record
			got = m.onlyIssued(uri, got)
		}
		if !slices.Equal(got, want) {
			m.t.Errorf("%s: revoked are %v, want %v", uri, got, want)
		}
	}
}

// onlyIssued returns the indexes at which a token of the fixture stands.
func (m *oldMount) onlyIssued(uri string, indexes []int) []int {
	issued := map[int]bool{}
	for _, token := range m.state.Tokens {
		if at, ok := m.place(token); ok && at.URI == uri {
			issued[at.Index] = true
		}
	}
	return slices.DeleteFunc(indexes, func(i int) bool { return !issued[i] })
}

// place is where a token stands; an opaque one of an early build stands nowhere.
func (m *oldMount) place(token oldToken) (at oldPlace, ok bool) {
	m.t.Helper()
	switch {
	case token.isJWT():
		return m.placeIn(m.claims(token.Token)), true
	case token.Place != nil:
		return *token.Place, true
	}
	return oldPlace{}, false
}

// placeIn reads the status of claims, or of an answer of introspection.
func (m *oldMount) placeIn(claims map[string]any) (at oldPlace) {
	m.t.Helper()
	status, _ := claims["status"].(map[string]any)
	raw, err := json.Marshal(status["status_list"])
	if err == nil {
		err = json.Unmarshal(raw, &at)
	}
	if err != nil || at.URI == "" {
		m.t.Fatalf("no place in %v: %v", claims, err)
	}
	return at
}

// reserved is how many indexes of a list the earlier build may have given out.
func (m *oldMount) reserved(id string) int {
	m.t.Helper()
	var list struct {
		Reserved int      `json:"reserved"` // of format 0
		Blocks   [][2]int `json:"blocks"`   // role and size
	}
	err := json.Unmarshal(m.state.Storage["list/"+id], &list)
	reserved := list.Reserved
	for _, block := range list.Blocks {
		reserved += block[1]
	}
	if err != nil || reserved == 0 {
		m.t.Fatal(id, list, err)
	}
	return reserved
}

// statusList verifies the list as anybody can, and returns the indexes that
// are set in it, of those that may have been given out. All others must be.
func (m *oldMount) statusList(uri string) (set []int) {
	m.t.Helper()
	body := m.read("status/" + uri[strings.LastIndexByte(uri, '/')+1:]).(json.RawMessage)
	var keys jose.JSONWebKeySet
	if err := json.Unmarshal(m.read("jwks").(json.RawMessage), &keys); err != nil {
		m.t.Fatal(err)
	}
	var claims struct {
		jwt.RegisteredClaims
		StatusList struct {
			Bits int    `json:"bits"`
			List string `json:"lst"`
		} `json:"status_list"`
	}
	_, err := jwt.NewParser(jwt.WithTimeFunc(m.clock.Now), jwt.WithExpirationRequired(), jwt.WithSubject(uri)).ParseWithClaims(string(body), &claims, func(token *jwt.Token) (any, error) {
		return keys.Key(token.Header["kid"].(string))[0].Key, nil
	})
	if err != nil {
		m.t.Fatalf("%s: %v", uri, err)
	}
	compressed, err := zlib.NewReader(base64.NewDecoder(base64.RawURLEncoding, strings.NewReader(claims.StatusList.List)))
	if err != nil || claims.StatusList.Bits != 1 {
		m.t.Fatalf("%s: %d bits, %v", uri, claims.StatusList.Bits, err)
	}
	bits, err := io.ReadAll(compressed)
	if err != nil {
		m.t.Fatalf("%s: %v", uri, err)
	}
	reserved := m.reserved(uri[strings.LastIndexByte(uri, '/')+1:])
	for i := range len(bits) * 8 {
		isSet := bits[i/8]>>(i%8)&1 == 1
		switch {
		case i < reserved && isSet:
			set = append(set, i)
		case i >= reserved && !isSet:
			m.t.Fatalf("%s: index %d is good, and was never given out", uri, i)
		}
	}
	return set
}

// checkIssue has every role issue. No token may get the place of another.
func (m *oldMount) checkIssue() {
	m.t.Helper()
	taken := map[oldPlace]string{}
	take := func(about string, at oldPlace) {
		m.t.Helper()
		if other, twice := taken[at]; twice {
			m.t.Errorf("%s has the place of %s", about, other)
		}
		taken[at] = about
	}
	for _, token := range m.state.Tokens {
		if at, ok := m.place(token); ok {
			take(token.About, at)
		}
	}
	for _, name := range m.list("roles/") {
		if m.room(name) == 0 {
			continue
		}
		issued := m.must(logical.ReadOperation, "creds/"+name, nil).Data
		m.expect("a new token of role "+name, issued["token"].(string), true)
		take("a new token of role "+name, m.placeIn(m.introspect(issued["token"].(string))))
	}
	m.expectUnchanged()
}

// list returns the names that a list had.
func (m *oldMount) list(path string) []string {
	m.t.Helper()
	var names struct {
		Keys []string `json:"keys"`
	}
	if err := json.Unmarshal(m.state.Reads[path], &names); err != nil || len(names.Keys) == 0 {
		m.t.Fatalf("%s: none in the fixture: %v", path, err)
	}
	return names.Keys
}

// room is how many more tokens a role's cap allows, as the storage was left;
// -1 if the role has none.
func (m *oldMount) room(role string) int {
	m.t.Helper()
	var settings struct {
		MaxTokens int `json:"max_tokens"`
	}
	if err := json.Unmarshal(m.state.Reads["roles/"+role], &settings); err != nil {
		m.t.Fatal(role, err)
	}
	if settings.MaxTokens == 0 {
		return -1
	}
	for _, token := range m.state.Tokens {
		if token.Role == role && token.live() {
			settings.MaxTokens--
		}
	}
	return settings.MaxTokens
}

// checkCaps issues up to the cap of every role, and one more when a token that
// counted has gone.
func (m *oldMount) checkCaps() {
	m.t.Helper()
	checked := 0
	for _, token := range m.state.Tokens {
		if !token.live() || !slices.Contains(m.list("roles/"), token.Role) || m.room(token.Role) < 0 {
			continue
		}
		m = m.state.load(m.t)
		for range m.room(token.Role) {
			m.must(logical.ReadOperation, "creds/"+token.Role, nil)
		}
		full := func() {
			m.t.Helper()
			if message := m.refused(logical.ReadOperation, "creds/"+token.Role, nil); !strings.Contains(message, "max_tokens") {
				m.t.Errorf("%s: refused with %q", token.Role, message)
			}
		}
		full()
		m.must(logical.UpdateOperation, "revoke", map[string]any{"token": token.Token})
		m.must(logical.ReadOperation, "creds/"+token.Role, nil)
		full()
		checked++
	}
	if checked == 0 {
		m.t.Error("no token counts towards a cap in the fixture")
	}
}

// checkRenewal renews every opaque token that has a lease. That of a role that
// is gone cannot be, but lives on.
func (m *oldMount) checkRenewal() {
	m.t.Helper()
	renewed := 0
	for _, token := range m.state.Tokens {
		if token.Lease == nil || token.isJWT() {
			continue
		}
		resp, err := m.renew(token.secret())
		if !token.live() || !slices.Contains(m.list("roles/"), token.Role) {
			if err == nil {
				m.t.Errorf("%s: was renewed", token.About)
			}
			continue
		}
		if err != nil || resp.IsError() {
			m.t.Errorf("%s: %v %v", token.About, err, resp)
			continue
		}
		want := m.clock.Now().Truncate(time.Second).Add(resp.Secret.TTL).Unix()
		if got := m.introspect(token.Token)["exp"]; got != want {
			m.t.Errorf("%s: exp is %v, want %v", token.About, got, want)
		}
		renewed++
	}
	if renewed == 0 {
		m.t.Error("no lease in the fixture that could be renewed")
	}
	m.expectUnchanged()
}

// checkRevokeByLease ends every lease, and so nothing else. Those of tokens
// that were revoked another way are still there.
func (m *oldMount) checkRevokeByLease() {
	m.t.Helper()
	var ended []string
	for _, token := range m.state.Tokens {
		if token.Lease == nil {
			continue
		}
		for range 2 {
			if err := m.revoke(token.secret()); err != nil {
				m.t.Errorf("%s: %v", token.About, err)
			}
		}
		m.checkEnded(token)
		ended = append(ended, token.Token)
	}
	m.expectUnchanged(ended...)
	m.restart()
	m.expectUnchanged(ended...)
}

// checkEnded checks that a token is inactive, and in its list if it was live.
func (m *oldMount) checkEnded(token oldToken) {
	m.t.Helper()
	m.expect(token.About, token.Token, false)
	if !token.live() {
		return
	}
	if at, ok := m.place(token); ok && !slices.Contains(m.statusList(at.URI), at.Index) {
		m.t.Errorf("%s: is not in its status list", token.About)
	}
}

func (m *oldMount) checkRevokeByID() {
	m.t.Helper()
	var ended []string
	for _, token := range m.state.Tokens {
		if !token.live() || token.isJWT() {
			continue
		}
		id := m.introspect(token.Token)["token_id"].(string)
		if resp := m.must(logical.DeleteOperation, "tokens/"+id, nil); resp != nil {
			m.t.Errorf("%s: %v", token.About, resp.Warnings)
		}
		m.checkEnded(token)
		ended = append(ended, token.Token)
	}
	m.expectUnchanged(ended...)
}

func (m *oldMount) checkRevokePossessed() {
	m.t.Helper()
	var ended []string
	for _, token := range m.state.Tokens {
		m.must(logical.UpdateOperation, "revoke", map[string]any{"token": token.Token})
		m.checkEnded(token)
		ended = append(ended, token.Token)
		m.expectUnchanged(ended...)
	}
}

// checkRotation rotates every key: the version that was to come next signs,
// and what was signed before is good until it expires.
func (m *oldMount) checkRotation() {
	m.t.Helper()
	for _, name := range m.list("keys/") {
		var key struct {
			Versions []struct {
				KID   string `json:"kid"`
				State string `json:"state"`
			} `json:"versions"`
		}
		if err := json.Unmarshal(m.state.Reads["keys/"+name], &key); err != nil {
			m.t.Fatal(name, err)
		}
		rotated := m.must(logical.UpdateOperation, "keys/"+name+"/rotate", map[string]any{"force": true}).Data
		for _, version := range key.Versions {
			switch {
			case version.State == "next" && rotated["kid"] != version.KID:
				m.t.Errorf("key %s: %v signs, want %s", name, rotated["kid"], version.KID)
			case version.State == "signing" && rotated["retired"] != version.KID:
				m.t.Errorf("key %s: %v was retired, want %s", name, rotated["retired"], version.KID)
			case !slices.Contains(m.published(), version.KID):
				m.t.Errorf("key %s: %s is not published any more", name, version.KID)
			}
		}
	}
	m.checkExpiry()
}

// checkExpiry lets time pass until every token has expired, each at its time
// and not before.
func (m *oldMount) checkExpiry() {
	m.t.Helper()
	ends := map[int64][]oldToken{}
	for _, token := range m.state.Tokens {
		if token.live() {
			end := m.introspect(token.Token)["exp"].(int64)
			ends[end] = append(ends[end], token)
		}
	}
	for _, end := range slices.Sorted(maps.Keys(ends)) {
		for _, left := range []time.Duration{time.Second, 0} {
			m.clock.Advance(time.Unix(end, 0).Add(-left).Sub(m.clock.Now()))
			m.tidy()
			for _, token := range ends[end] {
				m.expect(token.About, token.Token, left > 0)
			}
		}
	}
}

// tidy does what Vault has the engine do every minute, as often as it takes to
// come by every record.
func (m *oldMount) tidy() {
	m.t.Helper()
	for range 100 {
		if _, err := m.backend.HandleRequest(context.Background(), &logical.Request{Operation: logical.RollbackOperation, Storage: m.storage}); err != nil {
			m.t.Fatal(err)
		}
	}
}

func (m *oldMount) checkTidyKeeps() {
	m.t.Helper()
	m.tidy()
	m.checkIntrospection()
	m.checkStatusLists()
}

// checkRetiredKeys looks into the storage: a version that does not sign any more
// keeps no private half, in whatever form it was stored.
func (m *oldMount) checkRetiredKeys() {
	m.t.Helper()
	m.tidy()
	retired := 0
	for _, name := range m.list("keys/") {
		entry, err := m.storage.Get(context.Background(), "key/"+name)
		if err != nil {
			m.t.Fatal(err)
		}
		var key struct {
			Versions []struct {
				State   string `json:"state"`
				Private []byte `json:"private_key"`
			} `json:"versions"`
		}
		if err := json.Unmarshal(entry.Value, &key); err != nil {
			m.t.Fatal(err)
		}
		for i, version := range key.Versions {
			if version.State == "retired" {
				retired++
			}
			if has, signs := version.Private != nil, version.State != "retired"; has != signs {
				m.t.Errorf("key %s: version %d is %s; has a private half: %v", name, i, version.State, has)
			}
		}
	}
	if retired == 0 {
		m.t.Error("no retired version in the fixture")
	}
	m.expectUnchanged()
}

// checkTidyRemoves waits until nothing can be live: what the operator wrote, and
// where tidying stands, is all that stays.
func (m *oldMount) checkTidyRemoves() {
	m.t.Helper()
	m.clock.Advance(100 * 24 * time.Hour)
	m.tidy()
	for _, token := range m.state.Tokens {
		m.expect(token.About, token.Token, false)
	}
	stays := []string{"config", "instance", "key", "keyuse", "role", "signed", "tidy"}
	m.wantLeft(append(stays, "cutoff"))
	m.clock.Advance(25 * time.Hour) // a pass notes until when a cut-off is needed, and one a day later removes it
	m.tidy()
	m.wantLeft(stays)
}

// wantLeft checks that nothing is stored outside some folders.
func (m *oldMount) wantLeft(folders []string) {
	m.t.Helper()
	keys, err := logical.CollectKeys(context.Background(), m.storage)
	if err != nil {
		m.t.Fatal(err)
	}
	for _, key := range keys {
		if folder, _, _ := strings.Cut(key, "/"); !slices.Contains(folders, folder) {
			m.t.Errorf("%s is left", key)
		}
	}
}

// checkRewrite changes one thing in each entry that operators write. Nothing
// else in it may change, or be lost.
func (m *oldMount) checkRewrite() {
	m.t.Helper()
	m.must(logical.UpdateOperation, "config", map[string]any{"status_list_ttl": "7s"})
	for _, name := range m.list("roles/") {
		m.must(logical.UpdateOperation, "roles/"+name, map[string]any{"max_ttl": "700h"})
	}
	m.restart()
	for path, raw := range m.state.Reads {
		want := m.decode(m.withNewFields(path, raw)).(map[string]any)
		switch {
		case path == "config":
			want["status_list_ttl"] = 7
		case strings.HasPrefix(path, "roles/") && path != "roles/":
			want["max_ttl"] = 700 * 3600
		}
		changed, err := json.Marshal(want)
		if err != nil {
			m.t.Fatal(err)
		}
		m.same(path, m.read(path), changed)
	}
	m.expectUnchanged()
}

// same compares an answer with one that was recorded.
func (m *oldMount) same(about string, got any, want json.RawMessage) {
	m.t.Helper()
	raw, err := json.Marshal(got)
	if err != nil {
		m.t.Fatal(err)
	}
	if !reflect.DeepEqual(m.decode(raw), m.decode(want)) {
		m.t.Errorf("%s: got %s\nwant %s", about, raw, want)
	}
}

func (m *oldMount) decode(raw json.RawMessage) (value any) {
	m.t.Helper()
	decoder := json.NewDecoder(bytes.NewReader(raw))
	decoder.UseNumber() // large numbers stay as they are
	if err := decoder.Decode(&value); err != nil {
		m.t.Fatal(err)
	}
	return value
}
