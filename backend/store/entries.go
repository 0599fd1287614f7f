package store

import (
	"context"
	"encoding/json"
	"fmt"

	"github.com/hashicorp/vault/sdk/logical"
)

// Entries is the values of one kind in Vault's storage, as JSON, each at
// prefix + path(name).
type Entries[V any] struct {
	Prefix string // ends in a slash
	// Path places names below the prefix, for kinds that are too many for one
	// folder; its last segment is the name. Nil places them there directly.
	Path func(name string) string
}

// Key returns where the storage has the value of a name.
func (e Entries[V]) Key(name string) string {
	if e.Path == nil {
		return e.Prefix + name
	}
	return e.Prefix + e.Path(name)
}

// Read returns the value, or nil if there is none. What cannot be decoded is an
// error: it must never pass for absent.
func (e Entries[V]) Read(ctx context.Context, storage logical.Storage, name string) (*V, error) {
	entry, err := storage.Get(ctx, e.Key(name))
	if err != nil {
		return nil, fmt.Errorf("read %s%s: %w", e.Prefix, name, err)
	}
	if entry == nil {
		return nil, nil
	}
	value := new(V)
	if err := json.Unmarshal(entry.Value, value); err != nil {
		return nil, fmt.Errorf("decode %s%s: %w", e.Prefix, name, err)
	}
	return value, nil
}

// Put writes the value. On an error the storage may hold either the old or the
// new one.
func (e Entries[V]) Put(ctx context.Context, storage logical.Storage, name string, value *V) error {
	raw, err := json.Marshal(value)
	if err != nil {
		return fmt.Errorf("encode %s%s: %w", e.Prefix, name, err)
	}
	if err := storage.Put(ctx, &logical.StorageEntry{Key: e.Key(name), Value: raw}); err != nil {
		return fmt.Errorf("write %s%s: %w", e.Prefix, name, err)
	}
	return nil
}

// Delete removes the value; removing what is not there is no error.
func (e Entries[V]) Delete(ctx context.Context, storage logical.Storage, name string) error {
	if err := storage.Delete(ctx, e.Key(name)); err != nil {
		return fmt.Errorf("delete %s%s: %w", e.Prefix, name, err)
	}
	return nil
}

// List returns the names below prefix + folder, in the storage's order.
func (e Entries[V]) List(ctx context.Context, storage logical.Storage, folder string) ([]string, error) {
	names, err := storage.List(ctx, e.Prefix+folder)
	if err != nil {
		return nil, fmt.Errorf("list %s%s: %w", e.Prefix, folder, err)
	}
	return names, nil
}
