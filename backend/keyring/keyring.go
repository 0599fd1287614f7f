// Package keyring keeps the mount's signing keys and publishes their public
// halves.
package keyring

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/hashicorp/vault/sdk/logical"

	"github.com/vault-tokens/vault-plugin-secrets-tokens/backend/store"
	"github.com/vault-tokens/vault-plugin-secrets-tokens/backend/usererror"
)

// StoragePrefix is where keys are stored; it is seal-wrapped if the seal supports it.
const StoragePrefix = "key/"

// reserveAhead is how far beyond the need SignedUntil is written, so that signing
// writes storage once in that time and not once per token.
const reserveAhead = 10 * time.Minute

// MinRotationPeriod gives verifiers time to fetch a key before it signs: it is
// longer than a key set may be cached.
const MinRotationPeriod = 2 * MaxCacheTime

// MaxCacheTime bounds how long a verifier may keep the key set.
const MaxCacheTime = 5 * time.Minute

const (
	// maxKeys and maxVersions bound what the unauthenticated JWKS and an entry
	// of the storage can grow to.
	maxKeys         = 1000
	maxVersions     = 100
	maxAllowedRoles = 100
)

var rolePattern = regexp.MustCompile(`^[A-Za-z0-9_.*-]{1,128}$`)

// Keyring is all signing keys of a mount. Its keys are few, so it holds all of
// them in memory and drops them together.
type Keyring struct {
	entries store.Entries[Key]
	changes sync.Mutex // serializes changes of keys
	ring    store.Snapshot[ring]
	clock   func() time.Time
}

// ring is the keys as they were at one moment.
type ring struct {
	keys map[string]*Key
	byID map[string]*Version // what is published
	jwks []byte
	algs []string // of all keys
}

// New returns the keyring of a mount; keys are loaded on first use.
func New(clock func() time.Time) *Keyring {
	return &Keyring{entries: store.Entries[Key]{Prefix: StoragePrefix}, clock: clock}
}

// Invalidate drops what is cached when a storage key changed elsewhere.
func (k *Keyring) Invalidate(key string) bool {
	ours := strings.HasPrefix(key, StoragePrefix)
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

// Published returns the version with this kid, or nil if it is not, or no longer,
// published.
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

// Algorithms returns the names of the algorithms that tokens may be signed
// with.
func (k *Keyring) Algorithms(ctx context.Context, storage logical.Storage) ([]string, error) {
	r, err := k.load(ctx, storage)
	if err != nil {
		return nil, err
	}
	return r.algs, nil
}

// Settings are what a write of a key may name; nil leaves what is.
type Settings struct {
	Algorithm      *string
	RotationPeriod *time.Duration
	AllowedRoles   *[]string
}

func (s *Settings) validate() error {
	if p := s.RotationPeriod; p != nil && *p != 0 && *p < MinRotationPeriod {
		return usererror.Field("rotation_period", "must be 0 (rotate on demand only) or at least %s, so that verifiers can fetch a key before it signs", MinRotationPeriod)
	}
	if s.AllowedRoles != nil {
		if len(*s.AllowedRoles) > maxAllowedRoles {
			return usererror.Field("allowed_roles", "has %d entries; at most %d are allowed", len(*s.AllowedRoles), maxAllowedRoles)
		}
		for _, pattern := range *s.AllowedRoles {
			if !rolePattern.MatchString(pattern) {
				return usererror.Field("allowed_roles", "%q is not a role's name; * matches any run of characters", pattern)
			}
		}
	}
	return nil
}

// Write changes the settings of a key, or makes the key if there is none. It
// reports whether it made one.
func (k *Keyring) Write(ctx context.Context, storage logical.Storage, name string, settings Settings) (*Key, bool, error) {
	if err := settings.validate(); err != nil {
		return nil, false, err
	}
	k.changes.Lock()
	defer k.changes.Unlock()
	key, err := k.entries.Read(ctx, storage, name)
	if err != nil {
		return nil, false, err
	}
	created := key == nil
	if created {
		if key, err = k.generate(ctx, storage, name, settings.Algorithm); err != nil {
			return nil, false, err
		}
	} else if a := settings.Algorithm; a != nil && *a != key.Algorithm {
		if _, err := parseAlgorithm(*a); err != nil {
			return nil, false, err
		}
		return nil, false, usererror.Field("algorithm", "key %q is %s, and a key's algorithm cannot change; create a key with another name", name, key.Algorithm)
	}
	if settings.RotationPeriod != nil {
		key.RotationPeriod = *settings.RotationPeriod
	}
	if settings.AllowedRoles != nil {
		key.AllowedRoles = *settings.AllowedRoles
	}
	return key, created, k.put(ctx, storage, key)
}

// generate makes a key that is not stored yet: a version that signs, and the
// next one, so that it is published long before it signs.
func (k *Keyring) generate(ctx context.Context, storage logical.Storage, name string, algorithmName *string) (*Key, error) {
	wanted := DefaultAlgorithm
	if algorithmName != nil {
		wanted = *algorithmName
	}
	a, err := parseAlgorithm(wanted)
	if err != nil {
		return nil, err
	}
	names, err := k.List(ctx, storage)
	if err != nil {
		return nil, err
	}
	if len(names) >= maxKeys {
		return nil, usererror.Field("name", "there are %d keys already; delete unused ones first", len(names))
	}
	key := &Key{Name: name, Algorithm: a.name, AllowedRoles: []string{"*"}, CreatedAt: k.clock()}
	return key, errors.Join(
		key.addVersion(a, Signing, k.clock()),
		key.addVersion(a, Next, k.clock()),
	)
}

// Delete removes a key that no live token was signed with, and reports whether
// there was one. The caller has checked that no role names it.
func (k *Keyring) Delete(ctx context.Context, storage logical.Storage, name string) (bool, error) {
	k.changes.Lock()
	defer k.changes.Unlock()
	key, err := k.entries.Read(ctx, storage, name)
	if err != nil || key == nil {
		return false, err
	}
	if key.SignedUntil().After(k.clock()) {
		return false, usererror.Field("name", "key %q has signed tokens that may live until %s; delete it after that", name, key.SignedUntil().UTC().Format(time.RFC3339))
	}
	defer k.ring.Drop()
	return true, k.entries.Delete(ctx, storage, name)
}

// ForSigning returns the version of a key that signs. Before that it makes sure
// that the storage has SignedUntil at expires or later.
func (k *Keyring) ForSigning(ctx context.Context, storage logical.Storage, name, role string, expires time.Time) (*Version, error) {
	key, err := k.Usable(ctx, storage, name, role)
	if err != nil {
		return nil, err
	}
	version, err := key.Signing()
	if err != nil || !expires.After(version.SignedUntil) {
		return version, err
	}
	return k.extendHorizon(ctx, storage, name, expires)
}

// Usable returns the key, if it exists and allows the role.
func (k *Keyring) Usable(ctx context.Context, storage logical.Storage, name, role string) (*Key, error) {
	key, err := k.Get(ctx, storage, name)
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

func (k *Keyring) extendHorizon(ctx context.Context, storage logical.Storage, name string, expires time.Time) (*Version, error) {
	k.changes.Lock()
	defer k.changes.Unlock()
	key, err := k.entries.Read(ctx, storage, name)
	if err != nil {
		return nil, err
	}
	if key == nil {
		return nil, usererror.Field("key", "%q was deleted", name)
	}
	version, err := key.Signing()
	if err != nil || !expires.After(version.SignedUntil) {
		return version, err
	}
	version.SignedUntil = expires.Add(reserveAhead)
	return version, k.put(ctx, storage, key)
}

// put writes a key. Other keys stay in memory.
func (k *Keyring) put(ctx context.Context, storage logical.Storage, key *Key) error {
	if err := k.entries.Put(ctx, storage, key.Name, key); err != nil {
		k.ring.Drop() // the storage may hold either
		return err
	}
	var err error
	k.ring.Change(func(old ring) ring {
		keys := maps.Clone(old.keys)
		keys[key.Name] = key
		var changed ring
		changed, err = newRing(keys)
		return changed
	})
	if err != nil {
		k.ring.Drop()
	}
	return err
}

// load returns all keys, from memory if they are there.
func (k *Keyring) load(ctx context.Context, storage logical.Storage) (*ring, error) {
	return k.ring.Get(func() (*ring, error) {
		names, err := k.List(ctx, storage)
		if err != nil {
			return nil, err
		}
		keys := map[string]*Key{}
		for _, name := range names {
			key, err := k.entries.Read(ctx, storage, name)
			if err != nil {
				return nil, err
			}
			if key != nil { // else deleted since it was listed
				keys[name] = key
			}
		}
		r, err := newRing(keys)
		return &r, err
	})
}

func newRing(keys map[string]*Key) (ring, error) {
	r := ring{keys: keys, byID: map[string]*Version{}}
	set := jose.JSONWebKeySet{Keys: []jose.JSONWebKey{}}
	for _, name := range slices.Sorted(maps.Keys(keys)) {
		key := keys[name]
		if !slices.Contains(r.algs, key.Algorithm) {
			r.algs = append(r.algs, key.Algorithm)
		}
		for _, version := range key.Versions {
			r.byID[version.ID] = version
			set.Keys = append(set.Keys, version.JWK())
		}
	}
	var err error
	if r.jwks, err = json.Marshal(set); err != nil {
		return ring{}, fmt.Errorf("encode JWKS: %w", err)
	}
	return r, nil
}
