package backend

import (
	"context"
	"errors"
	"slices"
	"time"

	"github.com/hashicorp/vault/sdk/logical"

	"github.com/vault-tokens/vault-plugin-secrets-tokens/backend/config"
	"github.com/vault-tokens/vault-plugin-secrets-tokens/backend/keyring"
	"github.com/vault-tokens/vault-plugin-secrets-tokens/backend/role"
	"github.com/vault-tokens/vault-plugin-secrets-tokens/backend/store"
	"github.com/vault-tokens/vault-plugin-secrets-tokens/backend/usererror"
)

// WriteKey changes the settings of a signing key, or makes one; see
// keyring.Keyring.Write. A rotation period has to suit the roles that use the key.
func (e *Engine) WriteKey(ctx context.Context, storage logical.Storage, name string, settings keyring.Settings) (*keyring.Key, bool, error) {
	if settings.RotationPeriod != nil && *settings.RotationPeriod > 0 {
		var err error
		if settings.LongestLife, err = e.longestLife(ctx, storage, name); err != nil {
			return nil, false, err
		}
	}
	return e.Keys.Write(ctx, storage, name, settings)
}

// longestLife returns the longest life of a token of the roles that use a key, as
// far as is known.
func (e *Engine) longestLife(ctx context.Context, storage logical.Storage, key string) (time.Duration, error) {
	ceilings, err := e.Config.Get(ctx, storage)
	if err != nil {
		return 0, err
	}
	names, err := e.Keys.Uses(ctx, storage, key)
	if err != nil {
		return 0, err
	}
	var longest time.Duration
	for _, name := range names {
		r, err := e.Roles.Read(ctx, storage, name) // past the cache, which is for issuing
		if errors.Is(err, store.ErrUndecodable) || err == nil && (r == nil || r.Key != key) {
			continue
		}
		if err != nil {
			return 0, err
		}
		life, err := e.Tokens.Life(r, ceilings)
		if err != nil {
			return 0, err
		}
		longest = max(longest, life)
	}
	return longest, nil
}

// RotateKey rotates a signing key. A retired version stays published for the status
// lists that it signed. With force, the next version signs even if verifiers may not
// have it yet.
func (e *Engine) RotateKey(ctx context.Context, storage logical.Storage, name string, force bool) (*keyring.Rotation, error) {
	c, err := e.Config.Get(ctx, storage)
	if err != nil {
		return nil, err
	}
	return e.Keys.Rotate(ctx, storage, name, force, c.PublishedUntil(e.clock()))
}

// putWithKey stores a role that names a key, if the key exists and allows it. It
// makes the default key: here the caller may write roles, which nobody without a
// Vault token may. The role's lock is held.
func (e *Engine) putWithKey(ctx context.Context, storage logical.Storage, old *role.Role, done *RoleChange) error {
	r := done.Role
	rekeyed := old == nil || old.Key != r.Key
	outlived, err := e.outlives(old, done)
	if err != nil {
		return err
	}
	assigned, err := e.Keys.Assign(ctx, storage, r.Key, r.Name, r.Key == role.DefaultKey, func(key *keyring.Key) error {
		if err := key.CheckLife(outlived); err != nil {
			return err
		}
		if err := key.CheckAudiences("audiences", r.Audiences); err != nil {
			return err
		}
		return e.put(ctx, storage, done)
	})
	if assigned != nil && assigned.Made {
		done.NewKey = assigned.Key
	}
	if err != nil || !rekeyed {
		return err
	}
	done.Young = e.young(ctx, storage, assigned, r.Name)
	if old != nil {
		return e.Keys.Release(ctx, storage, old.Key, r.Name)
	}
	return nil
}

// young returns how long the version that signs has been published, if verifiers may
// have a key set without it, because it is younger than that may be.
func (e *Engine) young(ctx context.Context, storage logical.Storage, assigned *keyring.Assigned, role string) *time.Duration {
	signing, err := assigned.Key.Signing()
	if err != nil {
		return nil
	}
	age := max(0, e.clock().Sub(signing.CreatedAt))
	if age >= keyring.MaxCacheTime || assigned.Only || e.Keys.FirstUse(ctx, storage, assigned.Key, role) {
		return nil
	}
	return &age
}

// ListKey is what EnsureListKey found or did.
type ListKey struct {
	New     *keyring.Key // if it was made
	Unseen  bool         // and verifiers may have a key set without it
	Problem error        // why no key can sign the lists, if so
}

// EnsureListKey makes the key that signs the status lists of opaque tokens, if there
// is none, and the mount has the issuer without which no list is published. It is
// for writes of what needs a permission, not for those who read. A key that is there
// stays as it is, and one that cannot be used keeps nothing else from being written.
func (e *Engine) EnsureListKey(ctx context.Context, storage logical.Storage, c *config.Config) (*ListKey, error) {
	done := &ListKey{}
	if c.Issuer == "" {
		return done, nil
	}
	made, err := e.Keys.Ensure(ctx, storage, role.DefaultKey)
	if err == nil {
		if made.Made {
			done.New, done.Unseen = made.Key, !made.Only
		}
		_, err = made.Key.Signing()
	}
	var mistake *usererror.Error
	if errors.As(err, &mistake) {
		done.Problem, err = mistake, nil
	}
	return done, err
}

// outlives returns the life that a key must be able to bear from now on, 0 if it
// had to before: who narrows a role is not bothered with what was there.
func (e *Engine) outlives(old *role.Role, done *RoleChange) (time.Duration, error) {
	life, err := e.Tokens.Life(done.Role, done.Ceilings)
	if err != nil || old == nil || old.Key != done.Role.Key {
		return life, err
	}
	before, err := e.Tokens.Life(old, done.Ceilings)
	if life <= before {
		life = 0
	}
	return life, err
}

// DeleteRole removes a role and what refers to it, and reports whether there was
// one. If there is an error although it was deleted, its references may be left; these
// mean nothing, and Tidy removes them.
func (e *Engine) DeleteRole(ctx context.Context, storage logical.Storage, name string) (bool, error) {
	keys, err := e.keysOf(ctx, storage, name)
	if err != nil {
		return false, err
	}
	deleted, err := e.Roles.Remove(ctx, storage, name)
	if err != nil {
		return false, err
	}
	for _, key := range keys {
		if err := e.releaseUnused(ctx, storage, key, name); err != nil {
			return deleted, err
		}
	}
	return deleted, nil
}

// keysOf returns the keys that a role may refer to: all of them, if it cannot be
// decoded.
func (e *Engine) keysOf(ctx context.Context, storage logical.Storage, name string) ([]string, error) {
	r, err := e.Roles.Get(ctx, storage, name)
	switch {
	case errors.Is(err, store.ErrUndecodable):
		return e.Keys.UsedKeys(ctx, storage)
	case err != nil || r == nil || r.Key == "":
		return nil, err
	}
	return []string{r.Key}, nil
}

// releaseUnused removes a role's reference to a key, unless the role was written
// again meanwhile.
func (e *Engine) releaseUnused(ctx context.Context, storage logical.Storage, key, name string) error {
	defer e.Roles.Lock(name)()
	r, err := e.Roles.Get(ctx, storage, name)
	if err != nil || r != nil && r.Key == key {
		return err
	}
	return e.Keys.Release(ctx, storage, key, name)
}

// DeleteKey removes a signing key that no role names and no live token was
// signed with, and reports whether there was one. It reads the roles that refer to
// the key; all of them, as long as some may not refer to theirs.
func (e *Engine) DeleteKey(ctx context.Context, storage logical.Storage, name string) (bool, error) {
	return e.Keys.Delete(ctx, storage, name, func(roles []string) error {
		all, err := e.allRefer(ctx, storage)
		if err == nil && !all {
			roles, err = e.Roles.List(ctx, storage, "")
		}
		if err != nil {
			return err
		}
		return e.refuseIfUsed(ctx, storage, name, roles)
	})
}

// refuseIfUsed refuses to delete a key that one of the roles names.
func (e *Engine) refuseIfUsed(ctx context.Context, storage logical.Storage, key string, roles []string) error {
	for _, name := range roles {
		r, err := e.Roles.Read(ctx, storage, name) // past the cache, which is for issuing
		switch {
		case errors.Is(err, store.ErrUndecodable):
			return usererror.Field("name", "key %q may be used by role %q, which cannot be read; delete or restore that role first", key, name)
		case err != nil:
			return err
		case r != nil && r.Key == key:
			return usererror.Field("name", "key %q is used by role %q; delete the role or give it another key first", key, name)
		}
	}
	return nil
}

// referring is how far the roles have been gone over that were stored before roles
// referred to their keys.
type referring struct {
	After      string    `json:"after"` // the last role that was looked at
	FinishedAt time.Time `json:"finished_at,omitzero"`
}

const referencesName = "keyuse"

func (e *Engine) references() store.Entries[referring] {
	return store.Entries[referring]{Prefix: "tidy/", Format: 1}
}

// allRefer reports whether every role that names a key refers to it.
func (e *Engine) allRefer(ctx context.Context, storage logical.Storage) (bool, error) {
	if e.allReferred.Load() {
		return true, nil
	}
	done, err := e.readReferring(ctx, storage)
	return err == nil && !done.FinishedAt.IsZero(), err
}

func (e *Engine) readReferring(ctx context.Context, storage logical.Storage) (*referring, error) {
	done, err := e.references().Read(ctx, storage, referencesName)
	if errors.Is(err, store.ErrUndecodable) || err == nil && done == nil {
		return &referring{}, nil // start over
	}
	if err == nil && !done.FinishedAt.IsZero() {
		e.allReferred.Store(true)
	}
	return done, err
}

// tidyReferences goes over the roles once, until ctx ends, and writes what
// references are missing. A role that cannot be decoded is passed over: it counts as
// naming the key that it refers to, if any.
func (e *Engine) tidyReferences(ctx context.Context, storage logical.Storage) error {
	if e.allReferred.Load() {
		return nil
	}
	done, err := e.readReferring(ctx, storage)
	if err != nil || !done.FinishedAt.IsZero() {
		return err
	}
	names, err := e.Roles.List(ctx, storage, "")
	if err != nil {
		return err
	}
	slices.Sort(names)
	for _, name := range names {
		if name <= done.After {
			continue
		}
		if ctx.Err() != nil {
			return e.references().Put(ctx, storage, referencesName, done)
		}
		if err := e.refer(ctx, storage, name); err != nil {
			return errors.Join(err, e.references().Put(ctx, storage, referencesName, done))
		}
		done.After = name
	}
	done.FinishedAt = e.clock()
	if err := e.references().Put(ctx, storage, referencesName, done); err != nil {
		return err
	}
	e.allReferred.Store(true)
	return nil
}

func (e *Engine) refer(ctx context.Context, storage logical.Storage, name string) error {
	defer e.Roles.Lock(name)()
	r, err := e.Roles.Read(ctx, storage, name)
	if errors.Is(err, store.ErrUndecodable) {
		return nil
	}
	if err != nil || r == nil || r.Key == "" {
		return err
	}
	return e.Keys.Refer(ctx, storage, r.Key, name)
}
