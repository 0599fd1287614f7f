package keyring

import (
	"context"
	"errors"
	"time"

	"github.com/hashicorp/vault/sdk/logical"

	"github.com/vault-tokens/vault-plugin-secrets-tokens/backend/scope"
	"github.com/vault-tokens/vault-plugin-secrets-tokens/backend/store"
	"github.com/vault-tokens/vault-plugin-secrets-tokens/backend/usererror"
)

// Settings are what a write of a key may name; nil leaves what is.
type Settings struct {
	Algorithm        *string
	RotationPeriod   *time.Duration
	AllowedRoles     *[]string
	AllowedAudiences *[]string

	// LongestLife is the longest life of a token of the roles that use the key, as
	// far as is known. It bounds how often the key can be rotated.
	LongestLife time.Duration
}

func (s *Settings) validate() error {
	if s.Algorithm != nil {
		if _, err := parseAlgorithm(*s.Algorithm); err != nil {
			return err
		}
	}
	if p := s.RotationPeriod; p != nil && *p != 0 && *p < MinRotationPeriod {
		return usererror.Field("rotation_period", "must be 0 (rotate on demand only) or at least %s, so that verifiers can fetch a key before it signs", MinRotationPeriod)
	}
	if s.AllowedRoles != nil {
		if len(*s.AllowedRoles) > maxAllowedRoles {
			return usererror.Field("allowed_roles", "has %d entries; at most %d are allowed", len(*s.AllowedRoles), maxAllowedRoles)
		}
		for i, pattern := range *s.AllowedRoles {
			if !rolePattern.MatchString(pattern) {
				return usererror.Field("allowed_roles", "entry %d is not a role's name of at most 128 bytes; * in it matches any run of characters", i+1)
			}
		}
	}
	if s.AllowedAudiences != nil {
		return scope.ValidateAudiencePatterns("allowed_audiences", *s.AllowedAudiences)
	}
	return nil
}

// ShortestPeriod returns the shortest rotation period for tokens that live so
// long. With a shorter one, more versions would be needed at once than are kept,
// and rotation would stop.
func ShortestPeriod(life time.Duration) time.Duration {
	// A retired version stays for the life of its tokens and what is reserved
	// ahead; beside those are the signing one, the next one, and one to drop.
	const room = maxVersions - 1 - 3
	shortest := (life + reserveAhead) / room
	return max(MinRotationPeriod, (shortest + time.Second - 1).Truncate(time.Second))
}

// CheckLife reports whether the key's automatic rotation can keep up with tokens
// that live so long; if not, as a mistake in ttl.
func (k *Key) CheckLife(life time.Duration) error {
	if k.RotationPeriod == 0 || max(k.RotationPeriod, MinRotationPeriod) >= ShortestPeriod(life) {
		return nil
	}
	return usererror.Field("ttl", "tokens of %s outlive more than %d rotations of key %q, which is rotated every %s: rotation would stop. Give the role a shorter ttl or another key, or the key a rotation_period of at least %s", life, maxVersions-4, k.Name, k.RotationPeriod, ShortestPeriod(life))
}

// Write changes the settings of a key, or makes the key if there is none. It
// reports whether it made one. A key that cannot be decoded is replaced if the
// settings name what it cannot be asked for.
func (k *Keyring) Write(ctx context.Context, storage logical.Storage, name string, settings Settings) (*Key, bool, error) {
	if err := settings.validate(); err != nil {
		return nil, false, err
	}
	pairs, err := k.prepare(ctx, storage, name, settings.Algorithm)
	if err != nil {
		return nil, false, err
	}
	unlock, err := k.changing.lock(ctx, name)
	if err != nil {
		return nil, false, err
	}
	defer unlock()
	return k.write(ctx, storage, name, settings, pairs)
}

// prepare makes the key pairs for a key that there is none of, or cannot be
// decoded, before anything is locked.
func (k *Keyring) prepare(ctx context.Context, storage logical.Storage, name string, algorithm *string) ([]*Version, error) {
	key, err := k.Get(ctx, storage, name)
	if key != nil || err != nil && !errors.Is(err, store.ErrUndecodable) {
		return nil, err
	}
	wanted := DefaultAlgorithm
	if algorithm != nil {
		wanted = *algorithm
	}
	a, err := parseAlgorithm(wanted)
	if err != nil {
		return nil, err
	}
	return generateAll(a, 2)
}

func generateAll(a algorithm, n int) ([]*Version, error) {
	pairs := make([]*Version, n)
	for i := range pairs {
		var err error
		if pairs[i], err = generate(a); err != nil {
			return nil, err
		}
	}
	return pairs, nil
}

// write is Write with the key's lock held, and pairs for a new key unless one
// was there before.
func (k *Keyring) write(ctx context.Context, storage logical.Storage, name string, settings Settings, pairs []*Version) (*Key, bool, error) {
	key, err := k.read(ctx, storage, name)
	replaces := errors.Is(err, store.ErrUndecodable)
	switch {
	case replaces:
		err = mayReplace(name, settings, err)
	case err == nil && key == nil:
		err = k.roomForOne(ctx, storage)
	}
	if err != nil {
		return nil, false, err
	}
	created := key == nil
	before := &Key{}
	if created {
		if pairs == nil {
			return nil, false, usererror.Field("name", "key %q was deleted meanwhile; write it again to create it", name)
		}
		now := k.clock()
		key = &Key{Name: name, Algorithm: pairs[0].Algorithm, AllowedRoles: []string{"*"}, AllowedAudiences: []string{"*"}, CreatedAt: now}
		key.add(pairs[0], Signing, now)
		key.add(pairs[1], Next, now)
	} else {
		copied := *key
		before = &copied
		if a := settings.Algorithm; a != nil && *a != key.Algorithm {
			return nil, false, usererror.Field("algorithm", "key %q is %s, and a key's algorithm cannot change; create a key with another name", name, key.Algorithm)
		}
	}
	if settings.RotationPeriod != nil {
		key.RotationPeriod = *settings.RotationPeriod
	}
	if settings.AllowedRoles != nil {
		key.AllowedRoles = *settings.AllowedRoles
	}
	if settings.AllowedAudiences != nil {
		key.AllowedAudiences = *settings.AllowedAudiences
	}
	if key.RotationPeriod != before.RotationPeriod {
		if err := k.checkPeriod(ctx, storage, key, settings.LongestLife); err != nil {
			return nil, false, err
		}
	}
	if replaces {
		// What it signed is not published any more, whatever its horizon.
		if err := k.resetHorizon(ctx, storage, name); err != nil {
			return nil, false, err
		}
	}
	return key, created, k.put(ctx, storage, key)
}

// mayReplace reports whether a key that cannot be decoded may be overwritten.
func mayReplace(name string, settings Settings, unreadable error) error {
	switch {
	case errors.Is(unreadable, store.ErrNewer):
		return usererror.Field("name", "key %q was not changed: %s", name, unreadable)
	case settings.Algorithm == nil:
		return usererror.Field("algorithm", "is needed to replace key %q, which cannot be read: %s", name, unreadable)
	case settings.AllowedRoles == nil:
		// Its default would allow roles that the key did not.
		return usererror.Field("allowed_roles", "is needed to replace key %q, which cannot be read: %s", name, unreadable)
	case settings.AllowedAudiences == nil: // likewise
		return usererror.Field("allowed_audiences", "is needed to replace key %q, which cannot be read: %s", name, unreadable)
	}
	return nil
}

func (k *Keyring) roomForOne(ctx context.Context, storage logical.Storage) error {
	names, err := k.List(ctx, storage)
	if err != nil {
		return err
	}
	if len(names) >= maxKeys {
		return usererror.Field("name", "there are %d keys already; delete unused ones first", len(names))
	}
	return k.roomFor(2)
}

// roomFor reports whether so many more versions can be published.
func (k *Keyring) roomFor(n int) error {
	if published := k.versions(); published+n > maxPublished {
		return usererror.Field("name", "%d versions of keys are published, and at most %d may be, so that the key set stays small; delete unused keys, or rotate less often", published, maxPublished)
	}
	return nil
}

// checkPeriod refuses a period that rotation could not keep up with, by the tokens
// that were signed and those of the roles.
func (k *Keyring) checkPeriod(ctx context.Context, storage logical.Storage, key *Key, longest time.Duration) error {
	if key.RotationPeriod == 0 {
		return nil
	}
	if signing, err := key.Signing(); err == nil {
		h, err := k.readHorizon(ctx, storage, key.Name)
		if err != nil && !errors.Is(err, store.ErrUndecodable) {
			return err
		}
		if until, now := later(signing.SignedUntil, h.Until[signing.ID]), k.clock(); until.After(now) {
			longest = max(longest, until.Sub(now)-reserveAhead)
		}
	}
	if shortest := ShortestPeriod(longest); key.RotationPeriod < shortest {
		return usererror.Field("rotation_period", "is too short for tokens of %s, which roles with key %q issue: more than %d versions would be needed at once, and rotation would stop. It must be at least %s", longest.Round(time.Second), key.Name, maxVersions-1, shortest)
	}
	return nil
}

// Delete removes a key that no live token was signed with, and reports whether
// there was one. If it cannot be decoded, none of its tokens is accepted, and it
// is removed without being read. stillUsed gets the roles that refer to the key, and
// returns an error unless none of them, or of any others, names it; nobody can give
// the key to a role meanwhile. What stands beside the key may be left if there is an
// error although it was deleted.
func (k *Keyring) Delete(ctx context.Context, storage logical.Storage, name string, stillUsed func(roles []string) error) (bool, error) {
	unlock, err := k.changing.lock(ctx, name)
	if err != nil {
		return false, err
	}
	defer unlock()
	key, err := k.read(ctx, storage, name)
	exists := key != nil || err != nil
	if err != nil && !errors.Is(err, store.ErrUndecodable) {
		return false, err
	}
	roles, err := k.uses.List(ctx, storage, name+"/")
	if err != nil {
		return false, err
	}
	if exists {
		if err := stillUsed(roles); err != nil {
			return false, err
		}
	}
	unlockSigning, err := k.signing.lock(ctx, name)
	if err != nil {
		return false, err
	}
	defer unlockSigning()
	forget := k.resetHorizon
	if key != nil {
		if err := k.checkUnneeded(ctx, storage, key); err != nil {
			return false, err
		}
		forget = k.deleteHorizon // which pins nothing
	}
	if err := k.remove(ctx, storage, name); err != nil {
		return false, err
	}
	return exists, k.removeBeside(ctx, storage, name, roles, forget)
}

// checkUnneeded refuses to delete a key whose tokens may live.
func (k *Keyring) checkUnneeded(ctx context.Context, storage logical.Storage, key *Key) error {
	h, err := k.readHorizon(ctx, storage, key.Name)
	if errors.Is(err, store.ErrUndecodable) {
		return usererror.Field("name", "key %q: %s", key.Name, err)
	}
	if err != nil {
		return err
	}
	if until := key.signedUntil(h); until.After(k.clock()) {
		return usererror.Field("name", "key %q has signed tokens that may live until %s; delete it after that", key.Name, until.UTC().Format(time.RFC3339))
	}
	if h.Lists.After(k.clock()) {
		return usererror.Field("name", "key %q signs the status lists of API keys and bearer tokens that may live until %s, and verifiers would refuse these. Delete it after that, if no more such tokens are issued; to have the lists signed by another key pair, rotate it with keys/%s/rotate", key.Name, h.Lists.UTC().Format(time.RFC3339), key.Name)
	}
	return nil
}

func (k *Keyring) remove(ctx context.Context, storage logical.Storage, name string) error {
	if err := k.entries.Delete(ctx, storage, name); err != nil {
		k.drop(name) // the storage may hold either
		return err
	}
	k.keep(name, nil)
	for _, of := range []string{ofEntry, ofHorizon, ofRotation} {
		k.report(name, of, nil)
	}
	return nil
}

// removeBeside removes what stands beside a key. What a fault leaves of that means
// nothing, and goes when the deletion is repeated.
func (k *Keyring) removeBeside(ctx context.Context, storage logical.Storage, name string, roles []string, forget func(context.Context, logical.Storage, string) error) error {
	if err := forget(ctx, storage, name); err != nil {
		return err
	}
	for _, role := range roles {
		if err := k.Release(ctx, storage, name, role); err != nil {
			return err
		}
	}
	return nil
}
