package keyring

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/vault-tokens/vault-plugin-secrets-tokens/backend/store"
	"github.com/vault-tokens/vault-plugin-secrets-tokens/backend/store/storetest"
)

// pin does what issuing an opaque token with this life does to the key.
func (f *fixture) pin(name string, life time.Duration) bool {
	f.t.Helper()
	signs, err := f.PinLists(f.ctx, f.storage, name, f.now.Add(life))
	if err != nil {
		f.t.Fatal(err)
	}
	return signs
}

// storedPin is until when the storage has that a key signs lists.
func (f *fixture) storedPin(name string) time.Time {
	f.t.Helper()
	h, err := f.readHorizon(f.ctx, f.storage, name)
	if err != nil {
		f.t.Fatal(err)
	}
	return h.Lists
}

func (f *fixture) wantPinned(when, name string, until time.Time) {
	f.t.Helper()
	if got := f.storedPin(name); !got.Equal(until) {
		f.t.Errorf("%s: %s is pinned until %s, want %s", when, name, got.UTC(), until.UTC())
	}
	_, err := f.remove(f.ctx, name)
	wantMistake(f.t, when+": delete", err, "name")
}

// A pin is in the storage before PinLists returns, with one write per ten minutes
// at most.
func TestPinLists(t *testing.T) {
	f := newFixture(t)
	f.write("k", Settings{AllowedRoles: &[]string{}}) // it needs no role's permission
	f.get("k")
	for _, step := range []struct {
		after, life   time.Duration
		reads, writes int64
	}{
		{0, time.Hour, 1, 1},
		{0, time.Hour, 0, 0},
		{9 * time.Minute, time.Hour, 0, 0},
		{time.Minute, time.Hour, 0, 0}, // the last second that the first step covers
		{time.Second, time.Hour, 1, 1},
		{0, time.Minute, 0, 0},
		{0, 30 * 24 * time.Hour, 1, 1},
	} {
		f.now = f.now.Add(step.after)
		reads, writes := f.storage.Count(func() {
			if !f.pin("k", step.life) {
				t.Error("it does not sign")
			}
		})
		if reads != step.reads || writes != step.writes {
			t.Errorf("%s after the step before, for %s: %d reads and %d writes, want %d and %d", step.after, step.life, reads, writes, step.reads, step.writes)
		}
		if until := f.storedPin("k"); until.Before(f.now.Add(step.life)) {
			t.Errorf("the storage has %s for a token that lives until %s", until, f.now.Add(step.life))
		}
	}
	f.restart()
	f.get("k")
	if reads, writes := f.storage.Count(func() { f.pin("k", 30*24*time.Hour) }); reads != 1 || writes != 0 {
		t.Errorf("after a restart %d reads and %d writes of what is covered", reads, writes)
	}
	f.Invalidate("signed/k")
	if reads, writes := f.storage.Count(func() { f.pin("k", time.Hour) }); reads != 1 || writes != 0 {
		t.Errorf("after an invalidation %d reads and %d writes", reads, writes)
	}
}

func TestPinnedKeyIsNotDeleted(t *testing.T) {
	f := newFixture(t)
	f.write("k", Settings{})
	f.pin("k", time.Hour)
	f.now = f.now.Add(time.Hour + reserveAhead - time.Second)
	_, err := f.remove(f.ctx, "k")
	wantMistake(t, "delete", err, "name")
	for _, part := range []string{`key "k"`, "status lists", f.now.Add(time.Second).Format(time.RFC3339), "keys/k/rotate"} {
		if err == nil || !strings.Contains(err.Error(), part) {
			t.Errorf("%v does not name %s", err, part)
		}
	}
	f.now = f.now.Add(time.Second)
	if deleted, err := f.remove(f.ctx, "k"); !deleted || err != nil {
		t.Errorf("deleted %v, %v", deleted, err)
	}
	if f.raw("signed/k") != "" {
		t.Error("its horizon is left")
	}
}

// Whatever becomes of the versions, the pin stays.
func TestPinOutlivesVersions(t *testing.T) {
	algorithm, roles := "ES256", []string{"*"}
	for what, change := range map[string]func(f *fixture){
		"rotation":        func(f *fixture) { f.rotate("k", 0) },
		"signing":         func(f *fixture) { f.sign("k", 48*time.Hour) },
		"rotation, used":  func(f *fixture) { f.rotate("k", 0); f.sign("k", time.Hour) },
		"emergency":       func(f *fixture) { f.EmergencyRotate(f.ctx, f.storage, "k") },
		"emergency, used": func(f *fixture) { f.EmergencyRotate(f.ctx, f.storage, "k"); f.sign("k", time.Hour) },
		"replacement": func(f *fixture) {
			f.putRaw("key/k", "{")
			f.restart()
			f.write("k", Settings{Algorithm: &algorithm, AllowedRoles: &roles, AllowedAudiences: &roles})
		},
		"deletion of what cannot be read": func(f *fixture) {
			f.putRaw("key/k", "{")
			f.restart()
			if deleted, err := f.remove(f.ctx, "k"); !deleted || err != nil {
				f.t.Errorf("deleted %v, %v", deleted, err)
			}
			f.write("k", Settings{})
		},
		"restart": func(f *fixture) { f.restart() },
	} {
		t.Run(what, func(t *testing.T) {
			f := newFixture(t)
			f.write("k", Settings{})
			f.sign("k", time.Hour)
			f.pin("k", 24*time.Hour)
			until := f.storedPin("k")
			change(f)
			f.now = f.now.Add(3 * time.Hour) // what the key signed has ended
			f.wantPinned("after", "k", until)
			f.get("k")
			if reads, writes := f.storage.Count(func() { f.pin("k", time.Hour) }); reads > 1 || writes != 0 {
				t.Errorf("%d reads and %d writes of what is covered", reads, writes)
			}
		})
	}
}

// An emergency forgets what the versions signed that it drops, pinned or not.
func TestEmergencyOfAPinnedKey(t *testing.T) {
	f := newFixture(t)
	f.write("k", Settings{})
	f.sign("k", 48*time.Hour)
	f.pin("k", time.Hour)
	if _, err := f.EmergencyRotate(f.ctx, f.storage, "k"); err != nil {
		t.Fatal(err)
	}
	if until := f.signedUntil("k"); !until.IsZero() {
		t.Errorf("it has signed until %s", until)
	}
	if v := f.sign("k", time.Hour); v.State != Signing {
		t.Errorf("%s signs", v)
	}
}

// Where there is no key that can sign, tokens do without a list: nothing fails, and
// nothing is pinned.
func TestPinWithoutAKeyThatSigns(t *testing.T) {
	for name, damage := range map[string]func(f *fixture){
		"no key":              func(f *fixture) { f.remove(f.ctx, "k") },
		"undecodable key":     func(f *fixture) { f.putRaw("key/k", "{") },
		"key of the future":   func(f *fixture) { f.putRaw("key/k", `{"format":99}`) },
		"damaged version":     func(f *fixture) { f.edit("k", Signing, func(v map[string]any) { v["private_key"] = "AAAA" }) },
		"undecodable horizon": func(f *fixture) { f.putRaw("signed/k", "{") },
	} {
		t.Run(name, func(t *testing.T) {
			f := newFixture(t)
			f.write("k", Settings{})
			damage(f)
			f.restart()
			reports := f.reports()
			for range 2 {
				_, writes := f.storage.Count(func() {
					if f.pin("k", time.Hour) {
						t.Error("it signs")
					}
				})
				if writes != 0 {
					t.Errorf("%d writes", writes)
				}
			}
			if want := min(1, len(f.Problem("k"))); len(*reports) != want || (want == 0) != (name == "no key") {
				t.Errorf("reported %q", *reports)
			}
		})
	}
	f := newFixture(t)
	f.pin("none", time.Hour)
	if reads, _ := f.storage.Count(func() { f.pin("none", time.Hour) }); reads != 0 {
		t.Errorf("%d reads for a key that is known to be missing", reads)
	}
	f.write("none", Settings{})
	if !f.pin("none", time.Hour) {
		t.Error("a key that was made since does not sign")
	}
}

// A pin that failed is made good by the next call, and none is believed that the
// storage does not have.
func TestPinOnFaults(t *testing.T) {
	writes := storetest.Fail("signed/", storetest.Put)
	for name, test := range map[string]struct {
		inject func(*storetest.Storage)
		cancel bool
		want   error
	}{
		"write refused": {func(s *storetest.Storage) { s.Before(writes) }, false, storetest.ErrInjected},
		"reply lost":    {func(s *storetest.Storage) { s.After(writes) }, false, storetest.ErrInjected},
		"read refused":  {func(s *storetest.Storage) { s.Before(storetest.Fail("signed/", storetest.Get)) }, false, storetest.ErrInjected},
		"caller gone":   {func(*storetest.Storage) {}, true, context.Canceled},
	} {
		t.Run(name, func(t *testing.T) {
			f := newFixture(t)
			f.write("k", Settings{})
			signed := f.sign("k", time.Hour)
			ctx, cancel := context.WithCancel(f.ctx)
			defer cancel()
			if test.cancel {
				cancel()
			}
			test.inject(f.storage)
			if signs, err := f.PinLists(ctx, f.storage, "k", f.now.Add(24*time.Hour)); signs || !errors.Is(err, test.want) {
				t.Errorf("got %v, %v", signs, err)
			}
			f.storage.Heal()
			if known, stored := f.pinnedUntil("k"), f.storedPin("k"); known.After(stored) {
				t.Errorf("pinned until %s by memory, until %s by the storage", known, stored)
			}
			f.pin("k", 24*time.Hour)
			f.wantPinned("repeated", "k", f.now.Add(24*time.Hour+reserveAhead))
			if until := f.knownUntil("k", signed); !until.Equal(f.now.Add(time.Hour + reserveAhead)) {
				t.Errorf("what it signed lives until %s", until)
			}
		})
	}
}

// Signing and pinning write one entry, and neither loses what the other wrote.
func TestPinAndSignTogether(t *testing.T) {
	f := newFixture(t)
	f.write("k", Settings{})
	var working sync.WaitGroup
	for i := range 8 {
		working.Go(func() {
			life := time.Duration(i+1) * time.Hour
			if _, err := f.PinLists(f.ctx, f.storage, "k", f.now.Add(life)); err != nil {
				t.Error(err)
			}
		})
		working.Go(func() {
			life := time.Duration(i+11) * time.Hour
			if _, err := f.ForSigning(f.ctx, f.storage, "k", fmt.Sprint("r", i), nil, f.now.Add(life)); err != nil {
				t.Error(err)
			}
		})
	}
	working.Wait()
	if until := f.storedPin("k"); until.Before(f.now.Add(8 * time.Hour)) {
		t.Errorf("pinned until %s", until)
	}
	if until := f.signedUntil("k"); until.Before(f.now.Add(18 * time.Hour)) {
		t.Errorf("signed until %s", until)
	}
}

// A build that knows of no pins must not write the entry, and one from before them
// reads as not pinned.
func TestHorizonFormat(t *testing.T) {
	f := newFixture(t)
	f.write("k", Settings{})
	v := f.sign("k", time.Hour)
	f.putRaw("signed/k", fmt.Sprintf(`{"format":1,"until":{%q:%q}}`, v.ID, f.now.Add(2*time.Hour).Format(time.RFC3339)))
	f.restart()
	if !f.storedPin("k").IsZero() || !f.signedUntil("k").Equal(f.now.Add(2*time.Hour)) {
		t.Errorf("pinned until %s, signed until %s", f.storedPin("k"), f.signedUntil("k"))
	}
	f.pin("k", time.Hour)
	older := store.Entries[struct{}]{Prefix: horizonPrefix, Format: 1}
	if _, err := older.Read(f.ctx, f.storage, "k"); !errors.Is(err, store.ErrNewer) {
		t.Errorf("a build from before pins reads it: %v", err)
	}
	if !f.signedUntil("k").Equal(f.now.Add(2 * time.Hour)) {
		t.Errorf("signed until %s", f.signedUntil("k"))
	}
}
