package backend

import (
	"context"
	"errors"
	"slices"
	"sync"
	"time"

	"github.com/hashicorp/vault/sdk/logical"

	"github.com/vault-tokens/vault-plugin-secrets-tokens/backend/store"
)

// stalePeriod is how often all references of roles to keys are gone over. One that a
// fault left costs the deletion of its key one read, and nothing else.
const stalePeriod = 24 * time.Hour

// stale is how far this pass over the references is. It is not stored: a node that
// starts begins a pass.
type stale struct {
	mu        sync.Mutex
	key, role string    // the last reference that was looked at
	next      time.Time // when a pass begins
}

// tidyStale goes over the references, until ctx ends, and removes those of roles that
// are gone or name another key.
func (e *Engine) tidyStale(ctx context.Context, storage logical.Storage) error {
	s := &e.stale
	s.mu.Lock()
	defer s.mu.Unlock()
	now := e.clock()
	if now.Before(s.next) && s.next.Sub(now) <= stalePeriod { // else the clock was wrong
		return nil
	}
	keys, err := e.Keys.UsedKeys(ctx, storage)
	if err != nil {
		return err
	}
	slices.Sort(keys)
	for _, key := range keys {
		if key < s.key {
			continue
		}
		roles, err := e.Keys.Uses(ctx, storage, key)
		if err != nil {
			return err
		}
		slices.Sort(roles)
		for _, role := range roles {
			if key == s.key && role <= s.role {
				continue
			}
			if ctx.Err() != nil {
				return nil // the next run goes on
			}
			// What cannot be read counts as naming the key.
			if err := e.releaseUnused(ctx, storage, key, role); err != nil && !errors.Is(err, store.ErrUndecodable) {
				return err
			}
			s.key, s.role = key, role
		}
	}
	s.key, s.role, s.next = "", "", now.Add(stalePeriod)
	return nil
}
