package keyring

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/hashicorp/vault/sdk/logical"

	"github.com/vault-tokens/vault-plugin-secrets-tokens/backend/store"
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
// new next one. All of it takes effect with one write, or none of it. It refuses
// while the next version is younger than MinPublished, unless force is set.
//
// A retired version stays published until listsUntil at least, because it has
// signed more than tokens.
func (k *Keyring) Rotate(ctx context.Context, storage logical.Storage, name string, force bool, listsUntil time.Time) (*Rotation, error) {
	pairs, err := k.pairsFor(ctx, storage, name, 1)
	if err != nil {
		return nil, err
	}
	return k.rotate(ctx, storage, name, func(c *change) error {
		next, err := c.key.Next()
		if err != nil {
			return err
		}
		if published := max(0, c.now.Sub(next.CreatedAt)); published < MinPublished && !force {
			return usererror.Field("force", "is needed now: the next version of key %q has been published for %s only, and verifiers that cache the key set may not have it. Rotate in %s, or set force=true to let it sign at once", name, published.Round(time.Second), (MinPublished - published).Round(time.Second))
		}
		return c.advance(k, pairs, listsUntil)
	})
}

// EmergencyRotate drops every version of a key, as if all were known to an
// attacker, and starts over with new ones that nobody has seen. It needs none of
// the old ones to be readable.
func (k *Keyring) EmergencyRotate(ctx context.Context, storage logical.Storage, name string) (*Rotation, error) {
	pairs, err := k.pairsFor(ctx, storage, name, 2)
	if err != nil {
		return nil, err
	}
	unlock, err := k.lockBoth(ctx, name)
	if err != nil {
		return nil, err
	}
	defer unlock()
	key, err := k.readForRotation(ctx, storage, name, pairs)
	if err != nil {
		return nil, err
	}
	now := k.clock()
	done := &Rotation{Key: key, Rotated: true, Dropped: key.Versions}
	done.Signing = key.add(pairs[0], Signing, now)
	done.Next = key.add(pairs[1], Next, now)
	key.Versions = key.Versions[len(done.Dropped):]
	if err := k.put(ctx, storage, key); err != nil {
		return nil, err
	}
	// Nothing is known of the new versions, and nothing of the old ones is needed.
	k.report(name, ofHorizon, nil)
	if err := k.resetHorizon(ctx, storage, name); err != nil {
		k.report(name, ofHorizon, err) // what matters is done; signing tells if it cannot go on
	}
	return done, nil
}

// RotateDue rotates the keys that are due and drops retired versions that are no
// longer needed, those first that have waited longest, until ctx ends. It returns
// the rotations. What it could not do is an error, and told to Report.
func (k *Keyring) RotateDue(ctx context.Context, storage logical.Storage, listsUntil time.Time) ([]*Rotation, error) {
	keys, err := k.loadAll(ctx, storage)
	failed := failures{}
	failed.add(err)
	var due []*Key
	for _, key := range keys {
		if k.due(key) {
			due = append(due, key)
		}
	}
	slices.SortFunc(due, func(a, b *Key) int { return a.NextRotation().Compare(b.NextRotation()) })
	var done []*Rotation
	for _, key := range due {
		if ctx.Err() != nil {
			break // the next run goes on
		}
		rotation, err := k.rotateDue(ctx, storage, key, listsUntil)
		switch {
		case err != nil:
			err = fmt.Errorf("rotate key %s: %w", key.Name, err)
			k.report(key.Name, ofRotation, err)
			failed.add(err)
		case rotation.Rotated || len(rotation.Dropped) > 0:
			done = append(done, rotation)
		}
	}
	return done, failed.join()
}

// failures are errors of one run. A storage that is down must not make thousands of
// lines.
type failures struct {
	first []error
	more  int
}

func (f *failures) add(err error) {
	switch {
	case err == nil:
	case len(f.first) < maxFailures:
		f.first = append(f.first, err)
	default:
		f.more++
	}
}

func (f *failures) join() error {
	if f.more > 0 {
		return errors.Join(append(f.first, fmt.Errorf("and %d more", f.more))...)
	}
	return errors.Join(f.first...)
}

func (k *Keyring) due(key *Key) bool {
	now := k.clock()
	return key.outdated || key.rotationDue(now) || key.fromFuture(now) || slices.ContainsFunc(key.Versions, func(v *Version) bool { return v.Expired(now) })
}

func (k *Key) rotationDue(now time.Time) bool {
	at := k.NextRotation()
	return !at.IsZero() && !now.Before(at)
}

// fromFuture reports whether the key was changed while a clock was ahead. Its next
// rotation would wait until the clock gets there.
func (k *Key) fromFuture(now time.Time) bool {
	return slices.ContainsFunc(k.Versions, func(v *Version) bool { return v.isFromFuture(now) })
}

func (v *Version) isFromFuture(now time.Time) bool {
	return v.Problem == "" && v.State != Retired && (v.SigningSince.After(now) || v.CreatedAt.After(now))
}

// rotateDue does what is due for one key.
func (k *Keyring) rotateDue(ctx context.Context, storage logical.Storage, key *Key, listsUntil time.Time) (*Rotation, error) {
	var pairs []*Version
	if key.rotationDue(k.clock()) {
		var err error
		if pairs, err = k.pairsFor(ctx, storage, key.Name, 1); err != nil {
			return nil, err
		}
	}
	return k.rotate(ctx, storage, key.Name, func(c *change) error {
		for _, v := range c.key.Versions {
			if v.isFromFuture(c.now) {
				v.CreatedAt = earlier(v.CreatedAt, c.now)
				v.SigningSince = earlier(v.SigningSince, c.now)
			}
		}
		c.dropExpired()
		if pairs != nil && c.key.rotationDue(c.now) {
			return c.advance(k, pairs, listsUntil)
		}
		return nil
	})
}

// change is a change of a key's versions under way.
type change struct {
	key       *Key // as in the storage, to be changed
	now       time.Time
	unbounded error // if it is not known until when its tokens live
	done      *Rotation
}

// rotate changes a key as it is in the storage. If the write fails, the old
// versions stay in use.
func (k *Keyring) rotate(ctx context.Context, storage logical.Storage, name string, apply func(*change) error) (*Rotation, error) {
	unlock, err := k.lockBoth(ctx, name)
	if err != nil {
		return nil, err
	}
	defer unlock()
	key, err := k.readForRotation(ctx, storage, name, nil)
	if err != nil {
		return nil, err
	}
	h, err := k.readHorizon(ctx, storage, name)
	if err != nil && !errors.Is(err, store.ErrUndecodable) {
		return nil, err
	}
	key.settle(h)
	c := &change{key: key, now: k.clock(), unbounded: err, done: &Rotation{Key: key}}
	if err := apply(c); err != nil {
		return nil, err
	}
	return c.done, k.put(ctx, storage, key)
}

// pairsFor makes key pairs of a key's algorithm, before anything is locked.
func (k *Keyring) pairsFor(ctx context.Context, storage logical.Storage, name string, n int) ([]*Version, error) {
	key, err := k.Get(ctx, storage, name)
	if err == nil && key == nil {
		err = usererror.Field("name", "key %q does not exist", name)
	}
	if err != nil {
		return nil, rotationRefused(name, err)
	}
	a, err := parseAlgorithm(key.Algorithm)
	if err != nil {
		return nil, err
	}
	return generateAll(a, n)
}

func rotationRefused(name string, err error) error {
	if errors.Is(err, store.ErrUndecodable) {
		return usererror.Field("name", "key %q cannot be rotated: %s", name, err)
	}
	return err
}

// lockBoth takes both locks of a key.
func (k *Keyring) lockBoth(ctx context.Context, name string) (unlock func(), err error) {
	unlockChanging, err := k.changing.lock(ctx, name)
	if err != nil {
		return nil, err
	}
	unlockSigning, err := k.signing.lock(ctx, name)
	if err != nil {
		unlockChanging()
		return nil, err
	}
	return func() { unlockSigning(); unlockChanging() }, nil
}

// readForRotation reads the key, with both locks held; pairs were made for it.
func (k *Keyring) readForRotation(ctx context.Context, storage logical.Storage, name string, pairs []*Version) (*Key, error) {
	key, err := k.read(ctx, storage, name)
	switch {
	case err != nil:
		return nil, rotationRefused(name, err)
	case key == nil:
		return nil, usererror.Field("name", "key %q was deleted meanwhile", name)
	}
	return key, key.suits(pairs)
}

// suits reports whether pairs are of the key's algorithm.
func (k *Key) suits(pairs []*Version) error {
	if len(pairs) > 0 && pairs[0].Algorithm != k.Algorithm {
		return usererror.Field("name", "key %q was replaced meanwhile; rotate it again", k.Name)
	}
	return nil
}

// advance lets the next version sign.
func (c *change) advance(k *Keyring, pairs []*Version, listsUntil time.Time) error {
	key := c.key
	if c.unbounded != nil {
		return rotationRefused(key.Name, c.unbounded)
	}
	if len(key.Versions) >= maxVersions {
		return usererror.Field("name", "key %q has %d versions whose tokens are still live; rotate it less often, give its roles a shorter ttl, or end all its tokens with keys/%s/rotate-emergency", key.Name, len(key.Versions), key.Name)
	}
	if err := errors.Join(key.suits(pairs), k.roomFor(1)); err != nil {
		return err
	}
	signing, err := key.Signing()
	if err != nil {
		return err
	}
	next, err := key.Next()
	if err != nil {
		return err
	}
	signing.State = Retired
	// Fixed now, from what was signed: settings may change later.
	signing.NotAfter = later(signing.SignedUntil, listsUntil)
	signing.private = nil
	next.State, next.SigningSince = Signing, c.now
	c.done.Rotated, c.done.Retired, c.done.Signing = true, signing, next
	c.done.Next = key.add(pairs[0], Next, c.now)
	c.done.Published = max(0, c.now.Sub(next.CreatedAt))
	return nil
}

// dropExpired removes the retired versions that are no longer needed.
func (c *change) dropExpired() {
	kept := c.key.Versions[:0:0]
	for _, v := range c.key.Versions {
		if v.Expired(c.now) {
			c.done.Dropped = append(c.done.Dropped, v)
		} else {
			kept = append(kept, v)
		}
	}
	c.key.Versions = kept
}

func earlier(a, b time.Time) time.Time {
	if a.Before(b) {
		return a
	}
	return b
}
