package keyring

import (
	"context"
	"crypto"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"

	"github.com/vault-tokens/vault-plugin-secrets-tokens/backend/store/storetest"
)

// within fails the test if do does not return: it waits for what it must not.
func within(t *testing.T, what string, do func()) {
	t.Helper()
	done := make(chan struct{})
	go func() { defer close(done); do() }()
	select {
	case <-done:
	case <-time.After(20 * time.Second):
		t.Fatalf("%s waits", what)
	}
}

// One key's change is one key's affair, also on a node that follows.
func TestInvalidateReloadsOneKey(t *testing.T) {
	f := newFixture(t)
	for i := range 30 {
		f.write(fmt.Sprint("k", i), Settings{})
	}
	f.keySet()
	f.sign("k7", time.Hour)
	other := f.get("k3").Versions[0].ID
	for key, want := range map[string]int64{"key/k7": 1, "signed/k7": 0, "key/never": 1, "keyuse/k7/r": 0} {
		if !f.Invalidate(key) {
			t.Errorf("%s is not ours", key)
		}
		if reads, _ := f.storage.Count(func() { f.published(other) }); reads != 0 {
			t.Errorf("%s: %d reads to verify with another key", key, reads)
		}
		if reads, _ := f.storage.Count(func() { f.keySet(); f.keySet() }); reads != want {
			t.Errorf("%s: %d reads for the key set, want %d", key, reads, want)
		}
	}
	if f.Invalidate("list/a") {
		t.Error("claims what is not its own")
	}
	// A key that another node made or deleted.
	here := f.Keyring
	f.restart()
	f.write("new", Settings{})
	if _, err := f.remove(f.ctx, "k1"); err != nil {
		// It has signed nothing.
		t.Fatal(err)
	}
	want := string(f.keySet().JWKS)
	f.Keyring = here
	f.Invalidate("key/new")
	f.Invalidate("key/k1")
	if got := string(f.keySet().JWKS); got != want {
		t.Errorf("the key set is %s\nwant %s", got, want)
	}
}

// Changes in a row that are faster than a load do not keep anything else from
// being kept.
func TestSteadyChanges(t *testing.T) {
	f := newFixture(t)
	for i := range 30 {
		f.write(fmt.Sprint("k", i), Settings{})
	}
	f.restart()
	f.storage.After(func(op storetest.Op, key string) error {
		if op == storetest.Get || op == storetest.List {
			f.Invalidate("key/k7") // once more, while the load is under way
		}
		return nil
	})
	if reads, _ := f.storage.Count(func() { f.keySet() }); reads != 31 {
		t.Errorf("%d reads at first, want a list and 30 keys", reads)
	}
	for range 10 {
		if reads, _ := f.storage.Count(func() { f.keySet() }); reads != 1 {
			t.Errorf("%d reads, want that of the key that changes", reads)
		}
	}
	f.storage.Heal()
	f.keySet()
	if reads, _ := f.storage.Count(func() { f.keySet() }); reads != 0 {
		t.Errorf("%d reads when nothing changes any more", reads)
	}
}

// A key that changes during its load is not kept as it was before.
func TestLoadOvertakenByAChange(t *testing.T) {
	for name, load := range map[string]func(*fixture){
		"get":     func(f *fixture) { f.get("k") },
		"key set": func(f *fixture) { f.keySet() },
	} {
		t.Run(name, func(t *testing.T) {
			f := newFixture(t)
			f.write("k", Settings{})
			old := f.get("k").Versions[0].ID
			f.restart()
			var once sync.Once
			f.storage.After(func(op storetest.Op, key string) error {
				if op == storetest.Get && key == "key/k" {
					once.Do(func() {
						other := New(f.clock)
						if _, err := other.EmergencyRotate(f.ctx, &f.storage.InmemStorage, "k"); err != nil {
							t.Error(err)
						}
						f.Invalidate("key/k")
					})
				}
				return nil
			})
			load(f)
			if f.published(old) || strings.Contains(string(f.keySet().JWKS), old) || f.get("k").Versions[0].Number != 3 {
				t.Error("the versions that were dropped meanwhile stayed")
			}
		})
	}
}

// Who comes during a load waits for it, and reads nothing more; and what was read
// is kept although who asked has gone.
func TestLoadIsShared(t *testing.T) {
	f := newFixture(t)
	f.write("k", Settings{})
	f.restart()
	reached, release := make(chan struct{}), make(chan struct{})
	var once sync.Once
	f.storage.Before(func(op storetest.Op, key string) error {
		if key == "key/k" {
			once.Do(func() { close(reached); <-release })
		}
		return nil
	})
	ctx, cancel := context.WithCancel(f.ctx)
	reads := f.storage.Reads.Load()
	var first, others sync.WaitGroup
	first.Go(func() { f.Get(ctx, f.storage, "k") })
	<-reached
	for range 50 {
		others.Go(func() {
			if key, err := f.Get(f.ctx, f.storage, "k"); key == nil || err != nil {
				t.Errorf("got %v, %v", key, err)
			}
		})
	}
	gone, left := context.WithCancel(f.ctx)
	left()
	if _, err := f.Get(gone, f.storage, "k"); err == nil {
		t.Error("waits for a load although the caller has gone")
	}
	cancel()
	close(release)
	first.Wait()
	others.Wait()
	f.get("k")
	if n := f.storage.Reads.Load() - reads; n != 1 {
		t.Errorf("%d reads", n)
	}
}

// A key that the storage fails to give stops neither the others nor itself for
// longer than the failure.
func TestOneKeyCannotBeRead(t *testing.T) {
	f := newFixture(t)
	f.write("good", Settings{})
	f.write("bad", Settings{})
	good := f.sign("good", time.Hour)
	bad := f.sign("bad", time.Hour)
	f.restart()
	f.get("good")
	f.storage.Before(storetest.Fail("key/bad", storetest.Get))
	if !f.published(good.ID) {
		t.Error("the other key is not published")
	}
	if _, err := f.Published(f.ctx, f.storage, bad.ID); err == nil {
		t.Error("a version of a key that was not read passes for unpublished")
	}
	if _, err := f.KeySet(f.ctx, f.storage); err == nil {
		t.Error("published a key set with a hole")
	}
	f.storage.Heal()
	if !f.published(bad.ID) {
		t.Error("still not published")
	}
}

// A panic of the storage ends the request that met it, and nothing else.
func TestPanicWhileLoading(t *testing.T) {
	f := newFixture(t)
	f.write("k", Settings{})
	v := f.sign("k", time.Hour)
	for _, op := range []storetest.Op{storetest.Get, storetest.List} {
		f.restart()
		f.storage.Before(func(got storetest.Op, _ string) error {
			if got == op {
				panic("on purpose")
			}
			return nil
		})
		for range 2 {
			within(t, "who meets it", func() {
				defer func() { recover() }()
				f.KeySet(f.ctx, f.storage)
			})
		}
		f.storage.Heal()
		within(t, "who comes after", func() {
			if !f.published(v.ID) || len(f.keySet().JWKS) < 20 {
				t.Errorf("%s: the key is not published afterwards", op)
			}
			f.sign("k", 2*time.Hour)
		})
	}
}

// slowAlgorithm makes ES256 take until release is closed to make a key pair;
// reached tells when it has begun.
func slowAlgorithm(t *testing.T) (reached, release chan struct{}) {
	reached, release = make(chan struct{}), make(chan struct{})
	var once sync.Once
	old := algorithms
	t.Cleanup(func() { algorithms = old })
	algorithms = append([]algorithm{{"ES256", jwt.SigningMethodES256, func() (crypto.Signer, error) {
		once.Do(func() { close(reached) })
		<-release
		return old[0].generate()
	}}}, old[1:]...)
	return reached, release
}

// Key pairs take long to make. Nothing waits for that: not who signs, verifies or
// fetches the key set, not another change of the same key.
func TestMakingKeyPairsHoldsNothingUp(t *testing.T) {
	day := 24 * time.Hour
	for name, slow := range map[string]func(*fixture) error{
		"create":     func(f *fixture) error { _, _, err := f.Write(f.ctx, f.storage, "new", Settings{}); return err },
		"rotate":     func(f *fixture) error { _, err := f.Rotate(f.ctx, f.storage, "k", true, f.now); return err },
		"emergency":  func(f *fixture) error { _, err := f.EmergencyRotate(f.ctx, f.storage, "k"); return err },
		"rotate due": func(f *fixture) error { _, err := f.RotateDue(f.ctx, f.storage, f.now); return err },
		"assign": func(f *fixture) error {
			_, err := f.Assign(f.ctx, f.storage, "new", "role", true, func(*Key) error { return nil })
			return err
		},
	} {
		t.Run(name, func(t *testing.T) {
			f := newFixture(t)
			f.write("k", Settings{RotationPeriod: &day})
			eddsa := "EdDSA"
			f.write("other", Settings{Algorithm: &eddsa})
			f.now = f.now.Add(day)
			reached, release := slowAlgorithm(t)
			var changing sync.WaitGroup
			changing.Go(func() {
				if err := slow(f); err != nil {
					t.Error(err)
				}
			})
			<-reached
			within(t, "who signs", func() { f.sign("k", time.Hour) })
			within(t, "who verifies", func() { f.published("unknown"); f.published(f.get("k").Versions[0].ID) })
			within(t, "the key set", func() { f.Invalidate("key/k"); f.keySet() })
			within(t, "an emergency of another key", func() {
				if _, err := f.EmergencyRotate(f.ctx, f.storage, "other"); err != nil {
					t.Error(err)
				}
			})
			within(t, "another change of the key", func() { f.write("k", Settings{AllowedRoles: &[]string{"role"}}) })
			close(release)
			changing.Wait()
			if key := f.get("k"); !key.Allows("role") || key.Allows("other") {
				t.Error("the change that was made meanwhile is lost")
			}
		})
	}
}

// A slow write of one key holds up changes of that key, and nothing else.
func TestSlowWriteHoldsUpOneKey(t *testing.T) {
	f := newFixture(t)
	f.write("slow", Settings{})
	f.write("other", Settings{})
	signed := f.sign("slow", time.Hour)
	reached, release := make(chan struct{}), make(chan struct{})
	var once sync.Once
	f.storage.Before(func(op storetest.Op, key string) error {
		if op == storetest.Put && key == "key/slow" {
			once.Do(func() { close(reached); <-release })
		}
		return nil
	})
	var writing sync.WaitGroup
	writing.Go(func() { f.Write(f.ctx, f.storage, "slow", Settings{AllowedRoles: &[]string{"role"}}) })
	<-reached
	within(t, "who signs with the key", func() { f.sign("slow", 20*time.Hour) })
	within(t, "who verifies", func() { f.published(signed.ID); f.published("unknown") })
	within(t, "the key set", func() { f.keySet() })
	within(t, "the other key", func() { f.rotate("other", time.Hour); f.sign("other", time.Hour) })
	ctx, cancel := context.WithCancel(f.ctx)
	var waited atomic.Bool
	var waiting sync.WaitGroup
	waiting.Go(func() {
		_, err := f.EmergencyRotate(ctx, f.storage, "slow")
		waited.Store(err != nil)
	})
	cancel()
	within(t, "a caller who has gone", waiting.Wait)
	if !waited.Load() {
		t.Error("changed a key that was being written")
	}
	close(release)
	writing.Wait()
}

func TestLocks(t *testing.T) {
	l := newLocks()
	ctx, cancel := context.WithCancel(context.Background())
	unlock, err := l.lock(ctx, "a")
	if err != nil {
		t.Fatal(err)
	}
	other, err := l.lock(ctx, "b")
	if err != nil {
		t.Fatal(err)
	}
	other()
	cancel()
	if _, err := l.lock(ctx, "a"); err == nil {
		t.Error("locked twice")
	}
	if _, err := l.lock(ctx, "free"); err == nil {
		t.Error("locked for a caller who has gone")
	}
	unlock()
	if len(l.byName) != 0 {
		t.Errorf("%d locks are left", len(l.byName))
	}
}
