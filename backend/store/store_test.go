package store

import (
	"context"
	"sync"
	"testing"

	"github.com/hashicorp/vault/sdk/logical"
)

type value struct{ N int }

// gate is a storage whose reads stop half way, after they have seen the data,
// until they are let go.
type gate struct {
	logical.Storage
	seen, release chan struct{}
}

func (g *gate) Get(ctx context.Context, key string) (*logical.StorageEntry, error) {
	entry, err := g.Storage.Get(ctx, key)
	g.seen <- struct{}{}
	<-g.release
	return entry, err
}

// A read that was under way while a value changed must not leave the old one
// in the cache.
func TestReadDuringChange(t *testing.T) {
	ctx := context.Background()
	changes := map[string]func(*Store[value], logical.Storage) error{
		"put":    func(s *Store[value], storage logical.Storage) error { return s.Put(ctx, storage, "a", &value{2}) },
		"delete": func(s *Store[value], storage logical.Storage) error { return s.Delete(ctx, storage, "a") },
		"invalidate": func(s *Store[value], storage logical.Storage) error {
			err := storage.Delete(ctx, "kind/a")
			s.Invalidate("kind/a")
			return err
		},
	}
	for name, change := range changes {
		t.Run(name, func(t *testing.T) {
			storage := &logical.InmemStorage{}
			if err := New(Entries[value]{Prefix: "kind/"}, Options{MaxEntries: 8}).Put(ctx, storage, "a", &value{1}); err != nil {
				t.Fatal(err)
			}
			s := New(Entries[value]{Prefix: "kind/"}, Options{MaxEntries: 8})
			slow := &gate{storage, make(chan struct{}), make(chan struct{})}
			var reader sync.WaitGroup
			reader.Go(func() { s.Get(ctx, slow, "a") })
			<-slow.seen
			if err := change(s, storage); err != nil {
				t.Fatal(err)
			}
			close(slow.release)
			reader.Wait()

			got, err := s.Get(ctx, storage, "a")
			if err != nil {
				t.Fatal(err)
			}
			if got != nil && got.N == 1 {
				t.Error("the old value is cached")
			}
			if len(s.loading) != 0 {
				t.Errorf("%d reads are still counted as under way", len(s.loading))
			}
		})
	}
}

func TestUndecodableIsAnError(t *testing.T) {
	ctx, storage := context.Background(), &logical.InmemStorage{}
	if err := storage.Put(ctx, &logical.StorageEntry{Key: "kind/a", Value: []byte("{")}); err != nil {
		t.Fatal(err)
	}
	if got, err := New(Entries[value]{Prefix: "kind/"}, Options{MaxEntries: 8}).Get(ctx, storage, "a"); err == nil {
		t.Errorf("read %v without an error", got)
	}
}

func TestCacheIsBounded(t *testing.T) {
	ctx, storage := context.Background(), &logical.InmemStorage{}
	s := New(Entries[value]{Prefix: "kind/"}, Options{MaxEntries: 8})
	for n := range 100 {
		name := string(rune('A' + n))
		if err := s.Put(ctx, storage, name, &value{n}); err != nil {
			t.Fatal(err)
		}
	}
	if n := s.cache.Len(); n != 8 {
		t.Errorf("%d values are cached, want 8", n)
	}
	if got, err := s.Get(ctx, storage, "A"); err != nil || got == nil || got.N != 0 {
		t.Errorf("what left the cache reads as %v, %v", got, err)
	}
	if _, err := s.Get(ctx, storage, "absent"); err != nil {
		t.Error(err)
	}
	if s.absent != nil || s.cache.Len() != 8 {
		t.Error("absence is cached")
	}
}

func TestSnapshotDroppedWhileBuilding(t *testing.T) {
	var s Snapshot[value]
	if _, err := s.Get(func() (*value, error) { s.Drop(); return &value{1}, nil }); err != nil {
		t.Fatal(err)
	}
	got, err := s.Get(func() (*value, error) { return &value{2}, nil })
	if err != nil || got.N != 2 {
		t.Errorf("got %v, %v: what was dropped is kept", got, err)
	}
}
