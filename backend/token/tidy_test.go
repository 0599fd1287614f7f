package token

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/vault-tokens/vault-plugin-secrets-tokens/backend/role"
	"github.com/vault-tokens/vault-plugin-secrets-tokens/backend/store/storetest"
)

// tidy is one run, which has to succeed.
func (f *fixture) tidy() *TidyResult {
	f.t.Helper()
	done, err := f.Tidy(f.ctx, f.storage, margin)
	if err != nil {
		f.t.Fatal(err)
	}
	return done
}

// ids are those of all records, whether or not the token lives.
func (f *fixture) ids() []string {
	f.t.Helper()
	var ids []string
	for id, err := range f.idsAfter(f.ctx, f.storage, "") {
		if err != nil {
			f.t.Fatal(err)
		}
		ids = append(ids, id)
	}
	return ids
}

func TestTidy(t *testing.T) {
	f := newFixture(t)
	live := f.issue("api_key")
	want := map[string]bool{}
	for range 20 {
		want[f.issue("bearer").ID] = true
	}
	f.now = f.now.Add(time.Hour + margin - time.Second)
	if done := f.tidy(); len(done.Expired) != 0 || done.Pass.FinishedAt.IsZero() || done.Pass.Looked != 21 {
		t.Errorf("removed live tokens, or those of a clock that is ahead: %+v", done)
	}
	f.now = f.now.Add(time.Second)
	if reads, writes := f.storage.Count(func() { f.tidy() }); reads+writes != 0 {
		t.Errorf("the next pass began at once, with %d reads and %d writes", reads, writes)
	}
	f.now = f.now.Add(passEvery)
	done := f.tidy()
	if len(done.Expired) != len(want) || done.Pass.Removed != len(want) {
		t.Errorf("removed %d", len(done.Expired))
	}
	for _, ended := range done.Expired {
		if !want[ended.ID] || !ended.Expired || ended.Role != "bearer" || ended.TokenType != role.Bearer {
			t.Errorf("removed %+v", ended)
		}
	}
	if left := f.ids(); len(left) != 1 || left[0] != live.ID {
		t.Errorf("left are %v", left)
	}
}

// One token that cannot be read or removed does not keep the others, and is
// removed by a later run.
func TestTidyOnFaults(t *testing.T) {
	for _, op := range []storetest.Op{storetest.Get, storetest.Delete} {
		t.Run(string(op), func(t *testing.T) {
			f := newFixture(t)
			for range 20 {
				f.issue("bearer")
			}
			bad := f.issue("bearer").ID
			f.now = f.now.Add(2*time.Hour + margin)
			f.storage.Before(storetest.Fail(recordPrefix+shardOf(bad)+"/"+bad, op))
			done, err := f.Tidy(f.ctx, f.storage, margin)
			// What could not be removed is reported all the same: it may have gone.
			want := map[storetest.Op]int{storetest.Get: 20, storetest.Delete: 21}[op]
			if !errors.Is(err, storetest.ErrInjected) || len(done.Expired) != want || len(f.ids()) != 1 {
				t.Errorf("removed %d, %v", len(done.Expired), err)
			}
			f.storage.Heal()
			f.now = f.now.Add(passEvery)
			if done := f.tidy(); len(done.Expired) != 1 || done.Expired[0].ID != bad {
				t.Errorf("then removed %v", done.Expired)
			}
		})
	}
}

// A run ends when its time is over, which is no error, and the next one goes on
// where it stopped, after a restart too: a live token is looked at once in a pass.
func TestTidyGoesOn(t *testing.T) {
	f := newFixture(t).capped(1000)
	for range 200 {
		f.issue("bearer")
	}
	for range 100 {
		f.issue("api_key")
	}
	for name, restart := range map[string]func(){"in one process": func() {}, "over restarts": f.restart} {
		f.now = f.now.Add(passEvery)
		runs, looked := 0, int64(0)
		for {
			runs++
			restart()
			ctx, cancel := context.WithCancel(f.ctx)
			left := 25
			f.storage.Before(func(op storetest.Op, key string) error {
				if strings.HasPrefix(key, passPrefix) {
					return nil
				}
				if left--; left < 0 {
					cancel()
				}
				if op == storetest.Get && strings.HasPrefix(key, recordPrefix) {
					looked++
				}
				return ctx.Err()
			})
			done, err := f.Tidy(ctx, f.storage, margin)
			cancel()
			f.storage.Heal()
			if err != nil || runs > 200 {
				t.Fatalf("%s, run %d: %v", name, runs, err)
			}
			if !done.Pass.FinishedAt.IsZero() {
				if done.Pass.Looked != 300 || done.Pass.Failed != 0 {
					t.Errorf("%s: looked at %d, failed %d", name, done.Pass.Looked, done.Pass.Failed)
				}
				break
			}
		}
		if runs < 5 {
			t.Errorf("%s: %d runs; the test shows nothing", name, runs)
		}
		// Records, the slots of the capped ones, and one per run that was cut off.
		if most := int64(300 + 200 + 2*runs); looked > most {
			t.Errorf("%s: %d records read in %d runs, want at most %d", name, looked, runs, most)
		}
	}
}

// A storage that is down is not asked for each record, and says so in few lines.
func TestTidyOnStorageThatIsDown(t *testing.T) {
	f := newFixture(t)
	for range 300 {
		f.issue("bearer")
	}
	f.storage.Before(storetest.Fail(recordPrefix, storetest.Get))
	var err error
	more := true
	reads, _ := f.storage.Count(func() {
		var done *TidyResult
		done, err = f.Tidy(f.ctx, f.storage, margin)
		more = done.More
	})
	if more {
		t.Error("it goes on at once")
	}
	for _, prefix := range []string{recordPrefix, passPrefix, capPrefix} {
		f := newFixture(t)
		f.issue("bearer")
		f.storage.Before(storetest.Fail(prefix, storetest.List, storetest.Put))
		if done, err := f.Tidy(f.ctx, f.storage, margin); err == nil || done.More {
			t.Errorf("with %s down, it goes on at once: %v", prefix, err)
		}
	}
	if err == nil || reads > 100 || strings.Count(err.Error(), "\n") > maxFailures {
		t.Errorf("%d reads, %v", reads, err)
	}
	f.storage.Heal()
	if done := f.tidy(); done.Pass.Failed != maxFailures || done.Pass.FinishedAt.IsZero() {
		t.Errorf("then %+v", done.Pass)
	}
}

// Neither does a run report more than a log can take.
func TestTidyReportsInBounds(t *testing.T) {
	f := newFixture(t)
	for range maxRemovals + 10 {
		f.issue("bearer")
	}
	f.now = f.now.Add(2*time.Hour + margin)
	if done := f.tidy(); len(done.Expired) != maxRemovals {
		t.Errorf("removed %d", len(done.Expired))
	}
	if done := f.tidy(); len(done.Expired) != 10 || done.Pass.Removed != maxRemovals+10 {
		t.Errorf("then removed %d", len(done.Expired))
	}
}

// A clock that steps keeps no pass from being made, nor a stored state that makes
// no sense.
func TestTidyAfterAClockStep(t *testing.T) {
	f := newFixture(t)
	f.issue("bearer")
	right := f.now
	f.now = right.Add(365 * 24 * time.Hour)
	if done := f.tidy(); len(done.Expired) != 1 {
		t.Fatal("not removed")
	}
	f.now = right
	if done := f.tidy(); done.Pass.FinishedAt.IsZero() {
		t.Error("no pass for a year")
	}
	for _, stored := range []string{"{", `{"shard": -5}`, `{"shard": 99}`, `{"format": 99}`} {
		entry, err := f.storage.Get(f.ctx, "tidy/tokens")
		if err != nil {
			t.Fatal(err)
		}
		entry.Value = []byte(stored)
		if err := f.storage.Put(f.ctx, entry); err != nil {
			t.Fatal(err)
		}
		f.restart()
		if done := f.tidy(); done.Pass.FinishedAt.IsZero() {
			t.Errorf("no pass after %s", stored)
		}
	}
}

// What a fault leaves of caps is found: slots without a token go, those of tokens
// stay.
func TestTidyReconcilesCaps(t *testing.T) {
	f := newFixture(t).capped(50)
	var kept []*Issued
	for range 10 {
		kept = append(kept, f.issue("bearer"))
	}
	for n := range 40 { // as crashes leave them
		token := f.issue("api_key")
		token.Role, token.ExpiresAt = "bearer", f.now.Add(time.Duration(n+1)*time.Hour)
		if err := f.Tokens.records.caps.entries.Put(f.ctx, f.storage, "bearer/"+slotKey{id: fmt.Sprintf("%022d", n), expires: token.ExpiresAt}.name(), &slot{}); err != nil {
			t.Fatal(err)
		}
	}
	f.restart()
	f.full("with the slots that are left")
	if done := f.tidy(); done.Pass.Slots != 40 {
		t.Errorf("removed %d slots", done.Pass.Slots)
	}
	for range 50 - len(kept) {
		f.issue("bearer")
	}
	f.full("at the cap")
	for _, issued := range kept {
		if !f.active(issued) {
			t.Error("a token that was kept is inactive")
		}
	}
}

// One record that cannot be read keeps no slot of another from being found.
func TestReconcileBesideABadRecord(t *testing.T) {
	f := newFixture(t).capped(5)
	bad := f.issue("bearer")
	f.write(bad, "{")
	for n := range 4 {
		if err := f.records.caps.entries.Put(f.ctx, f.storage, "bearer/"+slotKey{id: fmt.Sprintf("%022d", n), expires: f.now.Add(time.Hour)}.name(), &slot{}); err != nil {
			t.Fatal(err)
		}
	}
	f.restart()
	f.full("before")
	if done, err := f.Tidy(f.ctx, f.storage, margin); err == nil || done.Pass.Slots != 4 {
		t.Errorf("removed %d slots, %v", done.Pass.Slots, err)
	}
	for range 4 {
		f.issue("bearer")
	}
	f.full("with the bad record, which counts")
	if _, err := f.Revoke(f.ctx, f.storage, Lease{ID: bad.ID, Role: "bearer"}); err != nil {
		t.Fatal(err)
	}
	f.issue("bearer")
	f.full("after the bad one was revoked")
}

// write replaces the stored record of a token.
func (f *fixture) write(issued *Issued, raw string) {
	f.t.Helper()
	entry, err := f.storage.Get(f.ctx, f.records.Key(issued.ID))
	if err != nil {
		f.t.Fatal(err)
	}
	entry.Value = []byte(raw)
	if err := f.storage.Put(f.ctx, entry); err != nil {
		f.t.Fatal(err)
	}
	f.records.Invalidate(entry.Key)
}
