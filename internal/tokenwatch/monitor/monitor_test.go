package monitor

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/vault-tokens/vault-plugin-secrets-tokens/internal/tokenwatch"
	"github.com/vault-tokens/vault-plugin-secrets-tokens/internal/tokenwatch/rules"
	"github.com/vault-tokens/vault-plugin-secrets-tokens/internal/tokenwatch/sink"
)

var start = time.Date(2026, 1, 1, 12, 0, 0, 0, time.UTC)

// collector is a sink that remembers, after failing as often as it is told.
type collector struct {
	mu      sync.Mutex
	got     []tokenwatch.Alert
	tries   int
	failing int
	err     error
}

func (c *collector) Name() string { return "collector" }

func (c *collector) Send(_ context.Context, a tokenwatch.Alert) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.tries++; c.tries <= c.failing {
		return c.err
	}
	c.got = append(c.got, a)
	return nil
}

func (c *collector) alerts() []tokenwatch.Alert {
	c.mu.Lock()
	defer c.mu.Unlock()
	return append([]tokenwatch.Alert(nil), c.got...)
}

func open(t *testing.T, state string, sinks ...SinkOptions) *Monitor {
	t.Helper()
	list, err := rules.New(rules.Defaults(), nil)
	if err != nil {
		t.Fatal(err)
	}
	m, err := New(Options{Rules: list, Sinks: sinks, RepeatInterval: time.Minute, ResolveTimeout: time.Hour, StateFile: state, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	return m
}

// line is an entry of a caller with a root token, which is a finding each time.
func line(i int, at time.Duration, rest string) string {
	return fmt.Sprintf(`{"auth":{"accessor":"hmac-sha256:a","policies":["root"]},%s"request":{"id":"r%d","mount_point":"tokens/","mount_type":"vault-plugin-secrets-tokens","operation":"read","path":"tokens/config","remote_address":"10.0.0.1"},"time":"%s","type":"response"}`+"\n",
		rest, i, start.Add(at).Format(time.RFC3339Nano))
}

func handle(t *testing.T, m *Monitor, lines ...string) {
	t.Helper()
	if err := m.Handle(tokenwatch.Batch{Lines: []byte(strings.Join(lines, ""))}); err != nil {
		t.Fatal(err)
	}
}

func finish(t *testing.T, m *Monitor) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	if err := m.Close(ctx); err != nil {
		t.Fatal(err)
	}
}

func TestRepeatedFindingsAreOneAlert(t *testing.T) {
	var notified []tokenwatch.Alert
	d := newDeduper(time.Minute, time.Hour, func(a tokenwatch.Alert, repeated bool) {
		if repeated != (len(notified) > 0) {
			t.Errorf("%d: repeated is %v", len(notified), repeated)
		}
		notified = append(notified, a)
	})
	at := func(i int) time.Time { return start.Add(time.Duration(i) * time.Second) }
	for i := range 150 { // one a second
		d.add(tokenwatch.Alert{Rule: "r", Key: "k", First: at(i), Last: at(i), Count: 1})
	}
	if open := d.open(at(150)); len(open) != 1 || open[0].Count != 150 {
		t.Errorf("open: %+v", open)
	}
	d.flush(at(170)) // not long enough after the last time
	d.flush(at(190))
	d.add(tokenwatch.Alert{Rule: "r", Key: "k", First: at(191), Last: at(191), Count: 1})
	d.flushAll()
	var counts []int64
	for _, a := range notified {
		counts = append(counts, a.Count)
		if a.Fingerprint != notified[0].Fingerprint || !a.First.Equal(start) {
			t.Errorf("another alert: %+v", a)
		}
	}
	if fmt.Sprint(counts) != "[1 61 121 150 151]" {
		t.Errorf("notified with the counts %v, want at once, every minute, and the rest at the end", counts)
	}
}

func TestOneAlertIsCountedOnce(t *testing.T) {
	c := &collector{}
	m := open(t, "", SinkOptions{Sink: c})
	for i := range 150 {
		handle(t, m, line(i, time.Duration(i)*time.Second, ""))
	}
	finish(t, m)
	got := c.alerts()
	if len(got) == 0 || got[len(got)-1].Count != 150 {
		t.Errorf("the last is %+v", got)
	}
	if s := m.Snapshot(); len(s.Alerts) != 1 || s.Alerts[0].Count != 1 {
		t.Errorf("%+v", s.Alerts)
	}
}

func TestFindingsAfterAPauseAreNew(t *testing.T) {
	c := &collector{}
	m := open(t, "", SinkOptions{Sink: c})
	handle(t, m, line(1, 0, ""), line(2, 2*time.Hour, ""))
	finish(t, m)
	root := 0
	for _, a := range c.alerts() {
		if a.Rule == "root_token" {
			root++
		}
	}
	if root != 2 {
		t.Errorf("%d alerts", root)
	}
}

// TestRateLimit has one rule find more than anybody can read.
func TestRateLimit(t *testing.T) {
	c := &collector{}
	d := newDeduper(time.Minute, time.Hour, func(a tokenwatch.Alert, _ bool) { _ = c.Send(t.Context(), a) })
	for i := range 100_000 {
		d.add(tokenwatch.Alert{Rule: "r", Key: fmt.Sprint(i), Title: "t", First: start, Last: start, Count: 1})
	}
	if n := d.findings.Len(); n > maxOpen {
		t.Errorf("%d findings are kept", n)
	}
	d.add(tokenwatch.Alert{Rule: "r", Key: "later", First: start.Add(2 * time.Minute), Last: start.Add(2 * time.Minute), Count: 1})
	got := c.alerts()
	if len(got) != maxPerMinute+2 {
		t.Fatalf("%d notifications", len(got))
	}
	if sum := got[maxPerMinute]; sum.Count != 100_000-maxPerMinute || sum.Fingerprint == "" {
		t.Errorf("%+v", sum)
	}
}

// TestEachRequestIsGivenOnce has both lines of requests that end in all ways.
func TestEachRequestIsGivenOnce(t *testing.T) {
	var got []string
	m, err := New(Options{OnEvent: func(e *tokenwatch.Event) { got = append(got, e.RequestID+" "+string(e.Outcome())) }, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	disable := strings.NewReplacer(`"operation":"read"`, `"operation":"delete"`, `"tokens/config"`, `"sys/audit/file"`, `"vault-plugin-secrets-tokens"`, `"system"`, `"tokens/"`, `"sys/"`)
	for _, response := range []string{
		line(1, 0, ""),
		line(2, 0, `"error":"permission denied",`),
		line(3, 0, `"error":"hmac-sha256:1",`),
		disable.Replace(line(4, 0, "")),
	} {
		handle(t, m, strings.Replace(response, `"response"`, `"request"`, 1), response)
	}
	finish(t, m)
	if fmt.Sprint(got) != "[r1 ok r2 denied r3 invalid r4 ok]" {
		t.Errorf("%q", got)
	}
}

func TestDeniedRequestsCountOnce(t *testing.T) {
	m := open(t, "")
	denied := line(1, 0, `"error":"permission denied",`)
	handle(t, m, strings.Replace(denied, `"response"`, `"request"`, 1), denied, line(2, 0, ""))
	finish(t, m)
	s := m.Snapshot()
	if s.Lines != 3 || len(s.Events) != 2 || s.Events[0].Count != 1 || s.Events[1].Count != 1 {
		t.Errorf("%+v", s)
	}
}

func TestCounts(t *testing.T) {
	m := open(t, "")
	handle(t, m, line(1, 0, ""), "nonsense\n", "\n", "{}\n", strings.Repeat("x", 200_000)+"\n", line(2, time.Minute, ""))
	if err := m.Handle(tokenwatch.Batch{Skipped: 2, Dropped: 3}); err != nil {
		t.Fatal(err)
	}
	finish(t, m)
	s := m.Snapshot()
	if s.Lines != 10 || s.Malformed != 3 || s.Oversized != 2 || s.Dropped != 3 || s.Events[0].Count != 2 {
		t.Errorf("%+v", s)
	}
	if len(s.Minutes) != 60 || !s.LastEntry.Equal(start.Add(time.Minute)) {
		t.Errorf("%d minutes, the last entry at %v", len(s.Minutes), s.LastEntry)
	}
}

// TestRestart stops and starts in the middle of everything.
func TestRestart(t *testing.T) {
	state := filepath.Join(t.TempDir(), "state")
	c := &collector{failing: 1 << 30, err: errors.New("down")}
	m := open(t, state, SinkOptions{Sink: c, FirstRetry: time.Hour})
	denied := line(3, 2*time.Second, `"error":"permission denied",`)
	handle(t, m, line(1, 0, ""), line(2, time.Second, ""), strings.Replace(denied, `"response"`, `"request"`, 1))
	if _, err := New(Options{StateFile: state}); err == nil || !strings.Contains(err.Error(), "in use") {
		t.Errorf("a second one on the same state: %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel() // the sink is down, and there is no time
	if err := m.Close(ctx); err != nil {
		t.Fatal(err)
	}

	up := &collector{}
	m = open(t, state, SinkOptions{Sink: up})
	handle(t, m, denied, line(4, 3*time.Second, ""))
	finish(t, m)
	s := m.Snapshot()
	if s.Lines != 5 || s.Events[0].Count+s.Events[1].Count != 4 {
		t.Errorf("%+v", s)
	}
	got := up.alerts()
	if len(got) == 0 || got[0].Rule != "root_token" || got[len(got)-1].Count != 4 {
		t.Errorf("what waited for the sink is lost: %+v", got)
	}
}

// TestStateOfVersion1 reads testdata/state-v1, which has two requests, one of
// them refused (r2), three findings of rule "r" that are one alert, and more of
// rule "many" than it may notify of in a minute, all of them waiting for a sink.
func TestStateOfVersion1(t *testing.T) {
	raw, err := os.ReadFile("testdata/state-v1")
	if err != nil {
		t.Fatal(err)
	}
	state := filepath.Join(t.TempDir(), "state")
	if err := os.WriteFile(state, raw, 0o600); err != nil {
		t.Fatal(err)
	}
	c := &collector{}
	m, err := New(Options{Sinks: []SinkOptions{{Sink: c}}, RepeatInterval: time.Minute, ResolveTimeout: time.Hour, StateFile: state, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	if p := m.Position(); p == nil || *p != (tokenwatch.Position{Path: "/var/log/vault/audit.log", Device: 1, Inode: 2, Offset: 3, HeadSize: 4, HeadSum: "5"}) {
		t.Errorf("position %+v", p)
	}
	if f, ok := m.deduper.findings.Peek(findingKey{"r", "again"}); !ok || f.Notified != 1 || f.Alert.Count != 3 || !f.At.Equal(start) || f.Alert.Title != "Again" {
		t.Errorf("finding %+v", f)
	}
	if l := m.deduper.limits["many"]; l == nil || l.Notified != maxPerMinute+1 || l.Held != 1 || !l.Minute.Equal(start) || l.Last.Title != "Many" {
		t.Errorf("limit %+v", l)
	}
	handle(t, m, line(2, 2*time.Second, `"error":"permission denied",`)) // counted already
	finish(t, m)
	s := m.Snapshot()
	if s.Lines != 3 || len(s.Events) != 2 || s.Events[0] != (tokenwatch.EventCount{Kind: "config_read", Outcome: "denied", Mount: "tokens/", Count: 1}) {
		t.Errorf("%+v", s)
	}
	// What waited, and at the end the rest of "r" and what "many" held back.
	if got := c.alerts(); len(got) != 1+maxPerMinute+2 || got[0].Title != "Again" {
		t.Errorf("%d alerts: %+v", len(got), got)
	}
}

func TestStateThatCannotBeRead(t *testing.T) {
	state := filepath.Join(t.TempDir(), "state")
	m := open(t, state)
	handle(t, m, line(1, 0, ""))
	finish(t, m)
	good, err := os.ReadFile(state)
	if err != nil {
		t.Fatal(err)
	}
	for name, bad := range map[string][]byte{"cut off": good[:len(good)/2], "changed": append(append([]byte{}, good[:len(good)-40]...), good[len(good)-39:]...), "other": []byte("hello"), "empty": {}} {
		if err := os.WriteFile(state, bad, 0o600); err != nil {
			t.Fatal(err)
		}
		if m, err := New(Options{StateFile: state, Log: slog.New(slog.DiscardHandler)}); err == nil {
			_ = m.Close(t.Context())
			t.Errorf("%s: accepted", name)
		}
	}
}

func TestSinksAreTriedAgain(t *testing.T) {
	for name, test := range map[string]struct {
		failing int
		err     error
		opts    SinkOptions
		sent    int64
		failed  int64
	}{
		"for a while":          {3, errors.New("down"), SinkOptions{FirstRetry: time.Millisecond}, 1, 0},
		"until it is too late": {1 << 30, errors.New("down"), SinkOptions{FirstRetry: time.Millisecond, GiveUpAfter: 20 * time.Millisecond}, 0, 1},
		"not when refused":     {1 << 30, fmt.Errorf("%w: no", sink.ErrPermanent), SinkOptions{FirstRetry: time.Hour}, 0, 1},
		"not when unwanted":    {0, nil, SinkOptions{MinSeverity: tokenwatch.SeverityCritical}, 0, 0},
	} {
		c := &collector{failing: test.failing, err: test.err}
		test.opts.Sink = c
		m := open(t, "", test.opts)
		handle(t, m, line(1, 0, ""))
		finish(t, m)
		if n := m.Snapshot().Sinks[0]; n.Sent != test.sent || n.Failed != test.failed || n.Queued != 0 {
			t.Errorf("%s: %+v", name, n)
		}
	}
}

func TestQueueIsBounded(t *testing.T) {
	q := newQueue(SinkOptions{Sink: &collector{}}, slog.New(slog.DiscardHandler))
	for i := range 3 * maxWaiting {
		severity := tokenwatch.SeverityInfo
		if i%10 == 0 {
			severity = tokenwatch.SeverityCritical
		}
		q.put(tokenwatch.Alert{Fingerprint: fmt.Sprint(i), Severity: severity})
	}
	critical := 0
	for _, a := range q.pending() {
		if a.Severity == tokenwatch.SeverityCritical {
			critical++
		}
	}
	if n := len(q.pending()); n != maxWaiting || critical != 3*maxWaiting/10 {
		t.Errorf("%d wait, %d of them critical", n, critical)
	}
}

func TestMountsAndLeases(t *testing.T) {
	table := newMountTable()
	about := func(e tokenwatch.Event) (tokenwatch.Event, bool) { ok := table.resolve(&e); return e, ok }
	about(tokenwatch.Event{Kind: tokenwatch.KindIssue, Mount: "team/tokens/"})
	for name, test := range map[string]struct {
		e    tokenwatch.Event
		ours bool
	}{
		"lease":                   {tokenwatch.Event{Kind: tokenwatch.KindLeaseRevoke, LeaseID: "team/tokens/creds/a/b/xyz"}, true},
		"lease of another engine": {tokenwatch.Event{Kind: tokenwatch.KindLeaseRevoke, LeaseID: "database/creds/a/xyz"}, false},
		"lease of a longer name":  {tokenwatch.Event{Kind: tokenwatch.KindLeaseRevoke, LeaseID: "team/tokens2/creds/a/xyz"}, false},
		"in another namespace":    {tokenwatch.Event{Kind: tokenwatch.KindLeaseRevoke, Namespace: "ns", LeaseID: "team/tokens/creds/a/xyz"}, false},
		"hashed, not known":       {tokenwatch.Event{Kind: tokenwatch.KindLeaseRevoke, LeaseHash: "hmac-sha256:1"}, false},
		"renewal shows both":      {tokenwatch.Event{Kind: tokenwatch.KindLeaseRenew, LeaseHash: "hmac-sha256:2", LeaseID: "team/tokens/creds/a/xyz"}, true},
		"prefix of a role":        {tokenwatch.Event{Kind: tokenwatch.KindLeasePrefix, Name: "team/tokens/creds/a"}, true},
		"prefix of the mount":     {tokenwatch.Event{Kind: tokenwatch.KindLeasePrefix, Name: "team/tokens"}, true},
		"prefix above the mount":  {tokenwatch.Event{Kind: tokenwatch.KindLeasePrefix, Name: "team/"}, true},
		"prefix of another":       {tokenwatch.Event{Kind: tokenwatch.KindLeasePrefix, Name: "database/creds"}, false},
		"unmounting":              {tokenwatch.Event{Kind: tokenwatch.KindMountDisable, Mount: "team/tokens/"}, true},
		"unmounting another":      {tokenwatch.Event{Kind: tokenwatch.KindMountDisable, Mount: "kv/"}, false},
	} {
		e, ours := about(test.e)
		if ours != test.ours || ours && e.Mount != "team/tokens/" {
			t.Errorf("%s: %v, mount %q", name, ours, e.Mount)
		}
	}
	e, ours := about(tokenwatch.Event{Kind: tokenwatch.KindLeaseRevoke, LeaseHash: "hmac-sha256:2"})
	if !ours || e.LeaseID != "team/tokens/creds/a/xyz" || e.Role != "a" {
		t.Errorf("the hash of a lease that was renewed: %+v", e)
	}
}
