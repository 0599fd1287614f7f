// Package store keeps typed values in Vault's storage as JSON, with a bounded
// cache in front that is never staler than the storage.
package store

import (
	"context"
	"errors"
	"strings"
	"sync"
	"time"

	"github.com/hashicorp/vault/sdk/helper/locksutil"
	"github.com/hashicorp/vault/sdk/logical"
)

// Store is entries with a bounded cache in front. Values that it returns are
// shared: treat them as immutable, and Put a changed copy.
type Store[V any] struct {
	Entries[V]
	options Options
	locks   []*locksutil.LockEntry

	mu      sync.Mutex
	cache   *Cache[string, cached[V]]
	absent  *Cache[string, time.Time]
	loading map[string]*load[V] // reads of the storage under way, by name
}

// Options bound a cache.
type Options struct {
	MaxEntries int
	MaxBytes   int // of the entries as stored; decoded they take some three times as much
	// MaxAbsent is how many names without a value are remembered, so that a flood
	// of them costs few reads, and a name without a value as much time as one with
	// a value. They never push a value out.
	MaxAbsent int
	// MaxAge returns how long a value may be cached, 0 for no limit. A node that
	// only follows another's writes needs one: what tells it of a change can be
	// lost. Nil is no limit.
	MaxAge func() time.Duration
	Clock  func() time.Time // needed with MaxAge
}

type cached[V any] struct {
	value *V
	at    time.Time
}

// load is one read of the storage, which those who ask for the name share.
type load[V any] struct {
	done  chan struct{} // closed when value and err are set
	value *V
	err   error
}

// New returns a store of entries.
func New[V any](entries Entries[V], options Options) *Store[V] {
	s := &Store[V]{
		Entries: entries,
		options: options,
		locks:   locksutil.CreateLocks(),
		cache:   NewCache[string, cached[V]](options.MaxEntries, options.MaxBytes),
		loading: map[string]*load[V]{},
	}
	if options.MaxAbsent > 0 {
		s.absent = NewCache[string, time.Time](options.MaxAbsent, 0)
	}
	return s
}

// Lock takes the write lock of a name and returns what releases it. Hold it
// around every write, and the read that it rests on; never hold two of one store.
func (s *Store[V]) Lock(name string) (unlock func()) {
	lock := locksutil.LockForKey(s.locks, name)
	lock.Lock()
	return lock.Unlock
}

// Get returns the value, or nil if there is none. It reads the storage at most
// once, together with all who ask for the name at the time, and not at all when
// the answer is cached. Who is gone already begins no read.
func (s *Store[V]) Get(ctx context.Context, storage logical.Storage, name string) (*V, error) {
	s.mu.Lock()
	if value, ok := s.known(name); ok {
		s.mu.Unlock()
		return value, nil
	}
	if under := s.loading[name]; under != nil {
		s.mu.Unlock()
		select {
		case <-under.done:
			return under.value, under.err
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
	if err := ctx.Err(); err != nil {
		s.mu.Unlock()
		return nil, err
	}
	this := &load[V]{done: make(chan struct{}), err: errors.New("reading the storage panicked")}
	s.loading[name] = this
	s.mu.Unlock()

	size := 0
	defer func() { s.finish(name, this, size) }()
	ctx, cancel := Detach(ctx) // others may wait for it
	defer cancel()
	this.value, size, this.err = s.read(ctx, storage, name)
	return this.value, this.err
}

// Peek returns the value as Get does, and does not keep what it reads: one who goes
// through all values must not push out those that requests need.
func (s *Store[V]) Peek(ctx context.Context, storage logical.Storage, name string) (*V, error) {
	s.mu.Lock()
	value, ok := s.known(name)
	s.mu.Unlock()
	if ok {
		return value, nil
	}
	return s.Read(ctx, storage, name)
}

// known returns what the cache has of a name; s.mu is held.
func (s *Store[V]) known(name string) (value *V, ok bool) {
	if c, ok := s.cache.Get(name); ok && s.young(c.at) {
		return c.value, true
	}
	if s.absent == nil {
		return nil, false
	}
	at, ok := s.absent.Get(name)
	return nil, ok && s.young(at)
}

func (s *Store[V]) young(at time.Time) bool {
	if s.options.MaxAge == nil {
		return true
	}
	limit := s.options.MaxAge()
	age := s.options.Clock().Sub(at)
	return limit == 0 || age >= 0 && age < limit
}

func (s *Store[V]) now() time.Time {
	if s.options.Clock == nil {
		return time.Time{}
	}
	return s.options.Clock()
}

// finish ends a load. Its result enters the cache, unless the name changed
// meanwhile: drop took the load out of s.loading then.
func (s *Store[V]) finish(name string, done *load[V], size int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.loading[name] == done {
		delete(s.loading, name)
		switch {
		case done.err != nil:
		case done.value != nil:
			s.cache.Add(name, cached[V]{done.value, s.now()}, size)
		case s.absent != nil:
			s.absent.Add(name, s.now(), 0)
		}
	}
	close(done.done)
}

// Put writes the value. On an error the storage may hold either the old or the
// new one; the cache then holds neither.
func (s *Store[V]) Put(ctx context.Context, storage logical.Storage, name string, value *V) error {
	size, err := s.put(ctx, storage, name, value)

	s.mu.Lock()
	defer s.mu.Unlock()
	s.drop(name)
	if err == nil {
		s.cache.Add(name, cached[V]{value, s.now()}, size)
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

// Cached returns how many values are cached, and how many bytes they take in the
// storage.
func (s *Store[V]) Cached() (entries, bytes int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.cache.Len(), s.cache.Bytes()
}

// drop forgets a name. Who asks from now on does not join a load that is under
// way, since it may have seen the old value; s.mu is held.
func (s *Store[V]) drop(name string) {
	s.cache.Remove(name)
	if s.absent != nil {
		s.absent.Remove(name)
	}
	delete(s.loading, name)
}
