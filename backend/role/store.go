package role

import (
	"context"
	"errors"

	"github.com/hashicorp/vault/sdk/logical"

	"github.com/vault-tokens/vault-plugin-secrets-tokens/backend/store"
)

const (
	storagePrefix = "role/"
	cachedRoles   = 1 << 12 // bounds the roles in memory
)

// Store keeps the roles of a mount.
type Store struct{ *store.Store[Role] }

// NewStore returns the roles of a mount.
func NewStore() *Store {
	return &Store{store.New(store.Entries[Role]{
		Prefix: storagePrefix,
		Format: 1, // allowed_metadata, require_cnf; not_before_leeway is never left out
	}, store.Options{MaxEntries: cachedRoles})}
}

// Remove deletes a role, and reports whether there was one. One that cannot be
// read can be deleted: nothing is issued by it either way.
func (s *Store) Remove(ctx context.Context, storage logical.Storage, name string) (bool, error) {
	defer s.Lock(name)()
	r, err := s.Get(ctx, storage, name)
	if err != nil && !errors.Is(err, store.ErrUndecodable) || err == nil && r == nil {
		return false, err
	}
	return true, s.Delete(ctx, storage, name)
}
