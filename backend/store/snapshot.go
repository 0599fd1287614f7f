package store

import "sync"

// Snapshot is a value derived from many entries, built on demand and dropped
// whenever one of them changes.
type Snapshot[V any] struct {
	building sync.Mutex // one build at a time

	mu         sync.Mutex
	generation uint64
	value      *V
}

// Get returns the value, building it if there is none. A value whose entries
// changed during the build is returned, as of then, but not kept.
func (s *Snapshot[V]) Get(build func() (*V, error)) (*V, error) {
	if value := s.current(); value != nil {
		return value, nil
	}
	s.building.Lock()
	defer s.building.Unlock()

	s.mu.Lock()
	value, generation := s.value, s.generation
	s.mu.Unlock()
	if value != nil {
		return value, nil
	}
	value, err := build()
	if err != nil {
		return nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.generation == generation {
		s.value = value
	}
	return value, nil
}

// Change replaces the value, if there is one, by what change makes of it.
func (s *Snapshot[V]) Change(change func(V) V) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.generation++
	if s.value != nil {
		changed := change(*s.value)
		s.value = &changed
	}
}

// Drop forgets the value.
func (s *Snapshot[V]) Drop() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.generation++
	s.value = nil
}

func (s *Snapshot[V]) current() *V {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.value
}
