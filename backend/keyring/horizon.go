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

// horizonFormat is 2 since lists are pinned. A build that does not know of that
// writes the entry without, the next time that the key signs, and then lets the key
// be deleted: nobody could verify the lists of living tokens. What that costs is that
// such a build signs no JWTs with a key that this one has signed with.
const horizonFormat = 2

// reserveAhead is how far beyond the need a horizon is written, so that signing
// writes storage once in that time and not once per token.
const reserveAhead = 10 * time.Minute

// horizon is until when a key is needed, as stored beside it.
type horizon struct {
	// Until bounds what versions of the key have signed, by kid: none of it expires
	// later.
	Until map[string]time.Time `json:"until"`
	// Lists is until when the key signs the status lists of tokens that it did not
	// sign. It is of the key and not of a version: each list is signed by the version
	// that signs when it is published.
	Lists time.Time `json:"lists,omitzero"`
}

// ForSigning returns the version of a key that signs, if the key allows the role and
// the audiences. Before that it makes sure
// that the storage has the horizon of that version at expires or later.
func (k *Keyring) ForSigning(ctx context.Context, storage logical.Storage, name, role string, audiences []string, expires time.Time) (*Version, error) {
	key, err := k.Usable(ctx, storage, name, role)
	if err != nil {
		return nil, err
	}
	if err := key.CheckAudiences("audience", audiences); err != nil {
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
	return later(v.SignedUntil, k.horizons[name].Until[v.ID])
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
	if expires.After(stored.Until[version.ID]) {
		// The other versions' horizons are in the key's own entry.
		stored.Until = map[string]time.Time{version.ID: expires.Add(reserveAhead)}
		if err := k.putHorizon(ctx, storage, name, stored); err != nil {
			return nil, err
		}
	}
	k.keepHorizon(name, &stored)
	return version, nil
}

// PinLists makes sure that a key is not deleted before a status list ends that it
// signs, of tokens that it did not sign: the storage then has that it is needed at
// until or later. It reports whether there is a key that can sign lists. If it
// cannot, for what is reported of the key, nothing is pinned, and tokens have to do
// without a list. It asks for no permission: the lists are the mount's, not a role's.
func (k *Keyring) PinLists(ctx context.Context, storage logical.Storage, name string, until time.Time) (signs bool, err error) {
	signs, err = k.SignsLists(ctx, storage, name)
	if err != nil || !signs || !until.After(k.pinnedUntil(name)) {
		return signs, err
	}
	unlock, err := k.signing.lock(ctx, name)
	if err != nil {
		return false, err
	}
	defer unlock()
	// Deletions take this lock too, so that the key is there until it is released.
	signs, err = k.SignsLists(ctx, storage, name)
	if err != nil || !signs || !until.After(k.pinnedUntil(name)) {
		return signs, err
	}
	stored, err := k.readHorizon(ctx, storage, name)
	if errors.Is(err, store.ErrUndecodable) {
		k.report(name, ofHorizon, err)
		return false, nil
	}
	if err != nil {
		return false, err
	}
	if until.After(stored.Lists) {
		stored.Lists = until.Add(reserveAhead)
		if err := k.putHorizon(ctx, storage, name, stored); err != nil {
			return false, err
		}
	}
	k.keepHorizon(name, &stored)
	return true, nil
}

// SignsLists reports whether there is a key of this name that can sign.
func (k *Keyring) SignsLists(ctx context.Context, storage logical.Storage, name string) (bool, error) {
	key, err := k.load(ctx, storage, name)
	switch {
	case errors.Is(err, store.ErrUndecodable):
		return false, nil
	case err != nil:
		return false, err
	case key == nil:
		// With all names in memory, the next one who asks reads nothing.
		return false, k.list(ctx, storage)
	}
	_, err = key.Signing()
	return err == nil, nil
}

// pinnedUntil is what is known without a look at the storage.
func (k *Keyring) pinnedUntil(name string) time.Time {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.horizons[name].Lists
}

func (k *Keyring) putHorizon(ctx context.Context, storage logical.Storage, name string, h horizon) error {
	err := k.horizonEntries.Put(ctx, storage, name, &h)
	if err != nil {
		k.keepHorizon(name, nil) // the storage may hold either
	}
	return err
}

// resetHorizon forgets what the versions of a key have signed that are gone. That
// the key signs lists stays: they go on, signed by other versions, or by the next
// key of this name. If it cannot be read until when, the next token pins it anew.
func (k *Keyring) resetHorizon(ctx context.Context, storage logical.Storage, name string) error {
	ctx, cancel := store.Detach(ctx)
	defer cancel()
	stored, err := k.readHorizon(ctx, storage, name)
	switch {
	case err != nil && !errors.Is(err, store.ErrUndecodable):
		return err
	case err == nil && stored.Lists.After(k.clock()):
		return nil // the kids in it mean nothing any more
	}
	return k.deleteHorizon(ctx, storage, name)
}

func (k *Keyring) deleteHorizon(ctx context.Context, storage logical.Storage, name string) error {
	k.keepHorizon(name, nil)
	return k.horizonEntries.Delete(ctx, storage, name)
}

// readHorizon reads a key's horizon from the storage; it is empty if there is none.
func (k *Keyring) readHorizon(ctx context.Context, storage logical.Storage, name string) (horizon, error) {
	stored, err := k.horizonEntries.Read(ctx, storage, name)
	switch {
	case errors.Is(err, store.ErrNewer):
		return horizon{}, fmt.Errorf("%w; until then key %q signs and retires nothing, since it is not known until when its tokens live", err, name)
	case errors.Is(err, store.ErrUndecodable):
		return horizon{}, fmt.Errorf("%w; it is not known until when the tokens of key %q live. Start over with keys/%s/rotate-emergency, which ends all tokens that it signed, or restore the entry from a backup", err, name, name)
	case err != nil || stored == nil:
		return horizon{}, err
	}
	return *stored, nil
}

func (k *Keyring) keepHorizon(name string, h *horizon) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if h == nil {
		delete(k.horizons, name)
	} else {
		k.horizons[name] = *h
	}
}

// settle moves the horizon into the versions of a key that is about to be written.
func (k *Key) settle(h horizon) {
	for _, v := range k.Versions {
		v.SignedUntil = later(v.SignedUntil, h.Until[v.ID])
	}
}

// signedUntil bounds what any version of the key has signed.
func (k *Key) signedUntil(h horizon) time.Time {
	var until time.Time
	for _, v := range k.Versions {
		until = later(until, later(v.SignedUntil, h.Until[v.ID]))
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
