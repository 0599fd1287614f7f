package rules

import (
	"fmt"
	"net/netip"
	"reflect"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/vault-tokens/vault-plugin-secrets-tokens/internal/tokenwatch"
	"github.com/vault-tokens/vault-plugin-secrets-tokens/internal/tokenwatch/geo"
)

var start = time.Date(2026, 1, 1, 12, 0, 0, 0, time.UTC)

func must(t testing.TB, s Settings, locate geo.Locator) []tokenwatch.Rule {
	t.Helper()
	list, err := New(s, locate)
	if err != nil {
		t.Fatal(err)
	}
	return list
}

func one(t testing.TB, s Settings, locate geo.Locator, name string) tokenwatch.Rule {
	t.Helper()
	for _, r := range must(t, s, locate) {
		if r.Name() == name {
			return r
		}
	}
	t.Fatalf("no rule %s", name)
	return nil
}

// sum shows events to a rule and gives its alerts.
func sum(r tokenwatch.Rule, events ...tokenwatch.Event) (alerts []tokenwatch.Alert) {
	for _, e := range events {
		r.Observe(&e, func(a tokenwatch.Alert) { alerts = append(alerts, a) })
	}
	return alerts
}

func introspection(at time.Duration, active bool, token string) tokenwatch.Event {
	return tokenwatch.Event{
		Time: start.Add(at), Kind: tokenwatch.KindIntrospect, Mount: "tokens/", Active: &active, Accessor: "a", RemoteAddress: "10.0.0.1",
		TokenHash: fmt.Sprintf("%s%064x", tokenwatch.HashPrefix, hash(token)), TokenID: token, Expires: start.Add(time.Hour),
	}
}

func TestCatalogIsComplete(t *testing.T) {
	for _, info := range Catalog() {
		if info.Name == "" || info.Meaning == "" || info.Advice == "" || info.Severity == "" {
			t.Errorf("incomplete: %+v", info)
		}
		for _, s := range info.Settings {
			if s.Name == "" || s.Help == "" || s.Type == "" || s.Default == "" {
				t.Errorf("%s: incomplete: %+v", info.Name, s)
			}
		}
	}
	fields := reflect.TypeFor[Settings]()
	if fields.NumField() != len(Catalog()) {
		t.Fatalf("%d settings for %d rules", fields.NumField(), len(Catalog()))
	}
	for i, info := range Catalog() {
		if key := yamlName(fields.Field(i)); key != info.Name {
			t.Errorf("rule %d is %s, its settings are %s", i, info.Name, key)
		}
	}
	rules := must(t, Defaults(), nil)
	for i, info := range Catalog() {
		if rules[i].Name() != info.Name {
			t.Errorf("rule %d is %s, in the catalog %s", i, rules[i].Name(), info.Name)
		}
	}
}

func TestWindowSlides(t *testing.T) {
	var w Window
	total := uint32(0)
	for i := range 100 { // one a second, in a window of 8 s
		total = w.add(start.Add(time.Duration(i)*time.Second), 8*time.Second, "")
	}
	if total != 8 {
		t.Errorf("%d events in a window of 8 s with one a second", total)
	}
	if first := w.first(8 * time.Second); !first.Equal(start.Add(92 * time.Second)) {
		t.Errorf("the window begins at %v", first)
	}
	if total = w.add(start.Add(time.Hour), 8*time.Second, ""); total != 1 {
		t.Errorf("%d events after an hour of none", total)
	}
	if total = w.add(start, 8*time.Second, ""); total != 2 {
		t.Errorf("%d events with one that comes late", total)
	}
}

func TestDistinctIsAnEstimate(t *testing.T) {
	for _, n := range []int{1, 3, 10, 30} {
		var w Window
		for i := range 500 {
			w.add(start, time.Minute, fmt.Sprint("token", i%n))
		}
		if got := w.distinct(); got < n*6/10 || got > n*15/10 {
			t.Errorf("%d different ones are estimated as %d", n, got)
		}
	}
}

func TestThresholds(t *testing.T) {
	denied := func(at time.Duration) tokenwatch.Event {
		return tokenwatch.Event{Time: start.Add(at), Kind: tokenwatch.KindIssue, Denied: true, EntityID: "e", RemoteAddress: "10.0.0.1", Mount: "tokens/"}
	}
	r := one(t, Defaults(), nil, "failed_access")
	for i := range 9 {
		if len(sum(r, denied(time.Duration(i)*time.Second))) != 0 {
			t.Fatalf("an alert at %d", i+1)
		}
	}
	if a := sum(r, denied(10*time.Second)); len(a) != 1 || a[0].Count != 10 || !strings.HasPrefix(a[0].Key, "entity") {
		t.Fatalf("%+v", a)
	}
	if a := sum(r, denied(11*time.Second)); len(a) != 1 || a[0].Count != 1 {
		t.Fatalf("each one more counts as one: %+v", a)
	}
	if a := sum(r, denied(time.Hour)); len(a) != 0 {
		t.Fatalf("after an hour: %+v", a)
	}
}

func TestSlowFailuresAreNoBurst(t *testing.T) {
	r := one(t, Defaults(), nil, "failed_access")
	for i := range 500 { // nine in any five minutes
		e := tokenwatch.Event{Time: start.Add(time.Duration(i) * 36 * time.Second), Kind: tokenwatch.KindIssue, Denied: true, EntityID: "e", RemoteAddress: "10.0.0.1"}
		if a := sum(r, e); len(a) != 0 {
			t.Fatalf("%+v", a)
		}
	}
}

func TestExpiryIsNoRevocation(t *testing.T) {
	r := one(t, Defaults(), nil, "revoked_token")
	expired := introspection(time.Hour+time.Second, false, "t")
	if a := sum(r, introspection(0, true, "t"), expired); len(a) != 0 {
		t.Errorf("an expired token: %+v", a)
	}
	elsewhere := introspection(time.Minute, false, "t")
	elsewhere.Mount = "other/"
	if a := sum(r, elsewhere); len(a) != 0 {
		t.Errorf("a token of another mount: %+v", a)
	}
	if a := sum(r, introspection(time.Minute, false, "t")); len(a) != 1 {
		t.Errorf("a revoked one: %+v", a)
	}
	renewed := introspection(2*time.Minute, true, "t")
	renewed.Expires = start.Add(5 * time.Hour)
	if a := sum(r, renewed, introspection(4*time.Hour, false, "t")); len(a) != 1 {
		t.Errorf("renewed, then revoked: %+v", a)
	}
}

func TestGraceOfRevocation(t *testing.T) {
	r := one(t, Defaults(), nil, "revoked_token")
	revoke := introspection(time.Minute, false, "t")
	revoke.Kind, revoke.Active, revoke.TokenID = tokenwatch.KindRevoke, nil, ""
	if a := sum(r, introspection(0, true, "t"), revoke, introspection(time.Minute+9*time.Second, false, "t")); len(a) != 0 {
		t.Errorf("within the grace: %+v", a)
	}
	if a := sum(r, introspection(time.Minute+11*time.Second, false, "t")); len(a) != 1 {
		t.Errorf("after the grace: %+v", a)
	}
}

func TestWidened(t *testing.T) {
	d := func(d time.Duration) *time.Duration { return &d }
	for name, test := range map[string]struct {
		before, now tokenwatch.RequestSettings
		gains       int
	}{
		"nothing":                     {tokenwatch.RequestSettings{}, tokenwatch.RequestSettings{AllowedScopes: []string{"a"}, MaxTTL: d(1)}, 0},
		"covered by a pattern":        {tokenwatch.RequestSettings{AllowedScopes: []string{"a:*"}}, tokenwatch.RequestSettings{AllowedScopes: []string{"a:b", "a:*:c"}}, 0},
		"not covered":                 {tokenwatch.RequestSettings{AllowedScopes: []string{"a:*"}}, tokenwatch.RequestSettings{AllowedScopes: []string{"*"}}, 1},
		"hashed, fewer":               {tokenwatch.RequestSettings{AllowedScopes: []string{"hmac-sha256:1", "hmac-sha256:2"}}, tokenwatch.RequestSettings{AllowedScopes: []string{"hmac-sha256:2"}}, 0},
		"hashed, more":                {tokenwatch.RequestSettings{AllowedScopes: []string{"hmac-sha256:1"}}, tokenwatch.RequestSettings{AllowedScopes: []string{"hmac-sha256:2"}}, 1},
		"a smaller network":           {tokenwatch.RequestSettings{BoundCIDRs: []string{"10.0.0.0/8"}}, tokenwatch.RequestSettings{BoundCIDRs: []string{"10.2.0.0/16", "10.0.0.1"}}, 0},
		"a larger network":            {tokenwatch.RequestSettings{BoundCIDRs: []string{"10.2.0.0/16"}}, tokenwatch.RequestSettings{BoundCIDRs: []string{"10.0.0.0/8"}}, 1},
		"the other family":            {tokenwatch.RequestSettings{BoundCIDRs: []string{"0.0.0.0/0"}}, tokenwatch.RequestSettings{BoundCIDRs: []string{"::/0"}}, 1},
		"bound for the first time":    {tokenwatch.RequestSettings{BoundCIDRs: []string{}}, tokenwatch.RequestSettings{BoundCIDRs: []string{"10.0.0.0/8"}}, 0},
		"not bound any more":          {tokenwatch.RequestSettings{BoundCIDRs: []string{"10.0.0.0/8"}}, tokenwatch.RequestSettings{BoundCIDRs: []string{}}, 1},
		"no maximum to a maximum":     {tokenwatch.RequestSettings{MaxTTL: d(0)}, tokenwatch.RequestSettings{MaxTTL: d(1)}, 0},
		"a maximum to no maximum":     {tokenwatch.RequestSettings{MaxTTL: d(1)}, tokenwatch.RequestSettings{MaxTTL: d(0)}, 1},
		"longer":                      {tokenwatch.RequestSettings{TTL: d(1), MaxTTL: d(1)}, tokenwatch.RequestSettings{TTL: d(2), MaxTTL: d(3)}, 2},
		"no scopes to some":           {tokenwatch.RequestSettings{AllowedScopes: []string{}}, tokenwatch.RequestSettings{AllowedScopes: []string{"a"}}, 1},
		"what the request leaves out": {tokenwatch.RequestSettings{AllowedScopes: []string{"a"}, MaxTTL: d(1)}, tokenwatch.RequestSettings{}, 0},
	} {
		if gains := widened(&test.before, &test.now); len(gains) != test.gains {
			t.Errorf("%s: %q", name, gains)
		}
	}
}

// places is a geo database.
type places map[string]geo.Place

func (p places) Locate(addr netip.Addr) (geo.Place, bool) {
	found, ok := p[addr.String()]
	return found, ok
}

func TestTravel(t *testing.T) {
	world := places{
		"1.1.1.1": {Country: "DE", Latitude: 52.5, Longitude: 13.4, HasCoordinates: true},
		"1.1.1.2": {Country: "DE", Latitude: 48.1, Longitude: 11.6, HasCoordinates: true}, // 500 km away
		"2.2.2.2": {Country: "AU", Latitude: -33.9, Longitude: 151.2, HasCoordinates: true},
		"3.3.3.3": {Country: "FR"},
	}
	use := func(at time.Duration, from string) tokenwatch.Event {
		e := introspection(at, true, "t")
		e.TokenType, e.ClientIP = "api_key", from
		return e
	}
	r := one(t, Defaults(), world, "unexpected_location")
	if a := sum(r, use(0, "1.1.1.1"), use(time.Hour, "1.1.1.2")); len(a) != 0 {
		t.Errorf("a train ride: %+v", a)
	}
	if a := sum(r, use(2*time.Hour, "2.2.2.2")); len(a) != 1 || !strings.Contains(a[0].Detail, "nobody travels so fast") {
		t.Errorf("to the other side of the world in an hour: %+v", a)
	}
	if a := sum(r, use(30*time.Hour, "1.1.1.1")); len(a) != 0 {
		t.Errorf("a flight: %+v", a)
	}
	if a := sum(r, use(8*24*time.Hour, "3.3.3.3")); len(a) != 2 || !strings.Contains(a[1].Detail, "The country is new: FR") {
		t.Errorf("a new country: %+v", a)
	}
	if a := sum(r, use(9*24*time.Hour, "3.3.3.3"), use(9*24*time.Hour, "3.3.3.77")); len(a) != 0 {
		t.Errorf("the same network again: %+v", a)
	}
}

func TestIssuanceSpikeAndHabits(t *testing.T) {
	r := one(t, Defaults(), nil, "issuance_spike")
	issue := func(at time.Duration, n int) (alerts []tokenwatch.Alert) {
		for range n {
			alerts = append(alerts, sum(r, tokenwatch.Event{Time: start.Add(at), Kind: tokenwatch.KindIssue, Mount: "tokens/", Role: "r"})...)
		}
		return alerts
	}
	const window = 5 * time.Minute
	for day := range time.Duration(6) {
		for i := range time.Duration(288) {
			n := 10
			if i == 200 {
				n = 300 // a nightly job
			}
			a := issue(day*24*time.Hour+i*window, n)
			if day == 0 && i < 24 && len(a) > 0 {
				t.Fatalf("an alert while learning: %+v", a[0])
			}
			if day > 0 && len(a) > 0 {
				t.Fatalf("day %d, window %d: %+v", day, i, a[0])
			}
			if day == 0 && i == 200 && len(a) == 0 {
				t.Error("no alert when the job ran for the first time")
			}
		}
	}
	if a := issue(6*24*time.Hour, 1000); len(a) == 0 {
		t.Error("no alert for a hundred times as many")
	}
}

func TestSilence(t *testing.T) {
	r := one(t, Defaults(), nil, "silence")
	entry := r.(tokenwatch.EntryObserver)
	var alerts []tokenwatch.Alert
	emit := func(a tokenwatch.Alert) { alerts = append(alerts, a) }
	entry.Entry(start, emit)
	r.Tick(start.Add(time.Second), emit)
	r.Tick(start.Add(10*time.Minute), emit)
	if len(alerts) != 0 {
		t.Fatalf("%+v", alerts)
	}
	r.Tick(start.Add(16*time.Minute), emit)
	r.Tick(start.Add(17*time.Minute), emit)
	if len(alerts) != 1 {
		t.Fatalf("%d alerts for one silence", len(alerts))
	}
	entry.Entry(start.Add(18*time.Minute), emit)
	if len(alerts) != 1 {
		t.Fatal("silence was said again when it was over")
	}
	entry.Entry(start.Add(48*time.Minute), emit)
	if len(alerts) != 2 {
		t.Fatal("silence in a log that is read afterwards was not seen")
	}
}

func TestIgnore(t *testing.T) {
	for _, ignore := range []string{"e", "app", "10.0.0.0/8", "10.0.0.1", "tokens/", "r"} {
		s := Defaults()
		s.RootToken.Ignore = []string{ignore}
		r := one(t, s, nil, "root_token")
		e := tokenwatch.Event{Time: start, Kind: tokenwatch.KindIssue, Root: true, EntityID: "e", DisplayName: "app", RemoteAddress: "10.0.0.1", Mount: "tokens/", Role: "r"}
		if a := sum(r, e); len(a) != 0 {
			t.Errorf("%s is not ignored", ignore)
		}
		other := tokenwatch.Event{Time: start, Kind: tokenwatch.KindIssue, Root: true, EntityID: "x", DisplayName: "x", RemoteAddress: "192.0.2.1", Mount: "x/", Role: "x"}
		if a := sum(r, other); len(a) != 1 {
			t.Errorf("%s makes the rule ignore everything", ignore)
		}
	}
}

func TestValidateNamesTheSetting(t *testing.T) {
	for name, change := range map[string]func(*Settings){
		"rules.failed_access.threshold":         func(s *Settings) { s.FailedAccess.Threshold = 0 },
		"rules.failed_access.window":            func(s *Settings) { s.FailedAccess.Window = 0 },
		"rules.silence.severity":                func(s *Settings) { s.Silence.Severity = "loud" },
		"rules.unexpected_location.ipv4_prefix": func(s *Settings) { s.UnexpectedLocation.IPv4Prefix = 33 },
		"rules.issuance_spike.factor":           func(s *Settings) { s.IssuanceSpike.Factor = 0.5 },
		"rules.signing_key.rotated_severity":    func(s *Settings) { s.SigningKey.RotatedSeverity = "" },
		"rules.revoked_token.grace":             func(s *Settings) { s.RevokedToken.Grace = -1 },
		"rules.revoked_token.max_tokens":        func(s *Settings) { s.RevokedToken.MaxTokens = -5 },
	} {
		s := Defaults()
		change(&s)
		if err := s.Validate(); err == nil || !strings.Contains(err.Error(), name) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// TestStateSurvives saves in the middle of what fires a rule, and restores into
// a new one.
func TestStateSurvives(t *testing.T) {
	for _, r := range must(t, Defaults(), nil) {
		fresh := one(t, Defaults(), nil, r.Name())
		through := one(t, Defaults(), nil, r.Name())
		all := mix(3000)
		want := sum(through, all...)
		got := sum(r, all[:1500]...)
		state, err := r.Save()
		if err != nil {
			t.Fatal(err)
		}
		if len(state) > 0 {
			if err := fresh.Restore(state); err != nil {
				t.Fatal(err)
			}
		}
		got = append(got, sum(fresh, all[1500:]...)...)
		if len(got) != len(want) {
			t.Errorf("%s: %d alerts with a restart, %d without", r.Name(), len(got), len(want))
		}
	}
}

// mix are events of all kinds, by many clients.
func mix(n int) []tokenwatch.Event {
	events := make([]tokenwatch.Event, n)
	kinds := []tokenwatch.Kind{tokenwatch.KindIssue, tokenwatch.KindIntrospect, tokenwatch.KindIntrospect, tokenwatch.KindRevoke, tokenwatch.KindRoleWrite, tokenwatch.KindIntrospect, tokenwatch.KindKeyRotate, tokenwatch.KindLeaseRevoke}
	for i := range events {
		e := introspection(time.Duration(i)*100*time.Millisecond, i%3 != 0, fmt.Sprint("token", i%97))
		e.Kind = kinds[i%len(kinds)]
		e.EntityID, e.RemoteAddress, e.ClientIP = fmt.Sprint("entity", i%13), fmt.Sprintf("10.0.%d.1", i%17), fmt.Sprintf("192.0.2.%d", i%19)
		e.Role, e.Root, e.Denied = fmt.Sprint("role", i%7), i%50 == 0, i%11 == 0
		if e.Kind != tokenwatch.KindIntrospect {
			e.Active = nil
		}
		if e.Kind == tokenwatch.KindRoleWrite {
			ttl := time.Duration(i) * time.Second
			e.Settings, e.Operation = &tokenwatch.RequestSettings{MaxTTL: &ttl, AllowedScopes: []string{fmt.Sprint("s", i%5)}}, "update"
		}
		events[i] = e
	}
	return events
}

// TestMemoryIsBounded shows three million clients and tokens to all rules.
func TestMemoryIsBounded(t *testing.T) {
	list := must(t, Defaults(), places{})
	heap := func() uint64 {
		runtime.GC()
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return m.HeapAlloc >> 20
	}
	clients := 3_000_000
	if testing.Short() {
		clients = 300_000
	}
	before, most := heap(), uint64(0)
	active, dead := true, false
	for i := range clients {
		id := fmt.Sprintf("%08x-0000-0000-0000-%012x", i, i)
		e := tokenwatch.Event{
			Time: start.Add(time.Duration(i) * time.Millisecond), Kind: tokenwatch.KindIntrospect, Mount: fmt.Sprintf("mount%d/", i%5000), Active: &active,
			EntityID: id, Accessor: id, ClientID: id, RemoteAddress: fmt.Sprintf("10.%d.%d.%d", i>>16&255, i>>8&255, i&255), ClientIP: fmt.Sprintf("2001:db8:%x::1", i),
			TokenID: id, TokenType: []string{"api_key", "jwt"}[i%2], TokenHash: fmt.Sprintf("%s%064x", tokenwatch.HashPrefix, i), Expires: start.Add(100 * time.Hour), Role: id, LeaseID: id,
		}
		switch i % 5 {
		case 0:
			e.Kind, e.Active = tokenwatch.KindIssue, nil
		case 1:
			e.Active = &dead
		case 2:
			e.Kind, e.Active, e.Denied = tokenwatch.KindIssue, nil, true
		case 3:
			e.Kind, e.Active = tokenwatch.KindRevoke, nil
		}
		for _, r := range list {
			r.Observe(&e, func(tokenwatch.Alert) {})
		}
		if i%(clients/10) == 0 {
			most = max(most, heap())
		}
	}
	most = max(most, heap())
	t.Logf("%d MiB for %d clients", most-before, clients)
	if most-before > 120 {
		t.Errorf("the rules hold %d MiB", most-before)
	}
	runtime.KeepAlive(list)
}
