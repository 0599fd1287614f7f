// Package keyring keeps the mount's signing keys and publishes their public
// halves.
//
// Keys are independent of each other: each is loaded, changed, rotated and
// dropped from memory by itself, and one that cannot be decoded fails closed
// alone. What issuing, introspection and the key set need from memory is never
// locked during I/O, nor while a key pair is made.
package keyring

import (
	"context"
	"errors"
	"regexp"
	"time"

	"github.com/hashicorp/vault/sdk/logical"

	"github.com/vault-tokens/vault-plugin-secrets-tokens/backend/store"
	"github.com/vault-tokens/vault-plugin-secrets-tokens/backend/usererror"
)

// StoragePrefix is where keys are stored; it is seal-wrapped if the seal supports it.
const StoragePrefix = "key/"

// MaxCacheTime bounds how long a verifier may keep the key set.
const MaxCacheTime = 5 * time.Minute

// MinPublished is how long a version is published before it signs, unless the
// caller insists, so that verifiers have it by then. It is several times
// MaxCacheTime, and longer than a client goes on retrying a rotation: one that took
// effect and answered with an error does not let an unseen version sign.
const MinPublished = 25 * time.Minute

// MinRotationPeriod is the shortest period of automatic rotation.
const MinRotationPeriod = MinPublished

const (
	// maxKeys and maxVersions bound what an entry of the storage and the list of
	// keys can grow to; maxPublished bounds the unauthenticated key set, of which a
	// version of RSA takes some 620 bytes.
	maxKeys         = 1000
	maxVersions     = 100
	maxPublished    = 4096
	maxAllowedRoles = 100
	maxFailures     = 10 // that one run reports
)

var rolePattern = regexp.MustCompile(`^[A-Za-z0-9_.*-]{1,128}$`)

// Keyring is all signing keys of a mount.
type Keyring struct {
	// Report, if set, is told of a key that cannot be read, or not be rotated by
	// itself: once, until that changes.
	Report func(name string, problem error)

	entries        store.Entries[storedKey]
	horizonEntries store.Entries[horizon]
	uses           store.Entries[use]
	clock          func() time.Time

	// The lock of a key in changing is held around each change of the key and of
	// what refers to it, that in signing around what moves its horizon or retires
	// a version. Take them in this order, after the lock of a role.
	changing, signing *locks

	cache
}

// New returns the keyring of a mount; keys are loaded when they are asked for.
func New(clock func() time.Time) *Keyring {
	return &Keyring{
		entries:        store.Entries[storedKey]{Prefix: StoragePrefix, Format: keyFormat, New: newStoredKey},
		horizonEntries: store.Entries[horizon]{Prefix: horizonPrefix, Format: horizonFormat},
		uses:           store.Entries[use]{Prefix: usePrefix, Format: 1},
		clock:          clock,
		changing:       newLocks(),
		signing:        newLocks(),
		cache:          newCache(),
	}
}

// List returns the names of all keys, those that cannot be decoded included.
func (k *Keyring) List(ctx context.Context, storage logical.Storage) ([]string, error) {
	return k.entries.List(ctx, storage, "")
}

// Get returns a key, or nil. One that cannot be decoded is a store.ErrUndecodable
// that tells what to do.
func (k *Keyring) Get(ctx context.Context, storage logical.Storage, name string) (*Key, error) {
	return k.load(ctx, storage, name)
}

// Published returns the version with this kid, or nil if it is not, or no longer,
// published.
func (k *Keyring) Published(ctx context.Context, storage logical.Storage, id string) (*Version, error) {
	v, err := k.Stored(ctx, storage, id)
	if err != nil || v == nil || v.Expired(k.clock()) {
		return nil, err
	}
	return v, nil
}

// Stored is like Published, and also returns a version that by this clock is no
// longer published, but is still there.
func (k *Keyring) Stored(ctx context.Context, storage logical.Storage, id string) (*Version, error) {
	if v := k.byKID(id); v != nil {
		return v, nil
	}
	// Perhaps of a key that is not in memory.
	if _, err := k.loadAll(ctx, storage); err != nil {
		return nil, err
	}
	return k.byKID(id), nil
}

func (k *Keyring) byKID(id string) *Version {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.byID[id]
}

// Usable returns the key, if it exists, can be read and allows the role.
func (k *Keyring) Usable(ctx context.Context, storage logical.Storage, name, role string) (*Key, error) {
	key, err := k.readable(ctx, storage, name)
	switch {
	case err != nil:
		return nil, err
	case key == nil:
		return nil, usererror.Field("key", "%q does not exist; create it with keys/%s", name, name)
	case !key.Allows(role):
		return nil, usererror.Field("key", "%q does not allow role %q; see its allowed_roles", name, role)
	}
	return key, nil
}

// readable is Get, with a key that cannot be decoded as a mistake in key.
func (k *Keyring) readable(ctx context.Context, storage logical.Storage, name string) (*Key, error) {
	key, err := k.Get(ctx, storage, name)
	if errors.Is(err, store.ErrUndecodable) {
		return nil, usererror.Field("key", "%q cannot be used: %s", name, err)
	}
	return key, err
}

// put writes a key, of which the caller holds the lock in changing.
func (k *Keyring) put(ctx context.Context, storage logical.Storage, key *Key) error {
	stored, err := key.encode()
	if err != nil {
		return err
	}
	if err := k.entries.Put(ctx, storage, key.Name, stored); err != nil {
		k.drop(key.Name) // the storage may hold either
		return err
	}
	key.outdated = false
	k.keep(key.Name, key)
	k.reportEntry(key.Name, key, nil)
	k.report(key.Name, ofRotation, nil)
	return nil
}
