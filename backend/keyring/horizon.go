package keyring

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/hashicorp/vault/sdk/logical"

	"github.com/vault-tokens/vault-plugin-secrets-tokens/backend/store"
	"github.com/vault-tokens/vault-plugin-secrets-tokens/backend/usererror"
)

// horizonPrefix is where the horizon of each key is stored, apart from the key:
// it is written every few minutes, and the private half must not be.
const horizonPrefix = "signed/"

// reserveAhead is how far beyond the need a horizon is written, so that signing
// writes storage once in that time and not once per token.
const reserveAhead = 10 * time.Minute

// horizon bounds what versions of a key have signed, by kid: none of it expires
// later.
type horizon map[string]time.Time

// storedHorizon is a horizon as stored.
type storedHorizon struct {
	Until horizon `json:"until"`
}

// ForSigning returns the version of a key that signs. Before that it makes sure
// that the storage has the horizon of that version at expires or later.
func (k *Keyring) ForSigning(ctx context.Context, storage logical.Storage, name, role string, expires time.Time) (*Version, error) {
	key, err := k.Usable(ctx, storage, name, role)
	if err != nil {
		return nil, err
	}
	version, err := key.Signing()
	if err != nil || !expires.After(k.knownUntil(name, version)) {
		return version, err
	}
	return k.extendHorizon(ctx, storage, name, expires)
}

// knownUntil is what is known without a look at the storage.
func (k *Keyring) knownUntil(name string, v *Version) time.Time {
	k.mu.Lock()
	defer k.mu.Unlock()
	return later(v.SignedUntil, k.horizons[name][v.ID])
}

func (k *Keyring) extendHorizon(ctx context.Context, storage logical.Storage, name string, expires time.Time) (*Version, error) {
	unlock, err := k.signing.lock(ctx, name)
	if err != nil {
		return nil, err
	}
	defer unlock()
	// Rotations take this lock too, so that the version signs until it is released.
	key, err := k.load(ctx, storage, name)
	if err != nil {
		return nil, err
	}
	if key == nil {
		return nil, usererror.Field("key", "%q was deleted", name)
	}
	version, err := key.Signing()
	if err != nil || !expires.After(k.knownUntil(name, version)) {
		return version, err
	}
	stored, err := k.readHorizon(ctx, storage, name)
	if err != nil {
		if errors.Is(err, store.ErrUndecodable) {
			k.report(name, ofHorizon, err)
			err = usererror.Field("key", "%q cannot sign: %s", name, err)
		}
		return nil, err
	}
	if expires.After(stored[version.ID]) {
		// The other versions' horizons are in the key's own entry.
		stored = horizon{version.ID: expires.Add(reserveAhead)}
		if err := k.horizonEntries.Put(ctx, storage, name, &storedHorizon{stored}); err != nil {
			k.keepHorizon(name, nil) // the storage may hold either
			return nil, err
		}
	}
	k.keepHorizon(name, stored)
	return version, nil
}

// readHorizon reads a key's horizon from the storage.
func (k *Keyring) readHorizon(ctx context.Context, storage logical.Storage, name string) (horizon, error) {
	stored, err := k.horizonEntries.Read(ctx, storage, name)
	switch {
	case errors.Is(err, store.ErrUndecodable):
		return nil, fmt.Errorf("%w; it is not known until when the tokens of key %q live. Start over with keys/%s/rotate-emergency, which ends all tokens that it signed, or restore the entry from a backup", err, name, name)
	case err != nil || stored == nil:
		return nil, err
	}
	return stored.Until, nil
}

func (k *Keyring) keepHorizon(name string, h horizon) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if h == nil {
		delete(k.horizons, name)
	} else {
		k.horizons[name] = h
	}
}

// settle moves the horizon into the versions of a key that is about to be written.
func (k *Key) settle(h horizon) {
	for _, v := range k.Versions {
		v.SignedUntil = later(v.SignedUntil, h[v.ID])
	}
}

// signedUntil bounds what any version of the key has signed.
func (k *Key) signedUntil(h horizon) time.Time {
	var until time.Time
	for _, v := range k.Versions {
		until = later(until, later(v.SignedUntil, h[v.ID]))
	}
	return until
}

// SignedUntil bounds what all keys have signed by now: none of it expires later. It
// is an error if that of one key cannot be known.
func (k *Keyring) SignedUntil(ctx context.Context, storage logical.Storage) (time.Time, error) {
	names, err := k.List(ctx, storage)
	if err != nil {
		return time.Time{}, err
	}
	var until time.Time
	for _, name := range names {
		key, err := k.load(ctx, storage, name)
		if err != nil {
			return time.Time{}, err
		}
		if key == nil {
			continue // deleted meanwhile, and so are its tokens
		}
		for _, v := range key.Versions {
			if v.Problem != "" {
				return time.Time{}, fmt.Errorf("key %s, version %d: %s", name, v.Number, v.Problem)
			}
		}
		h, err := k.readHorizon(ctx, storage, name)
		if err != nil {
			return time.Time{}, err
		}
		until = later(until, key.signedUntil(h))
	}
	return until, nil
}

func later(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}
