// Package store keeps typed values in Vault's storage as JSON, with a bounded
// cache in front that is never staler than the storage.
package store

import (
	"context"
	"strings"
	"sync"

	"github.com/hashicorp/golang-lru/v2/simplelru"
	"github.com/hashicorp/vault/sdk/helper/locksutil"
	"github.com/hashicorp/vault/sdk/logical"
)

// Store is entries with a bounded cache in front. Values that it returns are
// shared: treat them as immutable, and Put a changed copy.
type Store[V any] struct {
	Entries[V]
	locks []*locksutil.LockEntry

	mu      sync.Mutex
	cache   *simplelru.LRU[string, *V]
	loading map[string][]*load // reads of the storage under way, by name
}

// load is one read of the storage. It is stale if the name changed meanwhile: what
// was read must not enter the cache then.
type load struct{ stale bool }

// New returns a store of entries, which caches at most size values.
func New[V any](entries Entries[V], size int) *Store[V] {
	cache, err := simplelru.NewLRU[string, *V](size, nil)
	if err != nil {
		panic(err) // a size below one is a mistake in the program
	}
	return &Store[V]{
		Entries: entries,
		locks:   locksutil.CreateLocks(),
		cache:   cache,
		loading: map[string][]*load{},
	}
}

// Lock takes the write lock of a name and returns what releases it. Hold it
// around every write, and the read that it rests on; never hold two of one store.
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

// Put writes the value. On an error the storage may hold either the old or the
// new one; the cache then holds neither.
func (s *Store[V]) Put(ctx context.Context, storage logical.Storage, name string, value *V) error {
	err := s.Entries.Put(ctx, storage, name, value)

	s.mu.Lock()
	defer s.mu.Unlock()
	s.drop(name)
	if err == nil {
		s.cache.Add(name, value)
	}
	return err
}

// Delete removes the value; removing what is not there is no error.
func (s *Store[V]) Delete(ctx context.Context, storage logical.Storage, name string) error {
	err := s.Entries.Delete(ctx, storage, name)

	s.mu.Lock()
	defer s.mu.Unlock()
	s.drop(name)
	return err
}

// Invalidate drops what is cached of a storage key that changed elsewhere, and
// reports whether the key is one of this store. It does not block on storage.
func (s *Store[V]) Invalidate(key string) bool {
	if !strings.HasPrefix(key, s.Prefix) {
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
