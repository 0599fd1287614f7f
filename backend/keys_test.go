package backend

import (
	"context"
	"testing"
	"time"

	"github.com/vault-tokens/vault-plugin-secrets-tokens/backend/config"
	"github.com/vault-tokens/vault-plugin-secrets-tokens/backend/keyring"
	"github.com/vault-tokens/vault-plugin-secrets-tokens/backend/role"
	"github.com/vault-tokens/vault-plugin-secrets-tokens/backend/store/storetest"
)

// A retired version stays for the lists that it signed, as they are configured
// when it retires.
func TestRotateKey(t *testing.T) {
	f := newFixture(t)
	if _, _, err := f.Keys.Write(f.ctx, f.storage, "k", keyring.Settings{}); err != nil {
		t.Fatal(err)
	}
	if _, _, err := f.Config.Change(f.ctx, f.storage, func(c *config.Config) { c.StatusListLifetime = 7 * time.Hour }); err != nil {
		t.Fatal(err)
	}
	rotation, err := f.RotateKey(f.ctx, f.storage, "k", true)
	if err != nil || !rotation.Retired.NotAfter.Equal(f.now.Add(7*time.Hour)) {
		t.Errorf("rotated %+v, %v", rotation, err)
	}
	if rotation, err = f.Keys.EmergencyRotate(f.ctx, f.storage, "k"); err != nil || rotation.Retired != nil || len(rotation.Dropped) != 3 {
		t.Errorf("rotated in an emergency %+v, %v", rotation, err)
	}
	_, err = f.RotateKey(f.ctx, f.storage, "never", true)
	wantMistake(t, "rotate what never was", err, "name")
	_, err = f.Keys.EmergencyRotate(f.ctx, f.storage, "never")
	wantMistake(t, "rotate what never was in an emergency", err, "name")
	// A leaked key can be dropped even if the configuration cannot be read.
	f.restart()
	f.storage.Before(storetest.Fail("config/", storetest.Get))
	if _, err := f.RotateKey(f.ctx, f.storage, "k", true); err == nil {
		t.Error("rotated without knowing how long lists live")
	}
	if _, err := f.Keys.EmergencyRotate(f.ctx, f.storage, "k"); err != nil {
		t.Errorf("an emergency rotation needs the configuration: %v", err)
	}
}

func TestDeleteKey(t *testing.T) {
	f := newFixture(t)
	if deleted, err := f.DeleteKey(f.ctx, f.storage, "never"); deleted || err != nil {
		t.Errorf("deleted what never was: %v, %v", deleted, err)
	}
	f.mustRole("jwt", role.JWT, unchanged)
	f.mustRole("bearer", role.Bearer, unchanged)
	_, err := f.DeleteKey(f.ctx, f.storage, role.DefaultKey)
	wantMistake(t, "with a role that names it", err, "name")
	f.issue("jwt")
	if _, err := f.DeleteRole(f.ctx, f.storage, "jwt"); err != nil {
		t.Fatal(err)
	}
	_, err = f.DeleteKey(f.ctx, f.storage, role.DefaultKey)
	wantMistake(t, "with a token that lives", err, "name")
	f.now = f.now.Add(24 * time.Hour)
	if deleted, err := f.DeleteKey(f.ctx, f.storage, role.DefaultKey); !deleted || err != nil {
		t.Errorf("deleted %v, %v", deleted, err)
	}
}

// A key goes only when it is known that nothing needs it.
func TestDeleteKeyOnFaults(t *testing.T) {
	for name, test := range map[string]struct {
		inject func(*storetest.Storage)
		cancel bool
		kept   bool
	}{
		"roles not listed": {func(s *storetest.Storage) { s.Before(storetest.Fail("role/", storetest.List)) }, false, true},
		"role unread":      {func(s *storetest.Storage) { s.Before(storetest.Fail("role/", storetest.Get)) }, false, true},
		"key unread":       {func(s *storetest.Storage) { s.Before(storetest.Fail("key/", storetest.Get)) }, false, true},
		"delete refused":   {func(s *storetest.Storage) { s.Before(storetest.Fail("key/", storetest.Delete)) }, false, true},
		"its reply lost":   {func(s *storetest.Storage) { s.After(storetest.Fail("key/", storetest.Delete)) }, false, false},
		"caller gone":      {func(*storetest.Storage) {}, true, true},
	} {
		t.Run(name, func(t *testing.T) {
			f := newFixture(t)
			f.mustRole("bearer", role.Bearer, unchanged)
			if _, _, err := f.Keys.Write(f.ctx, f.storage, "k", keyring.Settings{}); err != nil {
				t.Fatal(err)
			}
			f.restart()
			test.inject(f.storage)
			ctx, cancel := context.WithCancel(f.ctx)
			defer cancel()
			if test.cancel {
				cancel()
			}
			if _, err := f.DeleteKey(ctx, f.storage, "k"); err == nil {
				t.Error("no error")
			}
			f.storage.Heal()
			if key, err := f.Keys.Get(f.ctx, f.storage, "k"); (key != nil) != test.kept || err != nil {
				t.Errorf("there is %v, %v", key, err)
			}
		})
	}
}
