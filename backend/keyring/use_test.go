package keyring

import (
	"errors"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/vault-tokens/vault-plugin-secrets-tokens/backend/store/storetest"
)

func (f *fixture) assign(name, role string, mayMake bool) (*Assigned, error) {
	return f.Assign(f.ctx, f.storage, name, role, mayMake, func(*Key) error { return nil })
}

func (f *fixture) uses(name string) []string {
	f.t.Helper()
	roles, err := f.Uses(f.ctx, f.storage, name)
	if err != nil {
		f.t.Fatal(err)
	}
	return roles
}

func TestAssign(t *testing.T) {
	f := newFixture(t)
	_, err := f.assign("default", "a", false)
	wantMistake(t, "a key that does not exist", err, "key")
	if done, err := f.assign("default", "a", true); err != nil || !done.Made || !done.Only || done.Key.Name != "default" {
		t.Errorf("got %+v, %v", done, err)
	}
	if done, err := f.assign("default", "b", true); err != nil || done.Made || done.Only {
		t.Errorf("got %+v, %v", done, err)
	}
	if done, err := f.assign("second", "b", true); err != nil || !done.Made || done.Only {
		t.Errorf("got %+v, %v", done, err)
	}
	f.write("team", Settings{AllowedRoles: &[]string{"team-*"}})
	_, err = f.assign("team", "a", true)
	wantMistake(t, "a key that does not allow the role", err, "key")
	if got := f.uses("default"); !slices.Equal(got, []string{"a", "b"}) || len(f.uses("team")) != 0 {
		t.Errorf("roles that refer to it are %v", got)
	}
	if _, writes := f.storage.Count(func() { f.assign("default", "a", true) }); writes != 0 {
		t.Errorf("%d writes of a reference that is there", writes)
	}
	if keys, err := f.UsedKeys(f.ctx, f.storage); err != nil || !slices.Equal(keys, []string{"default", "second"}) {
		t.Errorf("used are %v, %v", keys, err)
	}
	if err := f.Release(f.ctx, f.storage, "default", "a"); err != nil || !slices.Equal(f.uses("default"), []string{"b"}) {
		t.Errorf("released, %v; %v still refer to it", err, f.uses("default"))
	}
	f.putRaw("key/default", "{")
	f.restart()
	_, err = f.assign("default", "c", true)
	wantMistake(t, "a key that cannot be read", err, "key")
}

func TestEnsure(t *testing.T) {
	f := newFixture(t)
	if done, err := f.Ensure(f.ctx, f.storage, "default"); err != nil || !done.Made || !done.Only || done.Key.Name != "default" {
		t.Errorf("got %+v, %v", done, err)
	}
	before := f.raw("key/default")
	if done, err := f.Ensure(f.ctx, f.storage, "default"); err != nil || done.Made || done.Key == nil || f.raw("key/default") != before {
		t.Errorf("got %+v, %v", done, err)
	}
	if done, err := f.Ensure(f.ctx, f.storage, "second"); err != nil || !done.Made || done.Only {
		t.Errorf("got %+v, %v", done, err)
	}
	if len(f.uses("default")) != 0 {
		t.Errorf("%v refer to it", f.uses("default"))
	}
	f.putRaw("key/default", "{")
	f.restart()
	_, err := f.Ensure(f.ctx, f.storage, "default")
	wantMistake(t, "a key that cannot be read", err, "key")
	var together sync.WaitGroup
	for range 4 {
		together.Go(func() {
			if _, err := f.Ensure(f.ctx, f.storage, "third"); err != nil {
				t.Error(err)
			}
		})
	}
	together.Wait()
	if states := f.states("third"); states != "1 signing, 2 next" {
		t.Errorf("made by many at once, it has versions %s", states)
	}
}

// The reference is there before the role, whatever becomes of the role's write.
func TestReferenceComesFirst(t *testing.T) {
	f := newFixture(t)
	f.write("k", Settings{})
	failed := errors.New("on purpose")
	_, err := f.Assign(f.ctx, f.storage, "k", "a", false, func(*Key) error {
		if !slices.Equal(f.uses("k"), []string{"a"}) {
			t.Error("the role is stored before its reference")
		}
		return failed
	})
	if !errors.Is(err, failed) {
		t.Errorf("got %v", err)
	}
	f.storage.Before(storetest.Fail("keyuse/", storetest.Put))
	if _, err := f.Assign(f.ctx, f.storage, "k", "b", false, func(*Key) error {
		t.Error("stored without a reference")
		return nil
	}); !errors.Is(err, storetest.ErrInjected) {
		t.Errorf("got %v", err)
	}
}

// A key is not deleted while a role is being stored that names it, and not given
// to a role while it is being deleted.
func TestDeletionAndAssignmentTakeTurns(t *testing.T) {
	f := newFixture(t)
	f.write("k", Settings{})
	storing, stored, asking := make(chan struct{}), make(chan struct{}), make(chan struct{})
	var assigning, deleting sync.WaitGroup
	assigning.Go(func() {
		if _, err := f.Assign(f.ctx, f.storage, "k", "a", false, func(*Key) error { close(storing); <-stored; return nil }); err != nil {
			t.Error(err)
		}
	})
	<-storing
	inUse := errors.New("in use")
	deleting.Go(func() {
		_, err := f.Delete(f.ctx, f.storage, "k", func(roles []string) error {
			close(asking)
			select {
			case <-stored:
			default:
				t.Error("deleting while a role is being stored")
			}
			if slices.Equal(roles, []string{"a"}) {
				return inUse
			}
			return nil
		})
		if !errors.Is(err, inUse) {
			t.Errorf("deleted: %v", err)
		}
	})
	select {
	case <-asking: // before the role is stored, if nothing holds it back
	case <-time.After(100 * time.Millisecond):
	}
	close(stored)
	assigning.Wait()
	deleting.Wait()
	asked := false
	if deleted, err := f.Delete(f.ctx, f.storage, "k", func(roles []string) error {
		asked = true
		assigning.Go(func() {
			_, err := f.assign("k", "b", false)
			wantMistake(t, "assign what is being deleted", err, "key")
		})
		return nil // the role does not name it any more
	}); !deleted || err != nil || !asked {
		t.Errorf("deleted %v, %v", deleted, err)
	}
	assigning.Wait()
	if left := f.uses("k"); len(left) != 0 {
		t.Errorf("%v still refer to it", left)
	}
}
