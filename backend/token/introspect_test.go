package token

import (
	"bytes"
	"crypto/rand"
	"encoding/base64"
	"fmt"
	"io"
	"net/netip"
	"reflect"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"

	"github.com/vault-tokens/vault-plugin-secrets-tokens/backend/role"
	"github.com/vault-tokens/vault-plugin-secrets-tokens/backend/store/storetest"
	"github.com/vault-tokens/vault-plugin-secrets-tokens/verify/format"
)

func TestIntrospect(t *testing.T) {
	for _, name := range []string{"api_key", "bearer", "jwt"} {
		f := newFixture(t)
		issued := f.issue(name)
		got := *f.introspect(Introspection{Token: issued.Token})
		want := Answer{
			Active: true, ID: issued.ID, TokenType: issued.TokenType, Role: name,
			Scopes: []string{"orders:read"}, Subject: "entity-1", ClientID: "entity-1", Audience: []string{"api", "web"},
			Issuer: issuer, IssuedAt: f.now, ExpiresAt: issued.ExpiresAt, Recorded: name != "jwt",
			Status: &format.StatusListReference{Index: issued.Ref.Index, URI: issuer + "/status/" + issued.Ref.List},
		}
		if name == "jwt" {
			want.NotBefore = f.now.Add(-30 * time.Second)
		}
		got.Audience = append([]string{}, got.Audience...) // of another type in a JWT
		if !reflect.DeepEqual(got, want) {
			t.Errorf("%s: %+v, want %+v", name, got, want)
		}
	}
}

func TestChecks(t *testing.T) {
	text := func(s string) *string { return &s }
	for name, test := range map[string]struct {
		question                  Introspection
		scope, audience, clientIP bool // which fail
	}{
		"no question but where from": {Introspection{ClientIP: text("10.1.2.3")}, false, false, false},
		"all of them":                {Introspection{ClientIP: text("10.1.2.3"), RequiredScopes: []string{"orders:read"}, Audience: text("web")}, false, false, false},
		"a scope that it lacks":      {Introspection{ClientIP: text("10.1.2.3"), RequiredScopes: []string{"orders:read", "orders:write"}}, true, false, false},
		"another audience":           {Introspection{ClientIP: text("10.1.2.3"), Audience: text("other")}, false, true, false},
		"another network":            {Introspection{ClientIP: text("192.0.2.7")}, false, false, true},
		"no address":                 {Introspection{}, false, false, true},
		"IPv6 of the same IPv4":      {Introspection{ClientIP: text("::ffff:10.1.2.3")}, false, false, false},
		"IPv6 in a network":          {Introspection{ClientIP: text("2001:db8::7")}, false, false, false},
		"with a zone":                {Introspection{ClientIP: text("2001:db8::7%eth0")}, false, false, false},
		"IPv6 in none":               {Introspection{ClientIP: text("2001:db9::7")}, false, false, true},
		"everything wrong":           {Introspection{RequiredScopes: []string{"x"}, Audience: text("x")}, true, true, true},
	} {
		for _, tokenType := range []string{"api_key", "jwt"} {
			t.Run(name+"/"+tokenType, func(t *testing.T) {
				f := newFixture(t)
				f.change(tokenType, func(r *role.Role) {
					r.BoundCIDRs = []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8"), netip.MustParsePrefix("2001:db8::/32")}
				})
				question := test.question
				issued := f.issue(tokenType)
				question.Token = issued.Token
				answer := f.introspect(question)
				if answer.ScopeFailed != test.scope || answer.AudienceFailed != test.audience || answer.ClientIPFailed != test.clientIP {
					t.Errorf("failed are scope %v, audience %v, client_ip %v", answer.ScopeFailed, answer.AudienceFailed, answer.ClientIPFailed)
				}
				failed := test.scope || test.audience || test.clientIP
				if answer.Active == failed || (answer.Reason == CheckFail) != failed || answer.ID != issued.ID {
					t.Errorf("active %v, for %q, of %s", answer.Active, answer.Reason, answer.ID)
				}
			})
		}
	}
}

func TestQuestionsThatAreRefused(t *testing.T) {
	f := newFixture(t)
	issued := f.issue("bearer")
	empty, bad := "", "10.0.0.1:80"
	for field, question := range map[string]Introspection{
		"token":           {},
		"audience":        {Token: issued.Token, Audience: &empty},
		"client_ip":       {Token: issued.Token, ClientIP: &bad},
		"required_scopes": {Token: issued.Token, RequiredScopes: []string{"orders:*"}},
	} {
		answer, err := f.Introspect(f.ctx, f.storage, question)
		wantMistake(t, "introspect", err, field)
		if answer != nil {
			t.Errorf("%s: answered %+v", field, answer)
		}
	}
	if _, err := f.Introspect(f.ctx, f.storage, Introspection{Token: issued.Token, ClientIP: &empty}); err == nil {
		t.Error("an empty client_ip passes for none")
	}
}

// Whatever is wrong with a token, the answer is the same but for the reason,
// which is for the log.
func TestNotActive(t *testing.T) {
	f := newFixture(t)
	var drawn bytes.Buffer
	f.random = io.TeeReader(rand.Reader, &drawn)
	f.restart()
	opaque, signed := f.issue("bearer"), f.issue("jwt")
	sameID, err := format.NewOpaque(io.MultiReader(bytes.NewReader(drawn.Bytes()[:16]), rand.Reader), "vtb")
	if err != nil || sameID.ID != opaque.ID {
		t.Fatal(sameID, err)
	}
	other, err := format.NewOpaque(rand.Reader, "vtb")
	if err != nil {
		t.Fatal(err)
	}
	parsed, err := format.ParseOpaque(opaque.Token.Reveal())
	if err != nil {
		t.Fatal(err)
	}
	parsed.Prefix = "vtk"
	text, jws := opaque.Token.Reveal(), signed.Token.Reveal()
	otherJWT := f.issue("jwt").Token.Reveal()
	elsewhere := newFixture(t)
	revokedOpaque, revokedJWT := f.issue("bearer"), f.issue("jwt")
	for _, issued := range []*Issued{revokedOpaque, revokedJWT} {
		if _, err := f.revoke(issued); err != nil {
			t.Fatal(err)
		}
	}
	cases := map[string]struct {
		token  format.Secret
		reason Reason
	}{
		"nothing of ours":     {"hello", Malformed},
		"two dots":            {"a.b.c", Malformed},
		"mistyped":            {format.Secret(text[:len(text)-1] + "!"), Malformed},
		"wrong checksum":      {format.Secret(text[:len(text)-8] + flip(text[len(text)-8:])), Malformed},
		"line break":          {opaque.Token + "\n", Malformed},
		"JWT with line break": {signed.Token + "\n", Malformed},
		"too long":            {format.Secret(strings.Repeat("a", maxTokenLength+1)), Malformed},
		"longest":             {format.Secret(strings.Repeat("a", maxTokenLength)), Malformed},
		"never issued":        {other.Encode(), Unknown},
		"another secret":      {sameID.Encode(), Unknown},
		"another prefix":      {parsed.Encode(), Unknown},
		"revoked":             {revokedOpaque.Token, Unknown},
		"JWT that is revoked": {revokedJWT.Token, Revoked},
		"JWT of another key":  {elsewhere.issue("jwt").Token, Unknown},
		"another signature":   {format.Secret(jws[:strings.LastIndexByte(jws, '.')] + otherJWT[strings.LastIndexByte(otherJWT, '.'):]), Unknown},
	}
	for name, test := range cases {
		for range 2 { // the second time from what is in memory
			if got := *f.introspect(Introspection{Token: test.token}); !reflect.DeepEqual(got, Answer{Reason: test.reason}) {
				t.Errorf("%s: %+v, want no more than the reason %q", name, got, test.reason)
			}
		}
		reads, writes := f.storage.Count(func() {
			if ended, err := f.RevokePossessed(f.ctx, f.storage, test.token); ended != nil || err != nil {
				t.Errorf("%s: revoked %v, %v", name, ended, err)
			}
		})
		if reads > 1 || writes != 0 {
			t.Errorf("%s: %d reads and %d writes to revoke nothing", name, reads, writes)
		}
	}
	if !f.active(opaque) || !f.active(signed) {
		t.Error("the tokens that were played with are inactive")
	}
	f.now = f.now.Add(2 * time.Hour)
	for _, issued := range []*Issued{opaque, signed} {
		if got := *f.introspect(Introspection{Token: issued.Token}); !reflect.DeepEqual(got, Answer{Reason: Expired}) {
			t.Errorf("expired: %+v", got)
		}
	}
}

func flip(s string) string {
	if s[0] == 'a' {
		return "b" + s[1:]
	}
	return "a" + s[1:]
}

// A JWT is not valid before its nbf, but can be revoked.
func TestNotYet(t *testing.T) {
	f := newFixture(t)
	f.change("jwt", func(r *role.Role) { r.NotBeforeLeeway = 0 })
	issued := f.issue("jwt")
	f.now = f.now.Add(-time.Second)
	if got := *f.introspect(Introspection{Token: issued.Token}); !reflect.DeepEqual(got, Answer{Reason: NotYet}) {
		t.Errorf("before nbf: %+v", got)
	}
	if ended, err := f.RevokePossessed(f.ctx, f.storage, issued.Token); err != nil || ended == nil || ended.ID != issued.ID {
		t.Errorf("revoked %v, %v", ended, err)
	}
	f.now = f.now.Add(time.Second)
	if f.active(issued) {
		t.Error("active after its revocation")
	}
}

// Only access tokens that a published key signed are ours, whatever a header
// says.
func TestHeaders(t *testing.T) {
	f := newFixture(t)
	issued := f.issue("jwt")
	key, err := f.keys.Get(f.ctx, f.storage, role.DefaultKey)
	if err != nil {
		t.Fatal(err)
	}
	version, err := key.Signing()
	if err != nil {
		t.Fatal(err)
	}
	var claims jwt.MapClaims
	if _, _, err := jwt.NewParser().ParseUnverified(issued.Token.Reveal(), &claims); err != nil {
		t.Fatal(err)
	}
	for typ, active := range map[string]bool{"at+jwt": true, "AT+JWT": false, "application/at+jwt": false, "JWT": false, "statuslist+jwt": false, "": false} {
		signed, err := version.Sign(typ, claims)
		if err != nil {
			t.Fatal(err)
		}
		if got := f.introspect(Introspection{Token: format.Secret(signed)}); got.Active != active {
			t.Errorf("typ %q: active %v", typ, got.Active)
		}
	}
	// A key that is dropped ends its tokens, seen before or not.
	unseen := f.issue("jwt")
	if !f.active(issued) {
		t.Fatal("inactive with its key")
	}
	if _, err := f.keys.EmergencyRotate(f.ctx, f.storage, role.DefaultKey); err != nil {
		t.Fatal(err)
	}
	if f.active(issued) || f.active(unseen) {
		t.Error("active without its key")
	}
}

// What cannot be looked up is an error: neither active nor inactive. A caller that
// hangs up gets an error or the right answer.
func TestIntrospectOnFaults(t *testing.T) {
	reads := storetest.Fail("", storetest.Get, storetest.List)
	for _, name := range []string{"bearer", "jwt"} {
		f := newFixture(t)
		issued := f.issue(name)
		for fault, inject := range map[string]func(){
			"storage":     func() { f.storage.Before(reads) },
			"caller gone": func() { f.ctx = cancelled() },
		} {
			f.restart()
			ctx := f.ctx
			inject()
			if answer, err := f.Introspect(f.ctx, f.storage, Introspection{Token: issued.Token}); err == nil && (fault == "storage" || !answer.Active) {
				t.Errorf("%s, %s: answered %+v", name, fault, answer)
			}
			if fault == "storage" {
				if ended, err := f.RevokePossessed(f.ctx, f.storage, issued.Token); err == nil {
					t.Errorf("%s, %s: revoked %v", name, fault, ended)
				}
			}
			f.storage.Heal()
			f.ctx = ctx
			if !f.active(issued) {
				t.Errorf("%s, %s: inactive afterwards", name, fault)
			}
		}
		if reads, writes := f.storage.Count(func() { f.active(issued) }); reads+writes != 0 {
			t.Errorf("%s: %d reads and %d writes for a token in memory", name, reads, writes)
		}
		if _, err := f.RevokePossessed(cancelled(), f.storage, issued.Token); err == nil {
			if f.restart(); f.active(issued) {
				t.Errorf("%s: a revocation was acknowledged, to a caller that is gone, and does not hold", name)
			}
		}
	}
}

// Made-up tokens cost little: no storage, and no work on claims that nobody signed.
func TestMadeUpTokensCostLittle(t *testing.T) {
	f := newFixture(t)
	signed, opaque := f.issue("jwt"), f.issue("bearer")
	f.active(signed)
	text := signed.Token.Reveal()
	parts := strings.Split(text, ".")
	padding := strings.Repeat("QUJD", 13_000)
	tokens := []string{
		parts[0] + "." + padding + "." + parts[2],
		parts[0] + "." + parts[1] + "." + padding,
		padding + "." + parts[1] + "." + parts[2],
		base64.RawURLEncoding.EncodeToString([]byte(`{"alg":"ES256","kid":"nobody","typ":"at+jwt"}`)) + "." + padding + "." + parts[2],
	}
	f.introspect(Introspection{Token: format.Secret(tokens[3])}) // the first unknown kid has all keys loaded
	reads, writes := f.storage.Count(func() {
		for _, token := range tokens {
			if f.introspect(Introspection{Token: format.Secret(token)}).Active {
				t.Error("active")
			}
		}
	})
	if reads+writes != 0 {
		t.Errorf("%d reads and %d writes", reads, writes)
	}
	// What is decoded of a JWT that nobody signed is its header.
	for _, token := range tokens[:3] {
		const times = 20
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		for range times {
			f.introspect(Introspection{Token: format.Secret(token)})
		}
		runtime.ReadMemStats(&after)
		allocated := int(after.TotalAlloc-before.TotalAlloc) / times
		if allocated > 3*len(token) {
			t.Errorf("a forged JWT of %d bytes allocates %d", len(token), allocated)
		}
	}
	// An unknown id is read once in a while, as a wrong secret of a known id is, so
	// that neither the storage nor the time tells which ids live.
	parsed, err := format.ParseOpaque(opaque.Token.Reveal())
	if err != nil {
		t.Fatal(err)
	}
	wrong, err := format.NewOpaque(rand.Reader, parsed.Prefix)
	if err != nil {
		t.Fatal(err)
	}
	unknown := wrong.Encode()
	wrong.ID = parsed.ID
	f.restart()
	f.active(signed)
	for name, token := range map[string]format.Secret{"unknown id": unknown, "wrong secret": wrong.Encode()} {
		for want := range 2 {
			reads, _ := f.storage.Count(func() { f.introspect(Introspection{Token: token}) })
			if reads != int64(1-want) {
				t.Errorf("%s: %d reads the time %d", name, reads, want)
			}
		}
	}
	for range 20_000 {
		made, err := format.NewOpaque(rand.Reader, "vtb")
		if err != nil {
			t.Fatal(err)
		}
		f.introspect(Introspection{Token: made.Encode()})
	}
	if reads, _ := f.storage.Count(func() { f.introspect(Introspection{Token: wrong.Encode()}) }); reads != 0 {
		t.Error("a flood of unknown ids pushed out what is known")
	}
}

// Many who ask for one token after a restart read it once.
func TestManyAskForOneToken(t *testing.T) {
	for _, name := range []string{"bearer", "jwt"} {
		f := newFixture(t)
		issued, other := f.issue(name), f.issue(name)
		f.restart()
		f.config.Get(f.ctx, f.storage)
		f.roles.Get(f.ctx, f.storage, name)
		f.keys.Get(f.ctx, f.storage, role.DefaultKey)
		arrived, release := make(chan struct{}), make(chan struct{})
		var once sync.Once
		f.storage.Before(func(storetest.Op, string) error {
			once.Do(func() { close(arrived) })
			<-release
			return nil
		})
		var callers sync.WaitGroup
		reads, _ := f.storage.Count(func() {
			callers.Go(func() { f.active(issued) })
			<-arrived
			for range 200 {
				callers.Go(func() {
					if !f.active(issued) {
						t.Error("inactive")
					}
				})
			}
			close(release)
			callers.Wait()
		})
		want := map[string]int64{"bearer": 4, "jwt": 3}[name] + 1 // three of the list; and the cut-offs are listed once
		if reads > want {
			t.Errorf("%s: %d reads, want %d", name, reads, want)
		}
		f.storage.Heal()
		f.active(other)
	}
}

// What is in memory is bounded in bytes, whatever records hold.
func TestFatRecordsAreBounded(t *testing.T) {
	f := newFixture(t)
	const size = 20_000
	fat := map[string]string{"key": strings.Repeat("x", size)}
	for n := range 2 * cachedRecordBytes / size {
		id := fmt.Sprintf("%022d", n)
		if err := f.records.Put(f.ctx, f.storage, id, &Record{ID: id, Metadata: fat}); err != nil {
			t.Fatal(err)
		}
	}
	entries, bytes := f.records.Cached()
	if bytes > cachedRecordBytes || entries < cachedRecordBytes/size/2 {
		t.Errorf("%d records of %d bytes are cached, %d bytes", entries, size, bytes)
	}
}

// On a node that follows, a record is not believed for longer than its maximum age,
// in case nobody told of the change.
func TestRecordHasAnAgeWhereOthersWrite(t *testing.T) {
	f := newFixture(t)
	for _, name := range []string{"bearer", "jwt"} {
		issued := f.issue(name)
		leader := f.Tokens
		f.restart()
		f.maxAge = 30 * time.Second
		if !f.active(issued) {
			t.Fatal("inactive")
		}
		follower := f.Tokens
		f.Tokens, f.maxAge = leader, 0
		if _, err := f.revoke(issued); err != nil {
			t.Fatal(err)
		}
		f.Tokens, f.maxAge = follower, 30*time.Second
		f.now = f.now.Add(30 * time.Second)
		if f.active(issued) {
			t.Errorf("%s: active 30 s after its revocation elsewhere", name)
		}
		f.Tokens, f.maxAge = leader, 0
	}
}
