// Package store keeps typed values in Vault's storage as JSON, with a bounded
// cache in front that is never staler than the storage.
package store

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"sync"

	"github.com/hashicorp/golang-lru/v2/simplelru"
	"github.com/hashicorp/vault/sdk/helper/locksutil"
	"github.com/hashicorp/vault/sdk/logical"
)

// Store holds values of one kind, each under prefix + name. Values that it
// returns are shared: treat them as immutable, and Put a changed copy.
type Store[V any] struct {
	prefix string
	path   func(name string) string
	locks  []*locksutil.LockEntry

	mu      sync.Mutex
	cache   *simplelru.LRU[string, *V]
	loading map[string][]*load // reads of the storage under way, by name
}

// load is one read of the storage; stale says that the name changed meanwhile,
// so that what was read must not enter the cache.
type load struct{ stale bool }

// New returns a store under prefix ("role/"), which caches at most size values.
func New[V any](prefix string, size int) *Store[V] {
	return NewSharded[V](prefix, size, func(name string) string { return name })
}

// NewSharded is New for values that lie below the prefix at path(name), whose
// last segment is the name, so that no folder of the storage grows too large
// to be listed.
func NewSharded[V any](prefix string, size int, path func(name string) string) *Store[V] {
	cache, err := simplelru.NewLRU[string, *V](size, nil)
	if err != nil {
		panic(err) // a size below one is a mistake in the program
	}
	return &Store[V]{
		prefix:  prefix,
		path:    path,
		locks:   locksutil.CreateLocks(),
		cache:   cache,
		loading: map[string][]*load{},
	}
}

// Lock takes the write lock of a name and returns what releases it. Hold it
// around every read-modify-write; never hold two of one store.
func (s *Store[V]) Lock(name string) (unlock func()) {
	lock := locksutil.LockForKey(s.locks, name)
	lock.Lock()
	return lock.Unlock
}

// Get returns the value, or nil if there is none. It reads the storage at most
// once, and not at all when the value is cached. Absence is not cached, so
// that look-ups of made-up names cannot push real values out.
func (s *Store[V]) Get(ctx context.Context, storage logical.Storage, name string) (*V, error) {
	s.mu.Lock()
	if value, ok := s.cache.Get(name); ok {
		s.mu.Unlock()
		return value, nil
	}
	this := &load{}
	s.loading[name] = append(s.loading[name], this)
	s.mu.Unlock()

	value, err := s.Read(ctx, storage, name)

	s.mu.Lock()
	defer s.mu.Unlock()
	s.finish(name, this)
	if err != nil || value == nil {
		return nil, err
	}
	if !this.stale {
		s.cache.Add(name, value)
	}
	return value, nil
}

// Read returns what the storage holds now, past the cache; nil if nothing.
// What cannot be decoded is an error: it must never pass for absent.
func (s *Store[V]) Read(ctx context.Context, storage logical.Storage, name string) (*V, error) {
	entry, err := storage.Get(ctx, s.prefix+s.path(name))
	if err != nil {
		return nil, fmt.Errorf("read %s%s: %w", s.prefix, name, err)
	}
	if entry == nil {
		return nil, nil
	}
	value := new(V)
	if err := json.Unmarshal(entry.Value, value); err != nil {
		return nil, fmt.Errorf("decode %s%s: %w", s.prefix, name, err)
	}
	return value, nil
}

// Put writes the value. On an error the storage may hold either the old or the
// new one; the cache then holds neither.
func (s *Store[V]) Put(ctx context.Context, storage logical.Storage, name string, value *V) error {
	raw, err := json.Marshal(value)
	if err != nil {
		return fmt.Errorf("encode %s%s: %w", s.prefix, name, err)
	}
	err = storage.Put(ctx, &logical.StorageEntry{Key: s.prefix + s.path(name), Value: raw})

	s.mu.Lock()
	defer s.mu.Unlock()
	s.drop(name)
	if err != nil {
		return fmt.Errorf("write %s%s: %w", s.prefix, name, err)
	}
	s.cache.Add(name, value)
	return nil
}

// Delete removes the value; removing what is not there is no error.
func (s *Store[V]) Delete(ctx context.Context, storage logical.Storage, name string) error {
	err := storage.Delete(ctx, s.prefix+s.path(name))

	s.mu.Lock()
	defer s.mu.Unlock()
	s.drop(name)
	if err != nil {
		return fmt.Errorf("delete %s%s: %w", s.prefix, name, err)
	}
	return nil
}

// List returns the names below prefix + folder, in the storage's order.
func (s *Store[V]) List(ctx context.Context, storage logical.Storage, folder string) ([]string, error) {
	names, err := storage.List(ctx, s.prefix+folder)
	if err != nil {
		return nil, fmt.Errorf("list %s%s: %w", s.prefix, folder, err)
	}
	return names, nil
}

// Invalidate drops what is cached of a storage key that changed elsewhere, and
// reports whether the key is one of this store. It does not block on storage.
func (s *Store[V]) Invalidate(key string) bool {
	if !strings.HasPrefix(key, s.prefix) {
		return false
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.drop(key[strings.LastIndexByte(key, '/')+1:])
	return true
}

// drop forgets a name; s.mu is held.
func (s *Store[V]) drop(name string) {
	s.cache.Remove(name)
	for _, load := range s.loading[name] {
		load.stale = true
	}
}

// finish ends one load of a name; s.mu is held.
func (s *Store[V]) finish(name string, done *load) {
	loads := s.loading[name]
	for i, load := range loads {
		if load == done {
			loads[i] = loads[len(loads)-1]
			loads = loads[:len(loads)-1]
			break
		}
	}
	if len(loads) == 0 {
		delete(s.loading, name)
		return
	}
	s.loading[name] = loads
}
