package keyring

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/vault-tokens/vault-plugin-secrets-tokens/backend/store/storetest"
)

// A version is next, signs, retires, and is dropped; each with one write.
func TestLifeOfAVersion(t *testing.T) {
	f := newFixture(t)
	f.write("k", Settings{})
	if got := f.states("k"); got != "1 signing, 2 next" {
		t.Fatalf("a new key has %s", got)
	}
	first, next := f.sign("k", time.Hour), f.get("k").Versions[1]

	f.now = f.now.Add(30 * time.Minute)
	var rotation *Rotation
	if _, writes := f.storage.Count(func() { rotation = f.rotate("k", time.Minute) }); writes != 1 {
		t.Errorf("a rotation took %d writes", writes)
	}
	if got := f.states("k"); got != "1 retired, 2 signing, 3 next" {
		t.Errorf("after a rotation: %s", got)
	}
	if !rotation.Rotated || rotation.Retired.ID != first.ID || rotation.Signing.ID != next.ID || rotation.Next.Number != 3 || len(rotation.Dropped) != 0 || rotation.Published != 30*time.Minute {
		t.Errorf("the rotation tells %+v", rotation)
	}
	if v := f.sign("k", time.Hour); v.ID != next.ID {
		t.Errorf("%s signs, want %s", v, next)
	}
	if !f.published(first.ID) || !f.published(next.ID) || !f.published(rotation.Next.ID) {
		t.Error("a version is not published")
	}

	// The token of an hour is the last, with what was reserved for others.
	f.now = f.now.Add(30*time.Minute + reserveAhead - time.Second)
	if done := f.rotateDue(); len(done) != 0 || !f.published(first.ID) {
		t.Errorf("dropped early: %+v", done)
	}
	f.now = f.now.Add(time.Second)
	if f.published(first.ID) {
		t.Error("published after its NotAfter, until somebody tidies")
	}
	done := f.rotateDue()
	if len(done) != 1 || done[0].Rotated || done[0].Retired != nil || len(done[0].Dropped) != 1 || done[0].Dropped[0].ID != first.ID {
		t.Errorf("dropped %+v", done)
	}
	if got := f.states("k"); got != "2 signing, 3 next" {
		t.Errorf("then there are %s", got)
	}
	if _, writes := f.storage.Count(func() { f.rotateDue() }); writes != 0 {
		t.Errorf("%d writes with nothing due", writes)
	}
}

// NotAfter is fixed at retirement: by what was signed, or by how long status
// lists live if that is longer. Nothing that comes later moves it.
func TestNotAfterIsFixed(t *testing.T) {
	for name, test := range map[string]struct {
		life, minPublished, want time.Duration
	}{
		"by a token":               {48 * time.Hour, time.Hour, 48*time.Hour + reserveAhead},
		"by a status list":         {time.Minute, time.Hour, time.Hour},
		"nothing signed":           {0, time.Hour, time.Hour},
		"nothing signed, no lists": {0, 0, 0},
	} {
		t.Run(name, func(t *testing.T) {
			f := newFixture(t)
			f.write("k", Settings{})
			if test.life > 0 {
				f.sign("k", test.life)
			}
			want := f.now.Add(test.want)
			retired := f.rotate("k", test.minPublished).Retired
			if !retired.NotAfter.Equal(want) {
				t.Fatalf("not after %s, want %s", retired.NotAfter, want)
			}
			f.sign("k", 100*time.Hour)
			f.rotate("k", 1000*time.Hour)
			f.restart()
			if got := f.get("k").Versions[0]; got.ID != retired.ID || !got.NotAfter.Equal(want) {
				t.Errorf("later %s is not after %s, want %s", got, got.NotAfter, want)
			}
		})
	}
}

func TestRotateDue(t *testing.T) {
	f := newFixture(t)
	hour, day := time.Hour, 24*time.Hour
	f.write("hourly", Settings{RotationPeriod: &hour})
	f.write("daily", Settings{RotationPeriod: &day})
	f.write("never", Settings{})
	if at := f.get("hourly").NextRotation(); !at.Equal(f.now.Add(hour)) {
		t.Errorf("next rotation at %s", at)
	}
	if at := f.get("never").NextRotation(); !at.IsZero() {
		t.Errorf("a key that is rotated on demand is rotated at %s", at)
	}
	f.now = f.now.Add(hour - time.Second)
	if done := f.rotateDue(); len(done) != 0 {
		t.Errorf("rotated early: %+v", done)
	}
	f.now = f.now.Add(time.Second)
	if done := f.rotateDue(); len(done) != 1 || !done[0].Rotated || done[0].Key.Name != "hourly" {
		t.Errorf("rotated %+v", done)
	}
	if done := f.rotateDue(); len(done) != 0 {
		t.Errorf("rotated twice: %+v", done)
	}
	f.now = f.now.Add(100 * hour) // a node that slept rotates once, and not once for each hour
	if done := f.rotateDue(); len(done) != 2 || f.states("hourly") != "3 signing, 4 next" && f.states("hourly") != "2 retired, 3 signing, 4 next" {
		t.Errorf("after a long time: %+v, %s", done, f.states("hourly"))
	}
}

// One key that cannot be written does not keep the others from their rotation.
func TestRotateDueGoesOn(t *testing.T) {
	f := newFixture(t)
	hour := time.Hour
	for _, name := range []string{"a", "b", "c"} {
		f.write(name, Settings{RotationPeriod: &hour})
	}
	f.now = f.now.Add(hour)
	f.storage.Before(storetest.Fail(StoragePrefix+"b", storetest.Put))
	done, err := f.RotateDue(f.ctx, f.storage, f.now.Add(time.Minute))
	if !errors.Is(err, storetest.ErrInjected) || len(done) != 2 {
		t.Errorf("rotated %d, %v", len(done), err)
	}
	f.storage.Heal()
	if done := f.rotateDue(); len(done) != 1 || done[0].Key.Name != "b" {
		t.Errorf("then rotated %+v", done)
	}
}

func TestEmergencyRotate(t *testing.T) {
	f := newFixture(t)
	f.write("k", Settings{})
	f.sign("k", time.Hour)
	f.rotate("k", time.Hour)
	old := f.get("k").Versions
	rotation, err := f.EmergencyRotate(f.ctx, f.storage, "k")
	if err != nil || !rotation.Rotated || rotation.Retired != nil || len(rotation.Dropped) != len(old) {
		t.Fatalf("got %+v, %v", rotation, err)
	}
	if got := f.states("k"); got != "4 signing, 5 next" {
		t.Errorf("then there are %s", got)
	}
	for _, v := range old {
		if f.published(v.ID) {
			t.Errorf("%s is still published", v)
		}
	}
	if until := f.signedUntil("k"); !until.IsZero() {
		t.Errorf("the new versions have signed until %s", until)
	}
}

func TestRotateRefuses(t *testing.T) {
	f := newFixture(t)
	_, err := f.Rotate(f.ctx, f.storage, "never", true, f.now)
	wantMistake(t, "rotate", err, "name")
	_, err = f.EmergencyRotate(f.ctx, f.storage, "never")
	wantMistake(t, "rotate in an emergency", err, "name")
	f.write("k", Settings{})
	for range maxVersions - 2 {
		f.rotate("k", time.Hour)
	}
	_, err = f.Rotate(f.ctx, f.storage, "k", true, f.now.Add(time.Hour))
	wantMistake(t, "one version too many", err, "name")
	if _, err := f.EmergencyRotate(f.ctx, f.storage, "k"); err != nil {
		t.Errorf("an emergency is refused: %v", err)
	}
}

// Signing writes how far ahead tokens live once per step, not per token, and
// before any token has that life.
func TestHorizon(t *testing.T) {
	f := newFixture(t)
	f.write("k", Settings{})
	f.get("k") // into memory
	for _, step := range []struct {
		after, life   time.Duration
		reads, writes int64
	}{
		{0, time.Hour, 1, 1},
		{0, time.Hour, 0, 0},
		{time.Minute, time.Hour, 0, 0},
		{9 * time.Minute, time.Hour, 0, 0}, // the last second that the first step covers
		{time.Second, time.Hour, 1, 1},
		{0, time.Minute, 0, 0},
		{0, 30 * time.Hour, 1, 1},
	} {
		f.now = f.now.Add(step.after)
		reads, writes := f.storage.Count(func() { f.sign("k", step.life) })
		if reads != step.reads || writes != step.writes {
			t.Errorf("%s after the step before, for %s: %d reads and %d writes, want %d and %d", step.after, step.life, reads, writes, step.reads, step.writes)
		}
		if until := f.signedUntil("k"); until.Before(f.now.Add(step.life)) {
			t.Errorf("the storage has %s for a token that lives until %s", until, f.now.Add(step.life))
		}
	}
}

// Whatever becomes of a write, memory goes by the storage; and what failed
// before its write changed nothing.
func TestFaults(t *testing.T) {
	hour, day := time.Hour, 24*time.Hour
	operations := map[string]func(f *fixture, ctx context.Context) error{
		"create": func(f *fixture, ctx context.Context) error {
			_, _, err := f.Write(ctx, f.storage, "new", Settings{})
			return err
		},
		"change": func(f *fixture, ctx context.Context) error {
			_, _, err := f.Write(ctx, f.storage, "k", Settings{AllowedRoles: &[]string{"a"}})
			return err
		},
		"rotate": func(f *fixture, ctx context.Context) error {
			_, err := f.Rotate(ctx, f.storage, "k", true, f.now.Add(hour))
			return err
		},
		"emergency": func(f *fixture, ctx context.Context) error {
			_, err := f.EmergencyRotate(ctx, f.storage, "k")
			return err
		},
		"rotate due": func(f *fixture, ctx context.Context) error {
			f.now = f.now.Add(25 * hour)
			_, err := f.RotateDue(ctx, f.storage, f.now.Add(hour))
			return err
		},
		"horizon": func(f *fixture, ctx context.Context) error {
			_, err := f.ForSigning(ctx, f.storage, "k", "role", nil, f.now.Add(hour))
			return err
		},
		"pin": func(f *fixture, ctx context.Context) error {
			_, err := f.PinLists(ctx, f.storage, "k", f.now.Add(hour))
			return err
		},
		"delete": func(f *fixture, ctx context.Context) error {
			_, err := f.remove(ctx, "k")
			return err
		},
	}
	writes := storetest.Fail("", storetest.Put, storetest.Delete)
	for name, operate := range operations {
		for fault, test := range map[string]struct {
			inject  func(*storetest.Storage)
			cancel  bool
			changed bool
		}{
			"write refused": {func(s *storetest.Storage) { s.Before(writes) }, false, false},
			"reply lost":    {func(s *storetest.Storage) { s.After(writes) }, false, true},
			"read refused":  {func(s *storetest.Storage) { s.Before(storetest.Fail("", storetest.Get, storetest.List)) }, false, false},
			"caller gone":   {func(*storetest.Storage) {}, true, false},
		} {
			t.Run(name+"/"+fault, func(t *testing.T) {
				f := newFixture(t)
				f.write("k", Settings{RotationPeriod: &day})
				f.write("other", Settings{})
				before := f.content()
				ctx, cancel := context.WithCancel(f.ctx)
				defer cancel()
				if test.cancel {
					cancel()
				}
				test.inject(f.storage)
				if err := operate(f, ctx); err == nil {
					t.Error("no error")
				}
				f.storage.Heal()
				inMemory := f.content()
				f.restart()
				if stored := f.content(); inMemory != stored {
					t.Errorf("in memory is\n%s\nand stored\n%s", inMemory, stored)
				}
				if changed := inMemory != before; changed != test.changed {
					t.Errorf("changed: %v, want %v; now it is\n%s", changed, test.changed, inMemory)
				}
			})
		}
	}
}

// A rotation that is repeated, as Vault's client does after a 500, does not let a
// version sign that verifiers have not seen.
func TestRepeatedRotationIsRefused(t *testing.T) {
	f := newFixture(t)
	f.write("k", Settings{})
	rotate := func(force bool) error {
		_, err := f.Rotate(f.ctx, f.storage, "k", force, f.now.Add(time.Hour))
		return err
	}
	wantMistake(t, "at once", rotate(false), "force")
	f.now = f.now.Add(MinPublished - time.Second)
	wantMistake(t, "a second early", rotate(false), "force")
	f.now = f.now.Add(time.Second)
	f.storage.After(storetest.Fail("key/", storetest.Put)) // it takes effect, and says that it failed
	if err := rotate(false); !errors.Is(err, storetest.ErrInjected) {
		t.Errorf("got %v", err)
	}
	f.storage.Heal()
	wantMistake(t, "the same command again", rotate(false), "force")
	if got := f.states("k"); got != "1 retired, 2 signing, 3 next" {
		t.Errorf("there are %s", got)
	}
	if err := rotate(true); err != nil || f.states("k") != "1 retired, 2 retired, 3 signing, 4 next" {
		t.Errorf("forced: %v, %s", err, f.states("k"))
	}
	if _, err := f.EmergencyRotate(f.ctx, f.storage, "k"); err != nil {
		t.Errorf("an emergency has to wait: %v", err)
	}
}

// A period that is stored and shorter than what is allowed now does not let a
// version sign that was published for less.
func TestShortPeriodOfOld(t *testing.T) {
	f := newFixture(t)
	hour := time.Hour
	f.write("k", Settings{RotationPeriod: &hour})
	f.putRaw("key/k", strings.Replace(f.raw("key/k"), `"rotation_period":3600000000000`, `"rotation_period":600000000000`, 1))
	f.restart()
	if at := f.get("k").NextRotation(); !at.Equal(f.now.Add(MinPublished)) {
		t.Errorf("next rotation at %s", at)
	}
	f.now = f.now.Add(MinPublished - time.Second)
	if done := f.rotateDue(); len(done) != 0 {
		t.Errorf("rotated %+v", done)
	}
	f.now = f.now.Add(time.Second)
	if done := f.rotateDue(); len(done) != 1 || done[0].Published != MinPublished {
		t.Errorf("rotated %+v", done)
	}
}

// A rotation that would stop some day, since tokens outlive too many versions, is
// refused when the period is set.
func TestPeriodMustSuitTheTokens(t *testing.T) {
	period := func(d time.Duration) Settings { return Settings{RotationPeriod: &d} }
	write := func(f *fixture, settings Settings, longest time.Duration) error {
		settings.LongestLife = longest
		_, _, err := f.Write(f.ctx, f.storage, "k", settings)
		return err
	}
	f := newFixture(t)
	f.write("k", Settings{})
	wantMistake(t, "roles with tokens of 60 h", write(f, period(30*time.Minute), 60*time.Hour), "rotation_period")
	if err := write(f, period(ShortestPeriod(60*time.Hour)), 60*time.Hour); err != nil {
		t.Errorf("the shortest that suits: %v", err)
	}
	if err := write(f, Settings{AllowedRoles: &[]string{"a"}}, 6000*time.Hour); err != nil {
		t.Errorf("a write that does not change the period: %v", err)
	}
	if err := write(f, period(0), 6000*time.Hour); err != nil {
		t.Errorf("on demand only: %v", err)
	}
	f.write("k", Settings{AllowedRoles: &[]string{"*"}})
	f.sign("k", 60*time.Hour) // by a role that is gone, perhaps
	wantMistake(t, "tokens of 60 h that were signed", write(f, period(30*time.Minute), 0), "rotation_period")

	key := f.write("k", period(time.Hour))
	wantMistake(t, "a role with tokens of 200 h", key.CheckLife(200*time.Hour), "ttl")
	for _, life := range []time.Duration{0, time.Hour, 90 * time.Hour} {
		if err := key.CheckLife(life); err != nil {
			t.Errorf("a role with tokens of %s: %v", life, err)
		}
	}
	if err := f.write("k", period(0)).CheckLife(6000 * time.Hour); err != nil {
		t.Errorf("a key that is rotated on demand: %v", err)
	}
}

// The shortest period that is allowed does not stop, and is not much longer than
// what would.
func TestShortestPeriodKeepsUp(t *testing.T) {
	for _, life := range []time.Duration{15 * time.Minute, 60 * time.Hour, 400 * time.Hour} {
		f := newFixture(t)
		period := ShortestPeriod(life)
		f.write("k", Settings{RotationPeriod: &period, LongestLife: life})
		most := 0
		for range 250 {
			f.sign("k", life) // at the last moment
			f.now = f.now.Add(period)
			f.rotateDue()
			most = max(most, len(f.get("k").Versions))
		}
		if most >= maxVersions || life > 40*time.Hour && most < maxVersions-5 {
			t.Errorf("tokens of %s, rotated every %s, need %d versions at once", life, period, most)
		}
	}
}

// A clock that was ahead for a while does not stop rotation until it gets there
// again.
func TestClockThatWasAhead(t *testing.T) {
	for name, ahead := range map[string]func(*fixture){
		"rotated":   func(f *fixture) { f.rotateDue() },
		"emergency": func(f *fixture) { f.EmergencyRotate(f.ctx, f.storage, "k") },
		"created": func(f *fixture) {
			f.remove(f.ctx, "k")
			day := 24 * time.Hour
			f.write("k", Settings{RotationPeriod: &day})
		},
	} {
		t.Run(name, func(t *testing.T) {
			f := newFixture(t)
			day := 24 * time.Hour
			f.write("k", Settings{RotationPeriod: &day})
			right := f.now
			f.now = f.now.Add(5 * 365 * day)
			ahead(f)
			f.now = right.Add(time.Minute)
			f.rotateDue()
			if at := f.get("k").NextRotation(); at.After(f.now.Add(day)) {
				t.Errorf("next rotation at %s, and it is %s", at, f.now)
			}
			_, err := f.Rotate(f.ctx, f.storage, "k", false, f.now)
			wantMistake(t, "a version that was published when nobody knows", err, "force")
			rotations := 0
			for range 10 {
				f.now = f.now.Add(day)
				for _, done := range f.rotateDue() {
					if done.Rotated {
						rotations++
					}
				}
			}
			if rotations != 10 {
				t.Errorf("%d rotations in 10 days", rotations)
			}
		})
	}
}

// A rotation that cannot be done is an error, reported once, and shown until it has
// been done.
func TestFailedRotationIsReported(t *testing.T) {
	f := newFixture(t)
	hour := time.Hour
	f.write("full", Settings{RotationPeriod: &hour})
	f.write("fine", Settings{RotationPeriod: &hour})
	for range maxVersions - 2 {
		f.rotate("full", 100*time.Hour)
	}
	reports := f.reports()
	for range 3 {
		f.now = f.now.Add(hour)
		done, err := f.RotateDue(f.ctx, f.storage, f.now.Add(hour))
		if err == nil || !strings.Contains(err.Error(), "full") || len(done) != 1 || done[0].Key.Name != "fine" {
			t.Errorf("did %+v, %v", done, err)
		}
	}
	if len(*reports) != 1 || !strings.Contains(f.Problem("full"), "rotate-emergency") || f.Problem("fine") != "" {
		t.Errorf("reported %q; shown %q", *reports, f.Problem("full"))
	}
	f.now = f.now.Add(100 * time.Hour)
	f.rotateDue()
	if f.Problem("full") != "" {
		t.Errorf("still shown: %q", f.Problem("full"))
	}
	// A storage that is down makes a few lines.
	for i := range 30 {
		f.write(fmt.Sprint("k", i), Settings{RotationPeriod: &hour})
	}
	f.now = f.now.Add(hour)
	f.storage.Before(storetest.Fail("", storetest.Put))
	if _, err := f.RotateDue(f.ctx, f.storage, f.now); err == nil || strings.Count(err.Error(), "\n") > maxFailures {
		t.Errorf("got %v", err)
	}
}

// The unauthenticated key set stays small, whatever keys there are.
func TestKeySetIsBounded(t *testing.T) {
	f := newFixture(t)
	largest, err := generate(algorithms[len(algorithms)-1])
	if err != nil {
		t.Fatal(err)
	}
	if size := len(largest.jwk) * maxPublished; size > 3<<20 {
		t.Errorf("the largest key set has %d bytes", size)
	}
	eddsa := "EdDSA"
	f.write("k", Settings{Algorithm: &eddsa})
	f.write("e", Settings{Algorithm: &eddsa})
	for range maxVersions - 3 {
		f.rotate("e", 100*time.Hour)
	}
	entry := f.raw("key/e")
	for i := range (maxPublished - 2 - 98) / 99 {
		f.putRaw(fmt.Sprint("key/e", i), entry)
	}
	f.restart()
	f.keySet()
	for f.versions() < maxPublished {
		f.rotate("k", 100*time.Hour)
	}
	_, _, err = f.Write(f.ctx, f.storage, "more", Settings{})
	wantMistake(t, "another key", err, "name")
	_, err = f.Rotate(f.ctx, f.storage, "k", true, f.now)
	wantMistake(t, "another version", err, "name")
	if _, err := f.EmergencyRotate(f.ctx, f.storage, "e"); err != nil {
		t.Errorf("an emergency: %v", err)
	}
	f.rotate("k", time.Hour)
}
