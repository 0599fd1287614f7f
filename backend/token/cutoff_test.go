package token

import (
	"context"
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/vault/sdk/logical"

	"github.com/vault-tokens/vault-plugin-secrets-tokens/backend/store/storetest"
	"github.com/vault-tokens/vault-plugin-secrets-tokens/backend/template"
)

var kinds = []string{"api_key", "bearer", "jwt"}

// issueTo issues a token to an entity.
func (f *fixture) issueTo(name, entity string) *Issued {
	f.t.Helper()
	issued, err := f.Issue(f.ctx, f.storage, Request{Role: name, Caller: template.Caller{EntityID: entity, DisplayName: "login"}})
	if err != nil {
		f.t.Fatal(err)
	}
	return issued
}

// endEntity revokes what an entity was issued until now.
func (f *fixture) endEntity(entity string) time.Time {
	f.t.Helper()
	at, err := f.cutoffs.EndEntity(f.ctx, f.storage, entity)
	if err != nil {
		f.t.Fatal(err)
	}
	return at
}

// The end of an entity is the end of all that it was issued, of every kind, with one
// write, and of nothing else.
func TestEntityEnds(t *testing.T) {
	f := newFixture(t)
	var gone, kept []*Issued
	for _, name := range kinds {
		gone = append(gone, f.issueTo(name, "entity-1"), f.issueTo(name, "entity-1"))
		kept = append(kept, f.issueTo(name, "entity-2"), f.issueTo(name, ""))
	}
	if !f.active(gone[0]) {
		t.Fatal("a new token is inactive")
	}
	if reads, writes := f.storage.Count(func() { f.endEntity("entity-1") }); reads != 0 || writes != 1 {
		t.Errorf("%d reads and %d writes", reads, writes)
	}
	for _, name := range kinds {
		_, err := f.Issue(f.ctx, f.storage, Request{Role: name, Caller: template.Caller{EntityID: "entity-1"}})
		wantMistake(t, "issue in the second of the cut-off", err, "entity_id")
	}
	f.now = f.now.Add(time.Second)
	for _, name := range kinds {
		kept = append(kept, f.issueTo(name, "entity-1"))
	}
	for _, when := range []string{"at once", "after a restart"} {
		for _, issued := range gone {
			if f.active(issued) {
				t.Errorf("%s: %s is active", when, issued.TokenType)
			}
			if issued.TokenType.Opaque() {
				_, err := f.Renew(f.ctx, f.storage, issued.ID, 0)
				wantMistake(t, "renew", err, "lease_id")
				if record, err := f.Get(f.ctx, f.storage, issued.ID); record != nil || err != nil {
					t.Errorf("%s: found %v, %v", when, record, err)
				}
			}
		}
		for _, issued := range kept {
			if !f.active(issued) {
				t.Errorf("%s: a %s of another one, or from later, is inactive", when, issued.TokenType)
			}
		}
		f.restart()
	}
	// What is dead can be revoked, so that its lease can end.
	for _, issued := range gone {
		if _, err := f.revoke(issued); err != nil {
			t.Error(err)
		}
	}
}

// By a clock that is behind the cut-off nothing is issued that would be dead.
func TestIssueBehindACutoff(t *testing.T) {
	f := newFixture(t)
	f.endEntity("entity-1")
	f.now = f.now.Add(-time.Hour)
	f.endEntity("entity-1")
	_, err := f.Issue(f.ctx, f.storage, Request{Role: "bearer", Caller: caller})
	wantMistake(t, "issue behind the cut-off", err, "entity_id")
	f.now = f.now.Add(time.Hour + time.Second)
	if !f.active(f.issueTo("bearer", "entity-1")) {
		t.Error("inactive after the cut-off")
	}
}

// While the cut-offs cannot be read, no token is called active or issued.
func TestCutoffsUnread(t *testing.T) {
	f := newFixture(t)
	var issued []*Issued
	for _, name := range kinds {
		issued = append(issued, f.issue(name))
	}
	f.restart()
	f.storage.Before(storetest.Fail("cutoff/", storetest.List))
	for _, i := range issued {
		if answer, err := f.Introspect(f.ctx, f.storage, Introspection{Token: i.Token}); !errors.Is(err, storetest.ErrInjected) {
			t.Errorf("%s: answered %+v, %v", i.TokenType, answer, err)
		}
		if _, err := f.Issue(f.ctx, f.storage, Request{Role: i.Role, Caller: caller}); !errors.Is(err, storetest.ErrInjected) {
			t.Errorf("issued a %s: %v", i.TokenType, err)
		}
	}
	f.storage.Heal()
	for _, i := range issued {
		if !f.active(i) {
			t.Errorf("%s: inactive once they can be read", i.TokenType)
		}
	}
}

func TestRoleCutOff(t *testing.T) {
	f := newFixture(t)
	if _, err := f.cutoffs.EndRole(f.ctx, f.storage, "bearer"); err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct {
		role  string
		after time.Duration
		want  bool
	}{{"bearer", -time.Hour, true}, {"bearer", 0, true}, {"bearer", time.Second, false}, {"api_key", -time.Hour, false}} {
		if got, err := f.roleCutOff(f.ctx, f.storage, test.role, f.now.Add(test.after)); err != nil || got != test.want {
			t.Errorf("%+v: %v, %v", test, got, err)
		}
	}
}

// A pass ends the tokens of an entity that was ended: it reads each record that
// stays once, and each that goes once more under its lock.
func TestPassEndsAnEntity(t *testing.T) {
	f := newFixture(t).capped(10_000)
	const gone, kept = 1000, 4000
	for range gone {
		f.issueTo("bearer", "entity-1")
	}
	for range kept {
		f.issueTo("api_key", "entity-2")
	}
	f.tidy()
	f.endEntity("entity-1")
	f.WantPass()
	var ended []*Ended
	reads, writes := f.storage.Count(func() {
		for more := true; more; {
			done := f.tidy()
			ended, more = append(ended, done.Ended...), done.More
		}
	})
	if len(ended) != gone || len(f.ids()) != kept {
		t.Errorf("ended %d, left are %d", len(ended), len(f.ids()))
	}
	for _, e := range ended {
		if e.Expired || e.Role != "bearer" {
			t.Fatalf("ended %+v", e)
		}
	}
	// A write each for the bit, the record and the slot. Beside the records: listings of
	// shards and caps, the list, and where the pass stands.
	if most := int64(2*gone + kept + 2*len(shards) + 10); reads > most || writes > 3*gone+5 {
		t.Errorf("%d reads and %d writes, want at most %d and %d", reads, writes, most, 3*gone+5)
	}
	if p := f.tidying.get(); p.Looked != gone+kept || p.Ended != gone || p.Left != kept || p.Removed+p.Failed+p.Slots != 0 || p.Position() != 1 {
		t.Errorf("the pass says %+v", p)
	}
	// Their slots are free.
	for range 10_000 {
		if _, err := f.Issue(f.ctx, f.storage, Request{Role: "bearer", Caller: template.Caller{DisplayName: "x"}}); err != nil {
			t.Fatal(err)
		}
	}
	f.now = f.now.Add(time.Second)
	f.full("at the cap")
}

// passes makes runs until nothing more is wanted, and reports whether a pass was
// made.
func (f *fixture) passes() (made bool) {
	f.t.Helper()
	for {
		done := f.tidy()
		made = made || !done.Pass.FinishedAt.IsZero()
		if !done.More {
			return made
		}
	}
}

// A pass that began before a cut-off does not do for it, in this process and after
// its end, and nothing is written to remember that one is due.
func TestPassIsDueAfterACutoff(t *testing.T) {
	for name, test := range map[string]struct {
		crash, want bool
	}{
		"asked for":         {false, true},
		"crash before that": {true, true},
	} {
		t.Run(name, func(t *testing.T) {
			f := newFixture(t)
			for range 200 {
				f.issueTo("bearer", "entity-1")
			}
			// One is under way, and past half of the records.
			ctx, cancel := context.WithCancel(f.ctx)
			looked := 0
			f.storage.After(func(op storetest.Op, key string) error {
				if op == storetest.Get && strings.HasPrefix(key, recordPrefix) {
					if looked++; looked == 150 {
						cancel()
					}
				}
				return nil
			})
			if done, err := f.Tidy(ctx, f.storage, margin); err != nil || !done.Pass.FinishedAt.IsZero() || done.Pass.Looked < 100 || !done.More {
				t.Fatalf("%+v, %v", done.Pass, err)
			}
			f.storage.Heal()
			f.now = f.now.Add(time.Minute)
			f.endEntity("entity-1")
			if test.crash {
				f.restart()
			} else {
				f.WantPass()
			}
			f.now = f.now.Add(time.Minute)
			if f.passes() != test.want || len(f.ids()) != 0 {
				t.Errorf("left are %d", len(f.ids()))
			}
			for _, restart := range []func(){func() {}, f.restart} {
				restart()
				if f.passes() {
					t.Error("a pass with nothing to do")
				}
			}
		})
	}
	// And after one that had finished.
	f := newFixture(t)
	f.issueTo("bearer", "entity-1")
	f.passes()
	f.now = f.now.Add(time.Minute)
	f.endEntity("entity-1")
	f.restart()
	if !f.passes() || len(f.ids()) != 0 {
		t.Errorf("left are %d", len(f.ids()))
	}
}

// A cut-off in the future, of a clock that was ahead, keeps no pass from being made,
// and has none made over and over.
func TestPassAfterAClockStep(t *testing.T) {
	f := newFixture(t)
	f.issueTo("bearer", "entity-1")
	right := f.now
	f.now = right.Add(48 * time.Hour)
	f.endEntity("entity-1")
	f.now = right
	if !f.passes() {
		t.Error("no pass")
	}
	f.now = right.Add(time.Minute)
	if f.passes() {
		t.Error("a pass without need")
	}
	f.restart()
	f.passes()
	if f.passes() {
		t.Error("passes over and over")
	}
}

// What a fault leaves of a dead token is done by the caller's retry, which begins
// another pass, or by the next one, which is soon.
func TestPassOnFaults(t *testing.T) {
	for _, op := range []storetest.Op{storetest.Get, storetest.Delete} {
		for _, after := range []bool{false, true} {
			for _, retry := range []bool{false, true} {
				f := newFixture(t)
				issued := f.issueTo("bearer", "entity-1")
				other := f.issueTo("bearer", "entity-1")
				f.passes()
				f.endEntity("entity-1")
				f.WantPass()
				inject := f.storage.Before
				if after {
					inject = f.storage.After
				}
				inject(storetest.Fail(f.records.Key(issued.ID), op))
				done, err := f.Tidy(f.ctx, f.storage, margin)
				f.storage.Heal()
				if !errors.Is(err, storetest.ErrInjected) || done.Pass.Failed != 1 || done.Pass.FinishedAt.IsZero() {
					t.Errorf("%s: %+v, %v", op, done.Pass, err)
				}
				if f.active(issued) || f.active(other) {
					t.Errorf("%s: active", op)
				}
				f.restart()
				if retry {
					f.endEntity("entity-1")
					f.WantPass()
				} else {
					f.now = f.now.Add(retryEvery)
				}
				if !f.passes() || len(f.ids()) != 0 {
					t.Errorf("%s, after %v, retry %v: left are %d", op, after, retry, len(f.ids()))
				}
			}
		}
	}
}

// recorder is a Visitor that remembers.
type recorder struct {
	began    int
	visited  []string
	complete []bool
	err      error
}

func (r *recorder) Begin() bool {
	r.began, r.visited = r.began+1, nil
	return true
}
func (r *recorder) Visit(record *Record) { r.visited = append(r.visited, record.ID) }
func (r *recorder) End(_ context.Context, _ logical.Storage, complete bool) error {
	r.complete = append(r.complete, complete)
	return r.err
}

func TestVisitor(t *testing.T) {
	f := newFixture(t)
	var want []string
	for range 50 {
		want = append(want, f.issueTo("api_key", "entity-2").ID)
		f.issueTo("bearer", "entity-1")
	}
	slices.Sort(want)
	f.now = f.now.Add(time.Second)
	f.endEntity("entity-1")
	r := &recorder{}
	f.Visitor = r
	f.passes()
	slices.Sort(r.visited)
	if r.began != 1 || !slices.Equal(r.visited, want) || !slices.Equal(r.complete, []bool{true}) {
		t.Errorf("began %d, ended %v, visited %d", r.began, r.complete, len(r.visited))
	}
	if err := f.DryRun(f.ctx, f.storage, margin); err != nil || r.began != 1 || len(r.visited) != len(want) {
		t.Errorf("a dry run was shown: %+v, %v", r, err)
	}
	// A record that fails makes the visit incomplete; its own error is the run's.
	r.err = errors.New("of the visitor")
	f.WantPass()
	f.storage.Before(storetest.Fail(f.records.Key(want[0]), storetest.Get))
	if _, err := f.Tidy(f.ctx, f.storage, margin); !errors.Is(err, r.err) || len(r.visited) != len(want)-1 || r.complete[1] {
		t.Errorf("ended %v, visited %d, %v", r.complete, len(r.visited), err)
	}
	f.storage.Heal()
	r.err = nil
	// A process that takes a pass over does not see all of it.
	f.now = f.now.Add(time.Second)
	f.WantPass()
	ctx, cancel := context.WithCancel(f.ctx)
	f.storage.Before(func(op storetest.Op, key string) error {
		if op == storetest.Get && strings.HasPrefix(key, recordPrefix) && len(r.visited) > 10 {
			cancel()
		}
		return nil
	})
	f.Tidy(ctx, f.storage, margin)
	f.storage.Heal()
	f.restart()
	second := &recorder{}
	f.Visitor = second
	if !f.passes() || second.began+len(second.visited)+len(second.complete) != 0 {
		t.Errorf("shown half of a pass: %+v", second)
	}
	f.WantPass()
	if f.passes(); second.began != 1 || !slices.Equal(second.complete, []bool{true}) {
		t.Errorf("then began %d, ended %v", second.began, second.complete)
	}
}

func TestCancelPass(t *testing.T) {
	f := newFixture(t)
	if cancelled, err := f.CancelPass(f.ctx, f.storage); cancelled || err != nil {
		t.Errorf("cancelled nothing: %v, %v", cancelled, err)
	}
	for range 100 {
		f.issueTo("bearer", "entity-1")
	}
	f.endEntity("entity-1")
	// While a run is at it: it stops, and then the pass is over.
	looked, answer := 0, make(chan bool)
	f.storage.Before(func(op storetest.Op, key string) error {
		if op == storetest.Get && strings.HasPrefix(key, recordPrefix) {
			if looked++; looked == 20 {
				go func() {
					cancelled, err := f.CancelPass(f.ctx, f.storage)
					answer <- cancelled && err == nil
				}()
				for !f.tidying.isCancelling() {
				}
			}
		}
		return nil
	})
	f.tidy()
	if !<-answer {
		t.Error("not cancelled")
	}
	f.storage.Heal()
	for _, when := range []string{"at once", "after a restart"} {
		status, err := f.TidyStatus(f.ctx, f.storage)
		if err != nil || !status.Pass.Cancelled || status.Pass.Position() >= 1 || status.Complete != nil || status.Wanted && when == "at once" {
			t.Errorf("%s: %+v, %v", when, status, err)
		}
		f.now = f.now.Add(time.Minute)
		f.tidying.takeAgain()
		if f.passes() {
			t.Errorf("%s: it goes on", when)
		}
		f.restart()
	}
	if len(f.ids()) == 0 {
		t.Fatal("the test shows nothing")
	}
	// The next one comes in its time, and is complete.
	f.now = f.now.Add(passEvery)
	if !f.passes() || len(f.ids()) != 0 {
		t.Errorf("left are %d", len(f.ids()))
	}
	// A write that fails cancels nothing.
	f.WantPass()
	ctx, cancel := context.WithCancel(f.ctx)
	f.storage.After(func(op storetest.Op, key string) error {
		if op == storetest.List && strings.HasPrefix(key, recordPrefix) {
			cancel()
		}
		return nil
	})
	f.Tidy(ctx, f.storage, margin)
	f.storage.Before(storetest.Fail(passPrefix, storetest.Put))
	if cancelled, err := f.CancelPass(f.ctx, f.storage); cancelled || !errors.Is(err, storetest.ErrInjected) {
		t.Errorf("cancelled %v, %v", cancelled, err)
	}
	f.storage.Heal()
	if !f.passes() {
		t.Error("it does not go on")
	}
}

// A dry run counts what a pass then removes, changes nothing, and does not come
// between the runs of one.
func TestDryRun(t *testing.T) {
	f := newFixture(t)
	for range 10 {
		f.issueTo("bearer", "entity-1")
	}
	f.now = f.now.Add(2*time.Hour + margin)
	for range 20 {
		f.issueTo("bearer", "entity-1")
	}
	f.now = f.now.Add(time.Second)
	f.endEntity("entity-1")
	f.now = f.now.Add(time.Second)
	for range 30 {
		f.issueTo("bearer", "entity-1")
	}
	var err error
	if _, writes := f.storage.Count(func() { err = f.DryRun(f.ctx, f.storage, margin) }); err != nil || writes != 0 {
		t.Errorf("%d writes, %v", writes, err)
	}
	status, err := f.TidyStatus(f.ctx, f.storage)
	if err != nil || status.Complete != nil {
		t.Errorf("%+v, %v", status, err)
	}
	dry := status.Pass
	if !dry.DryRun || dry.Cancelled || dry.FinishedAt.IsZero() || dry.Looked != 60 || dry.Removed != 10 || dry.Ended != 20 || dry.Left != 30 {
		t.Errorf("counted %+v", dry)
	}
	if !f.passes() {
		t.Error("the pass was not due any more")
	}
	if p := f.tidying.get(); p.Looked != dry.Looked || p.Removed != dry.Removed || p.Ended != dry.Ended || p.Left != dry.Left {
		t.Errorf("then removed %+v", p)
	}
	f.storage.Before(storetest.Fail(recordPrefix, storetest.List))
	if err := f.DryRun(f.ctx, f.storage, margin); !errors.Is(err, storetest.ErrInjected) {
		t.Errorf("of a storage that fails: %v", err)
	}
	f.storage.Heal()
	f.now = f.now.Add(time.Second)
	f.DryRun(cancelled(), f.storage, margin)
	if status, err := f.TidyStatus(f.ctx, f.storage); err != nil || !status.Pass.DryRun || !status.Pass.Cancelled || status.Complete == nil {
		t.Errorf("cancelled: %+v, %v", status, err)
	}
}

// A run rests for as long as it works, and holds no lock meanwhile.
func TestPace(t *testing.T) {
	f := newFixture(t)
	issued := f.issue("bearer")
	for range 99 {
		f.issue("bearer")
	}
	f.storage.After(func(op storetest.Op, key string) error {
		if op == storetest.Get && strings.HasPrefix(key, recordPrefix) {
			f.now = f.now.Add(burst / 5)
		}
		return nil
	})
	rests := 0
	f.rest = func(ctx context.Context, d time.Duration) {
		if rests++; d != burst {
			t.Errorf("rested for %s", d)
		}
		if rests == 1 {
			if _, err := f.revoke(issued); err != nil {
				t.Error(err)
			}
		}
	}
	f.tidy()
	if rests < 15 || rests > 20 {
		t.Errorf("%d rests in 100 records, of which 5 take a burst", rests)
	}
	rest(cancelled(), time.Hour) // returns
}

func TestPosition(t *testing.T) {
	last := -1.0
	for _, p := range []Pass{
		{}, {After: "0zz"}, {After: "VVV"}, {After: "zzz"}, {Shard: 1}, {Shard: 31, After: "V0"}, {Shard: 61, After: "zz"}, {Shard: 62}, {Shard: 62, Role: "a", After: "zz"},
	} {
		at := p.Position()
		if at < last || at >= 1 {
			t.Errorf("%+v is at %f, after %f", p, at, last)
		}
		last = at
	}
	if p := (Pass{FinishedAt: time.Now()}); p.Position() != 1 {
		t.Error("a finished pass is not at its end")
	}
	if p := (Pass{After: "??"}); p.Position() != 0 {
		t.Errorf("nonsense is at %f", p.Position())
	}
}
