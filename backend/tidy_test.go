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
	f.now = f.now.Add(25 * time.Hour)
	return f
}

// tidied is what runs of Tidy over all tokens did.
type tidied struct{ expired, lists, rotations int }

func (f *fixture) tidy(ctx context.Context) (done tidied, failed error) {
	for range 3 {
		result, err := f.Tidy(ctx, f.storage)
		failed = errors.Join(failed, err)
		if result != nil {
			if result.Tokens != nil {
				done.expired += len(result.Tokens.Expired)
			}
			done.lists += result.Lists.Lists
			done.rotations += len(result.Rotations)
		}
	}
	return done, failed
}

func TestTidy(t *testing.T) {
	f := withWork(t)
	if done, err := f.tidy(f.ctx); done != (tidied{1, 1, 1}) || err != nil {
		t.Errorf("did %+v, %v", done, err)
	}
	for _, prefix := range []string{"token/", "list/", "revoked/"} {
		if left, err := logical.CollectKeysWithPrefix(f.ctx, f.storage, prefix); err != nil || len(left) != 0 {
			t.Errorf("left are %v, %v", left, err)
		}
	}
	if done, err := f.tidy(f.ctx); done != (tidied{}) || err != nil {
		t.Errorf("then did %+v, %v", done, err)
	}
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
		"key cannot be written":    {func(s *storetest.Storage) { s.Before(storetest.Fail("key/", storetest.Put)) }, tidied{1, 1, 0}},
		"keys cannot be read":      {func(s *storetest.Storage) { s.Before(storetest.Fail("key/", storetest.List)) }, tidied{1, 1, 0}},
		"list cannot be removed":   {func(s *storetest.Storage) { s.Before(storetest.Fail("list/", storetest.Delete)) }, tidied{1, 0, 1}},
		"lists cannot be read":     {func(s *storetest.Storage) { s.Before(storetest.Fail("list/", storetest.List)) }, tidied{1, 0, 1}},
		"record cannot be removed": {func(s *storetest.Storage) { s.Before(storetest.Fail("token/", storetest.Delete)) }, tidied{0, 1, 1}},
		"record cannot be read":    {func(s *storetest.Storage) { s.Before(storetest.Fail("token/", storetest.Get)) }, tidied{0, 1, 1}},
		"nothing can be written":   {func(s *storetest.Storage) { s.Before(storetest.Fail("", storetest.Put, storetest.Delete)) }, tidied{}},
	} {
		t.Run(name, func(t *testing.T) {
			f := withWork(t)
			f.restart()
			test.inject(f.storage)
			if done, err := f.tidy(f.ctx); done != test.done || !errors.Is(err, storetest.ErrInjected) {
				t.Errorf("did %+v, %v; want %+v", done, err, test.done)
			}
			f.storage.Heal()
			rest := tidied{1 - test.done.expired, 1 - test.done.lists, 1 - test.done.rotations}
			if done, err := f.tidy(f.ctx); done != rest || err != nil {
				t.Errorf("then did %+v, %v; want %+v", done, err, rest)
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
		if done, err := f.tidy(f.ctx); done != (tidied{1, 1, 1}) || err != nil {
			t.Errorf("then did %+v, %v", done, err)
		}
	})
}
