// Package keyring keeps the mount's signing keys and publishes their public
// halves.
package keyring

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"sync"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/hashicorp/vault/sdk/logical"

	"github.com/vault-tokens/vault-plugin-secrets-tokens/backend/badinput"
	"github.com/vault-tokens/vault-plugin-secrets-tokens/backend/store"
)

// StoragePrefix is where keys lie; it is seal-wrapped where the seal supports it.
const StoragePrefix = "key/"

// horizonStep is how far ahead of need SignedUntil is written, so that signing
// writes storage once per step and not once per token.
const horizonStep = 10 * time.Minute

const maxKeys = 1000 // bounds what the unauthenticated JWKS can grow to

// Keyring is all signing keys of a mount. Its keys are few, so it holds all of
// them in memory and drops them together.
type Keyring struct {
	entries *store.Store[Key]
	changes sync.Mutex // serializes changes of keys
	ring    store.Snapshot[ring]
	clock   func() time.Time
	random  io.Reader
}

// ring is the keys as they were at one moment.
type ring struct {
	keys map[string]*Key
	byID map[string]*Version // what is published
	jwks []byte
}

// New returns a keyring that draws keys from random.
func New(clock func() time.Time, random io.Reader) *Keyring {
	return &Keyring{entries: store.New[Key](StoragePrefix, 1), clock: clock, random: random}
}

// Invalidate drops what is cached when a storage key changed elsewhere.
func (k *Keyring) Invalidate(key string) bool {
	ours := k.entries.Invalidate(key)
	if ours {
		k.ring.Drop()
	}
	return ours
}

// List returns the names of all keys.
func (k *Keyring) List(ctx context.Context, storage logical.Storage) ([]string, error) {
	return k.entries.List(ctx, storage, "")
}

// Get returns a key, or nil.
func (k *Keyring) Get(ctx context.Context, storage logical.Storage, name string) (*Key, error) {
	r, err := k.load(ctx, storage)
	if err != nil {
		return nil, err
	}
	return r.keys[name], nil
}

// Published returns the version with this kid, or nil if it is not published
// (any more).
func (k *Keyring) Published(ctx context.Context, storage logical.Storage, id string) (*Version, error) {
	r, err := k.load(ctx, storage)
	if err != nil {
		return nil, err
	}
	v := r.byID[id]
	if v == nil || v.Expired(k.clock()) {
		return nil, nil
	}
	return v, nil
}

// JWKS returns the JSON Web Key Set (RFC 7517 §5) of all published versions.
func (k *Keyring) JWKS(ctx context.Context, storage logical.Storage) ([]byte, error) {
	r, err := k.load(ctx, storage)
	if err != nil {
		return nil, err
	}
	return r.jwks, nil
}

// Create makes a key, or changes nothing if it exists with that algorithm. It
// reports whether it made one.
func (k *Keyring) Create(ctx context.Context, storage logical.Storage, name, algorithmName string) (*Key, bool, error) {
	a, err := parseAlgorithm(algorithmName)
	if err != nil {
		return nil, false, err
	}
	k.changes.Lock()
	defer k.changes.Unlock()
	key, err := k.entries.Read(ctx, storage, name)
	if err != nil {
		return nil, false, err
	}
	if key != nil {
		if key.Algorithm != a.name {
			return nil, false, badinput.Field("algorithm", "key %q is %s, and a key's algorithm cannot change; create a key of another name", name, key.Algorithm)
		}
		return key, false, nil
	}
	names, err := k.List(ctx, storage)
	if err != nil {
		return nil, false, err
	}
	if len(names) >= maxKeys {
		return nil, false, badinput.Field("name", "there are %d keys already; delete unused ones first", len(names))
	}
	now := k.clock()
	version, err := newVersion(k.random, 1, a, Signing, now)
	if err != nil {
		return nil, false, err
	}
	key = &Key{Name: name, Algorithm: a.name, CreatedAt: now, Versions: []*Version{version}}
	return key, true, k.put(ctx, storage, key)
}

// Delete removes a key that no live token was signed with. The caller has
// checked that no role names it.
func (k *Keyring) Delete(ctx context.Context, storage logical.Storage, name string) error {
	k.changes.Lock()
	defer k.changes.Unlock()
	key, err := k.entries.Read(ctx, storage, name)
	if err != nil {
		return err
	}
	if key != nil && key.SignedUntil().After(k.clock()) {
		return badinput.Field("name", "key %q has signed tokens that may live until %s; delete it after that", name, key.SignedUntil().UTC().Format(time.RFC3339))
	}
	defer k.ring.Drop()
	return k.entries.Delete(ctx, storage, name)
}

// ForSigning returns the version of a key that signs, after making sure that
// the storage knows it will sign a token which lives until expires.
func (k *Keyring) ForSigning(ctx context.Context, storage logical.Storage, name string, expires time.Time) (*Version, error) {
	key, err := k.Get(ctx, storage, name)
	if err != nil {
		return nil, err
	}
	if key == nil {
		return nil, badinput.Field("key", "%q does not exist; create it with keys/%s", name, name)
	}
	version, err := key.SigningVersion()
	if err != nil || !expires.After(version.SignedUntil) {
		return version, err
	}
	return k.extendHorizon(ctx, storage, name, expires)
}

func (k *Keyring) extendHorizon(ctx context.Context, storage logical.Storage, name string, expires time.Time) (*Version, error) {
	k.changes.Lock()
	defer k.changes.Unlock()
	key, err := k.entries.Read(ctx, storage, name)
	if err != nil {
		return nil, err
	}
	if key == nil {
		return nil, badinput.Field("key", "%q was deleted", name)
	}
	version, err := key.SigningVersion()
	if err != nil || !expires.After(version.SignedUntil) {
		return version, err
	}
	version.SignedUntil = expires.Add(horizonStep)
	return version, k.put(ctx, storage, key)
}

func (k *Keyring) put(ctx context.Context, storage logical.Storage, key *Key) error {
	defer k.ring.Drop()
	return k.entries.Put(ctx, storage, key.Name, key)
}

// load returns all keys, from memory if they are there.
func (k *Keyring) load(ctx context.Context, storage logical.Storage) (*ring, error) {
	return k.ring.Get(func() (*ring, error) {
		names, err := k.List(ctx, storage)
		if err != nil {
			return nil, err
		}
		slices.Sort(names)
		r := &ring{keys: map[string]*Key{}, byID: map[string]*Version{}}
		set := jose.JSONWebKeySet{Keys: []jose.JSONWebKey{}}
		for _, name := range names {
			key, err := k.entries.Read(ctx, storage, name)
			if err != nil {
				return nil, err
			}
			if key == nil {
				continue // deleted since it was listed
			}
			r.keys[name] = key
			for _, version := range key.Versions {
				r.byID[version.ID] = version
				set.Keys = append(set.Keys, version.JWK())
			}
		}
		if r.jwks, err = json.Marshal(set); err != nil {
			return nil, fmt.Errorf("encode JWKS: %w", err)
		}
		return r, nil
	})
}
