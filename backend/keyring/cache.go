package keyring

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/hashicorp/vault/sdk/logical"

	"github.com/vault-tokens/vault-plugin-secrets-tokens/backend/store"
)

// loadTimeout bounds one load of a key. A load goes on when who asked for it hangs
// up, since others may wait for it, and what was read once stays.
const loadTimeout = 30 * time.Second

// cache is the keys in memory. Each is loaded and dropped by itself.
type cache struct {
	mu       sync.Mutex // never held during I/O
	listed   bool       // slots has all keys, loaded or not
	slots    map[string]*slot
	byID     map[string]*Version // of the keys that are loaded
	horizons map[string]horizon  // by key
	set      *KeySet             // nil when there was a change since
	changes  uint64              // of what is published
	problems map[aspect]string   // as reported

	building chan struct{} // held by who makes the key set
}

// aspect is what a problem is about.
type aspect struct{ key, of string }

// What there can be problems with, of a key.
const (
	ofEntry    = "entry"
	ofHorizon  = "horizon"
	ofRotation = "rotation"
)

// slot is one key in memory. A change replaces the slot, so that a load which is
// under way ends in one that nobody looks at.
type slot struct {
	done   chan struct{} // closed when the load ends; nil if there is none
	loaded bool
	key    *Key  // nil if there is none, or it cannot be decoded
	err    error // ErrUndecodable; while nobody has loaded it, how the last load failed
}

// KeySet is what is published of the keys. It is made once per change.
type KeySet struct {
	JWKS       []byte   // JSON Web Key Set (RFC 7517 §5)
	Algorithms []string // that tokens may be signed with
}

func newCache() cache {
	return cache{
		slots:    map[string]*slot{},
		byID:     map[string]*Version{},
		horizons: map[string]horizon{},
		problems: map[aspect]string{},
		building: make(chan struct{}, 1),
	}
}

// Invalidate drops what is cached when a storage key changed elsewhere: one key,
// or its horizon.
func (k *Keyring) Invalidate(key string) bool {
	if name, ok := strings.CutPrefix(key, StoragePrefix); ok {
		k.replace(name, &slot{})
		return true
	}
	if name, ok := strings.CutPrefix(key, horizonPrefix); ok {
		k.mu.Lock()
		defer k.mu.Unlock()
		delete(k.horizons, name)
		return true
	}
	return strings.HasPrefix(key, usePrefix)
}

// drop forgets a key, of which the storage may hold either of two states.
func (k *Keyring) drop(name string) { k.replace(name, &slot{}) }

// keep sets a key as it was just written; nil if it was deleted.
func (k *Keyring) keep(name string, key *Key) { k.replace(name, &slot{loaded: true, key: key}) }

func (k *Keyring) replace(name string, s *slot) {
	k.mu.Lock()
	defer k.mu.Unlock()
	old := k.slots[name]
	if old != nil {
		k.unindex(old.key)
	}
	if s.loaded && s.key == nil && k.listed {
		delete(k.slots, name)
	} else {
		k.slots[name] = s
	}
	k.index(s.key)
	k.changes++
	k.set = nil
}

// index makes the versions of a key found by their ids; k.mu is held.
func (k *Keyring) index(key *Key) {
	if key == nil {
		return
	}
	for _, v := range key.Versions {
		if v.Problem == "" {
			k.byID[v.ID] = v
		}
	}
}

func (k *Keyring) unindex(key *Key) {
	if key == nil {
		return
	}
	for _, v := range key.Versions {
		if k.byID[v.ID] == v {
			delete(k.byID, v.ID)
		}
	}
}

// load returns a key, from memory if it is there, or nil if there is none. All who
// ask for it at the time share one read of the storage; who is gone already begins
// none.
func (k *Keyring) load(ctx context.Context, storage logical.Storage, name string) (*Key, error) {
	k.mu.Lock()
	s := k.slots[name]
	if s == nil && k.listed {
		k.mu.Unlock()
		return nil, nil
	}
	if err := ctx.Err(); err != nil && (s == nil || !s.loaded && s.done == nil) {
		k.mu.Unlock()
		return nil, err
	}
	if s == nil {
		s = &slot{}
		k.slots[name] = s
	}
	if s.loaded {
		k.mu.Unlock()
		return s.key, s.err
	}
	if done := s.done; done != nil {
		k.mu.Unlock()
		select {
		case <-done:
			return s.key, s.err
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
	s.done = make(chan struct{})
	s.err = errors.New("reading the storage panicked")
	k.mu.Unlock()

	var key *Key
	err := s.err
	defer func() { k.finish(name, s, key, err) }()
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), loadTimeout)
	defer cancel()
	key, err = k.read(ctx, storage, name)
	return key, err
}

// finish ends a load. What it read stays in memory unless the key has changed
// meanwhile.
func (k *Keyring) finish(name string, s *slot, key *Key, err error) {
	undecodable := errors.Is(err, store.ErrUndecodable)
	k.mu.Lock()
	s.key, s.err = key, err
	close(s.done)
	current := k.slots[name] == s
	if current {
		switch {
		case err != nil && !undecodable:
			k.forget(name) // and try again
		case key == nil && err == nil:
			delete(k.slots, name)
		default:
			s.loaded = true
			k.index(key)
		}
	}
	k.mu.Unlock()
	if current && (err == nil || undecodable) {
		k.reportEntry(name, key, err)
	}
}

// forget lets the next who asks for a key load it anew; k.mu is held.
func (k *Keyring) forget(name string) {
	if k.listed {
		k.slots[name] = &slot{}
	} else {
		delete(k.slots, name)
	}
}

// read reads a key from the storage.
func (k *Keyring) read(ctx context.Context, storage logical.Storage, name string) (*Key, error) {
	stored, err := k.entries.Read(ctx, storage, name)
	if err == nil && stored != nil {
		var key *Key
		if key, err = stored.decode(name); err == nil {
			return key, nil
		}
	}
	if errors.Is(err, store.ErrUndecodable) {
		return nil, fmt.Errorf("%w; %s", err, remedy(name, err))
	}
	return nil, err
}

// remedy tells what to do about a key that cannot be decoded.
func remedy(name string, err error) string {
	if errors.Is(err, store.ErrNewer) {
		return fmt.Sprintf("its tokens are refused until that version runs, or delete keys/%s", name)
	}
	return fmt.Sprintf("its tokens are refused. Restore the entry from a backup, replace the key by writing keys/%s with algorithm, allowed_roles and allowed_audiences, or delete it", name)
}

// report reports what is wrong with a key, nil if nothing is, once per change.
func (k *Keyring) report(name, of string, err error) {
	about := aspect{name, of}
	k.mu.Lock()
	known := k.problems[about]
	if err == nil {
		delete(k.problems, about)
	} else {
		k.problems[about] = err.Error()
	}
	k.mu.Unlock()
	if err != nil && err.Error() != known && k.Report != nil {
		k.Report(name, err)
	}
}

// reportEntry reports what is wrong with a key as it was read or written.
func (k *Keyring) reportEntry(name string, key *Key, err error) {
	if err == nil && key != nil {
		err = key.problem()
	}
	k.report(name, ofEntry, err)
}

// Problem returns what is wrong with a key as far as this node knows, or "": why
// it cannot be read, sign, or be rotated by itself.
func (k *Keyring) Problem(name string) string {
	k.mu.Lock()
	defer k.mu.Unlock()
	var problems []string
	for _, of := range []string{ofEntry, ofHorizon, ofRotation} {
		if problem := k.problems[aspect{name, of}]; problem != "" {
			problems = append(problems, problem)
		}
	}
	return strings.Join(problems, "; ")
}

// list makes sure that the names of all keys are in memory.
func (k *Keyring) list(ctx context.Context, storage logical.Storage) error {
	k.mu.Lock()
	listed := k.listed
	k.mu.Unlock()
	if listed {
		return nil
	}
	names, err := k.entries.List(ctx, storage, "")
	if err != nil {
		return err
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	for _, name := range names {
		// What changed during the listing has a slot already.
		if k.slots[name] == nil {
			k.slots[name] = &slot{}
		}
	}
	k.listed = true
	return nil
}

// loadAll returns all keys that can be decoded. Those that are in memory are not
// read again, whatever becomes of the others.
func (k *Keyring) loadAll(ctx context.Context, storage logical.Storage) (map[string]*Key, error) {
	if err := k.list(ctx, storage); err != nil {
		return nil, err
	}
	k.mu.Lock()
	names := slices.Sorted(maps.Keys(k.slots))
	k.mu.Unlock()
	keys := map[string]*Key{}
	var failed []error
	for _, name := range names {
		key, err := k.load(ctx, storage, name)
		switch {
		case errors.Is(err, store.ErrUndecodable): // that key's affair, and reported
		case err != nil:
			failed = append(failed, err)
		case key != nil:
			keys[name] = key
		}
		if ctx.Err() != nil || len(failed) >= maxFailures {
			break
		}
	}
	return keys, errors.Join(append(failed, ctx.Err())...)
}

// KeySet returns what is published of all keys.
func (k *Keyring) KeySet(ctx context.Context, storage logical.Storage) (*KeySet, error) {
	if set := k.currentSet(); set != nil {
		return set, nil
	}
	select {
	case k.building <- struct{}{}:
		defer func() { <-k.building }()
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	k.mu.Lock()
	set, changes := k.set, k.changes
	k.mu.Unlock()
	if set != nil {
		return set, nil // made while this call waited
	}
	keys, err := k.loadAll(ctx, storage)
	if err != nil {
		return nil, err
	}
	set = newKeySet(keys)
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.changes == changes {
		k.set = set
	}
	return set, nil
}

func (k *Keyring) currentSet() *KeySet {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.set
}

func newKeySet(keys map[string]*Key) *KeySet {
	set := &KeySet{}
	var jwks [][]byte
	for _, name := range slices.Sorted(maps.Keys(keys)) {
		key := keys[name]
		if !slices.Contains(set.Algorithms, key.Algorithm) {
			set.Algorithms = append(set.Algorithms, key.Algorithm)
		}
		for _, v := range key.Versions {
			if v.Problem == "" {
				jwks = append(jwks, v.jwk)
			}
		}
	}
	set.JWKS = slices.Concat([]byte(`{"keys":[`), bytes.Join(jwks, []byte(",")), []byte(`]}`))
	return set
}

// versions returns how many versions there are of the keys in memory.
func (k *Keyring) versions() int {
	k.mu.Lock()
	defer k.mu.Unlock()
	n := 0
	for _, s := range k.slots {
		if s.key != nil {
			n += len(s.key.Versions)
		}
	}
	return n
}
