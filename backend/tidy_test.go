package backend

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/hashicorp/vault/sdk/logical"

	"github.com/vault-tokens/vault-plugin-secrets-tokens/backend/keyring"
	"github.com/vault-tokens/vault-plugin-secrets-tokens/backend/role"
	"github.com/vault-tokens/vault-plugin-secrets-tokens/backend/store/storetest"
)

// withWork is a mount where each part of Tidy has something to do: a key to
// rotate, a list and a record to remove.
func withWork(t *testing.T) *fixture {
	t.Helper()
	f := newFixture(t)
	period := 24 * time.Hour
	if _, _, err := f.Keys.Write(f.ctx, f.storage, role.DefaultKey, keyring.Settings{RotationPeriod: &period}); err != nil {
		t.Fatal(err)
	}
	f.mustRole("jwt", role.JWT, unchanged)
	f.mustRole("bearer", role.Bearer, unchanged)
	f.issue("jwt")
	f.issue("bearer")
	f.now = f.now.Add(25*time.Hour + safetyMargin)
	return f
}

// tidied is what a run of Tidy did.
type tidied struct{ expired, lists, rotations int }

func (f *fixture) tidy(ctx context.Context) (done tidied, failed error) {
	result, err := f.Tidy(ctx, f.storage)
	done = tidied{expired: len(result.Tokens.Expired), lists: result.Lists.Lists}
	for _, rotation := range result.Rotations {
		if rotation.Rotated { // else old versions were dropped
			done.rotations++
		}
	}
	return done, err
}

func TestTidy(t *testing.T) {
	f := withWork(t)
	if done, err := f.tidy(f.ctx); done != (tidied{1, 2, 1}) || err != nil {
		t.Errorf("did %+v, %v", done, err)
	}
	for _, prefix := range []string{"token/", "cap/", "list/", "revoked/"} {
		if left, err := logical.CollectKeysWithPrefix(f.ctx, f.storage, prefix); err != nil || len(left) != 0 {
			t.Errorf("left are %v, %v", left, err)
		}
	}
	if done, err := f.tidy(f.ctx); done != (tidied{}) || err != nil {
		t.Errorf("then did %+v, %v", done, err)
	}
	f.now = f.now.Add(30 * time.Minute)
	if _, writes := f.storage.Count(func() { f.tidy(f.ctx) }); writes != 0 {
		t.Errorf("%d writes with nothing to do", writes)
	}
}

// What fails in one part does not keep the others from being done, and is done
// later.
func TestTidyOnFaults(t *testing.T) {
	for name, test := range map[string]struct {
		inject func(*storetest.Storage)
		done   tidied
	}{
		"key cannot be written":  {func(s *storetest.Storage) { s.Before(storetest.Fail("key/", storetest.Put)) }, tidied{1, 2, 0}},
		"config cannot be read":  {func(s *storetest.Storage) { s.Before(storetest.Fail("config/", storetest.Get)) }, tidied{1, 2, 0}},
		"keys cannot be read":    {func(s *storetest.Storage) { s.Before(storetest.Fail("key/", storetest.List)) }, tidied{1, 2, 0}},
		"list cannot be removed": {func(s *storetest.Storage) { s.Before(storetest.Fail("list/", storetest.Delete)) }, tidied{1, 0, 1}},
		"lists cannot be read":   {func(s *storetest.Storage) { s.Before(storetest.Fail("list/", storetest.List)) }, tidied{1, 0, 1}},
		// Its end is reported whether or not it is confirmed, since it may have gone.
		"record cannot be removed": {func(s *storetest.Storage) { s.Before(storetest.Fail("token/", storetest.Delete)) }, tidied{1, 2, 1}},
		"record cannot be read":    {func(s *storetest.Storage) { s.Before(storetest.Fail("token/", storetest.Get)) }, tidied{0, 2, 1}},
		"nothing can be written":   {func(s *storetest.Storage) { s.Before(storetest.Fail("", storetest.Put, storetest.Delete)) }, tidied{1, 0, 0}},
	} {
		t.Run(name, func(t *testing.T) {
			f := withWork(t)
			f.restart()
			test.inject(f.storage)
			if done, err := f.tidy(f.ctx); done != test.done || !errors.Is(err, storetest.ErrInjected) {
				t.Errorf("did %+v, %v; want %+v", done, err, test.done)
			}
			f.storage.Heal()
			f.now = f.now.Add(13 * time.Hour) // when the next pass over all tokens begins
			left, err := logical.CollectKeysWithPrefix(f.ctx, f.storage, "token/")
			if err != nil {
				t.Fatal(err)
			}
			rest := tidied{len(left), 2 - test.done.lists, 1 - test.done.rotations}
			if done, err := f.tidy(f.ctx); done != rest || err != nil {
				t.Errorf("then did %+v, %v; want %+v", done, err, rest)
			}
			if left, err := logical.CollectKeysWithPrefix(f.ctx, f.storage, "token/"); err != nil || len(left) != 0 {
				t.Errorf("left are %v, %v", left, err)
			}
		})
	}
	t.Run("caller gone", func(t *testing.T) {
		f := withWork(t)
		ctx, cancel := context.WithCancel(f.ctx)
		cancel()
		if done, err := f.tidy(ctx); done != (tidied{}) || !errors.Is(err, context.Canceled) {
			t.Errorf("did %+v, %v", done, err)
		}
		if done, err := f.tidy(f.ctx); done != (tidied{1, 2, 1}) || err != nil {
			t.Errorf("then did %+v, %v", done, err)
		}
	})
}
