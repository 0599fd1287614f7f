// Package storetest is a storage for tests, which counts and fails on demand.
package storetest

import (
	"context"
	"errors"
	"slices"
	"strings"
	"sync"
	"sync/atomic"

	"github.com/hashicorp/vault/sdk/logical"
)

// ErrInjected is what a storage returns that was told to fail.
var ErrInjected = errors.New("injected storage failure")

// Op is an operation of the storage.
type Op string

// The operations of the storage.
const (
	Get    Op = "get"
	List   Op = "list"
	Put    Op = "put"
	Delete Op = "delete"
)

// Hook sees an operation; an error that it returns is the operation's.
type Hook func(op Op, key string) error

// Storage is a storage in memory; its zero value is empty.
type Storage struct {
	logical.InmemStorage
	Reads, Writes atomic.Int64 // operations so far, failed ones included
	before, after atomic.Pointer[Hook]

	mu   sync.Mutex
	late string // prefix of the keys whose writes come late; "" is none
	held []func() error
}

// Hold makes writes below a prefix fail, and yet take effect: when Land is called.
func (s *Storage) Hold(prefix string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.late = prefix
}

// Land does what Hold has kept, in the order of perm, or as it came if perm is
// nil, and holds no more.
func (s *Storage) Land(perm []int) error {
	s.mu.Lock()
	held := s.held
	s.held, s.late = nil, ""
	s.mu.Unlock()
	var failed []error
	for i := range held {
		if perm != nil {
			i = perm[i]
		}
		failed = append(failed, held[i]())
	}
	return errors.Join(failed...)
}

// hold reports whether a write is kept for later.
func (s *Storage) hold(key string, write func() error) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.late == "" || !strings.HasPrefix(key, s.late) {
		return false
	}
	s.held = append(s.held, write)
	return true
}

// Held returns how many writes are kept for later.
func (s *Storage) Held() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.held)
}

// Before sets a hook ahead of each operation, which its error prevents.
func (s *Storage) Before(hook Hook) { s.before.Store(&hook) }

// After sets a hook behind each operation, which its error hides: a lost reply.
func (s *Storage) After(hook Hook) { s.after.Store(&hook) }

// Heal removes the hooks.
func (s *Storage) Heal() { s.before.Store(nil); s.after.Store(nil) }

// Fail returns a hook that fails some operations on keys with a prefix.
func Fail(prefix string, ops ...Op) Hook {
	return func(op Op, key string) error {
		if strings.HasPrefix(key, prefix) && slices.Contains(ops, op) {
			return ErrInjected
		}
		return nil
	}
}

// Count returns how many operations take place in do.
func (s *Storage) Count(do func()) (reads, writes int64) {
	reads, writes = s.Reads.Load(), s.Writes.Load()
	do()
	return s.Reads.Load() - reads, s.Writes.Load() - writes
}

// Get implements logical.Storage.
func (s *Storage) Get(ctx context.Context, key string) (entry *logical.StorageEntry, err error) {
	err = s.run(&s.Reads, Get, key, func() (err error) { entry, err = s.InmemStorage.Get(ctx, key); return err })
	return entry, err
}

// List implements logical.Storage.
func (s *Storage) List(ctx context.Context, prefix string) (names []string, err error) {
	err = s.run(&s.Reads, List, prefix, func() (err error) { names, err = s.InmemStorage.List(ctx, prefix); return err })
	return names, err
}

// Put implements logical.Storage.
func (s *Storage) Put(ctx context.Context, entry *logical.StorageEntry) error {
	return s.run(&s.Writes, Put, entry.Key, func() error {
		if s.hold(entry.Key, func() error { return s.InmemStorage.Put(context.WithoutCancel(ctx), entry) }) {
			return ErrInjected
		}
		return s.InmemStorage.Put(ctx, entry)
	})
}

// Delete implements logical.Storage.
func (s *Storage) Delete(ctx context.Context, key string) error {
	return s.run(&s.Writes, Delete, key, func() error {
		if s.hold(key, func() error { return s.InmemStorage.Delete(context.WithoutCancel(ctx), key) }) {
			return ErrInjected
		}
		return s.InmemStorage.Delete(ctx, key)
	})
}

func (s *Storage) run(count *atomic.Int64, op Op, key string, do func() error) error {
	count.Add(1)
	if hook := s.before.Load(); hook != nil {
		if err := (*hook)(op, key); err != nil {
			return err
		}
	}
	err := do()
	if hook := s.after.Load(); hook != nil && err == nil {
		err = (*hook)(op, key)
	}
	return err
}
