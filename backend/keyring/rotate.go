package keyring

import (
	"context"
	"errors"
	"time"

	"github.com/hashicorp/vault/sdk/logical"

	"github.com/vault-tokens/vault-plugin-secrets-tokens/backend/usererror"
)

// Rotation is what a rotation did.
type Rotation struct {
	Key       *Key
	Rotated   bool // false if versions were dropped and that is all
	Signing   *Version
	Next      *Version
	Retired   *Version      // published until its NotAfter; nil in an emergency
	Dropped   []*Version    // not published any more
	Published time.Duration // how long the version that now signs had been published
}

// Rotate lets the next version sign, retires the one that did, and publishes a
// new next one. All of it takes effect with one write, or none of it.
//
// A retired version stays published for at least minPublished, because it has
// signed more than tokens.
func (k *Keyring) Rotate(ctx context.Context, storage logical.Storage, name string, minPublished time.Duration) (*Rotation, error) {
	return k.rotate(ctx, storage, name, func(key *Key, a algorithm, now time.Time) (*Rotation, error) {
		return k.advance(key, a, now, minPublished)
	})
}

// EmergencyRotate drops every version of a key, as if all were known to an
// attacker, and starts over with new ones that nobody has seen.
func (k *Keyring) EmergencyRotate(ctx context.Context, storage logical.Storage, name string) (*Rotation, error) {
	return k.rotate(ctx, storage, name, func(key *Key, a algorithm, now time.Time) (*Rotation, error) {
		done := &Rotation{Rotated: true, Dropped: key.Versions}
		if err := key.addVersion(a, Signing, now); err != nil {
			return nil, err
		}
		if err := key.addVersion(a, Next, now); err != nil {
			return nil, err
		}
		key.Versions = key.Versions[len(done.Dropped):]
		return done, nil
	})
}

// RotateDue rotates the keys that are due and drops retired versions that are no
// longer needed. It returns the rotations.
func (k *Keyring) RotateDue(ctx context.Context, storage logical.Storage, minPublished time.Duration) ([]*Rotation, error) {
	r, err := k.load(ctx, storage)
	if err != nil {
		return nil, err
	}
	var done []*Rotation
	var failed []error
	for name, key := range r.keys {
		if !k.due(key) {
			continue
		}
		rotation, err := k.rotate(ctx, storage, name, func(key *Key, a algorithm, now time.Time) (*Rotation, error) {
			rotation := &Rotation{Dropped: key.dropExpired(now)}
			if at := key.NextRotation(); !at.IsZero() && !now.Before(at) {
				advanced, err := k.advance(key, a, now, minPublished)
				if err != nil {
					return nil, err
				}
				advanced.Dropped = rotation.Dropped
				return advanced, nil
			}
			return rotation, nil
		})
		if err != nil {
			failed = append(failed, err)
			continue
		}
		done = append(done, rotation)
	}
	return done, errors.Join(failed...)
}

func (k *Keyring) due(key *Key) bool {
	now := k.clock()
	if at := key.NextRotation(); !at.IsZero() && !now.Before(at) {
		return true
	}
	for _, v := range key.Versions {
		if v.Expired(now) {
			return true
		}
	}
	return false
}

// rotate changes a key as it is in the storage. If the write fails, the old
// versions stay in use.
func (k *Keyring) rotate(ctx context.Context, storage logical.Storage, name string, change func(*Key, algorithm, time.Time) (*Rotation, error)) (*Rotation, error) {
	k.changes.Lock()
	defer k.changes.Unlock()
	key, err := k.entries.Read(ctx, storage, name)
	if err != nil {
		return nil, err
	}
	if key == nil {
		return nil, usererror.Field("name", "key %q does not exist", name)
	}
	a, err := parseAlgorithm(key.Algorithm)
	if err != nil {
		return nil, err
	}
	done, err := change(key, a, k.clock())
	if err != nil {
		return nil, err
	}
	done.Key = key
	if done.Signing, err = key.Signing(); err != nil {
		return nil, err
	}
	if done.Next, err = key.Next(); err != nil {
		return nil, err
	}
	return done, k.put(ctx, storage, key)
}

func (k *Keyring) advance(key *Key, a algorithm, now time.Time, minPublished time.Duration) (*Rotation, error) {
	if len(key.Versions) >= maxVersions {
		return nil, usererror.Field("name", "key %q has %d versions whose tokens are still live; rotate it less often, or in an emergency with emergency=true", key.Name, len(key.Versions))
	}
	signing, err := key.Signing()
	if err != nil {
		return nil, err
	}
	next, err := key.Next()
	if err != nil {
		return nil, err
	}
	signing.State = Retired
	// Fixed now, from what was signed: settings may change later.
	signing.NotAfter = later(signing.SignedUntil, now.Add(minPublished))
	next.State, next.SigningSince = Signing, now
	if err := key.addVersion(a, Next, now); err != nil {
		return nil, err
	}
	return &Rotation{Rotated: true, Retired: signing, Published: now.Sub(next.CreatedAt)}, nil
}

// dropExpired removes the retired versions that are no longer needed.
func (k *Key) dropExpired(now time.Time) (dropped []*Version) {
	kept := k.Versions[:0:0]
	for _, v := range k.Versions {
		if v.Expired(now) {
			dropped = append(dropped, v)
		} else {
			kept = append(kept, v)
		}
	}
	k.Versions = kept
	return dropped
}

func later(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}
