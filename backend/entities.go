package backend

import (
	"context"
	"errors"
	"slices"
	"time"

	"github.com/hashicorp/vault/sdk/logical"

	"github.com/vault-tokens/vault-plugin-secrets-tokens/backend/cutoff"
	"github.com/vault-tokens/vault-plugin-secrets-tokens/backend/store"
)

const (
	// maxUntracked bounds the names of roles in the answer to a cut-off.
	maxUntracked = 100
	// untrackedBudget bounds how long roles are read for it: the cut-off is in effect.
	untrackedBudget = 2 * time.Second
)

// EntityEnd is the end of all tokens that an entity was issued until then.
type EntityEnd struct {
	ID        string
	RevokedAt time.Time
	// Tidied: every record has been looked at since. Those of the entity are gone,
	// and the tokens that had one are marked in their status list.
	Tidied bool
}

// EndEntity revokes every token that an entity was issued until now: introspection
// refuses them from now on. Their records are ended in the background.
func (e *Engine) EndEntity(ctx context.Context, storage logical.Storage, id string) (*EntityEnd, error) {
	at, err := e.Cutoffs.EndEntity(ctx, storage, id)
	if err != nil {
		return nil, err
	}
	e.StartTidy()
	return &EntityEnd{ID: id, RevokedAt: at}, nil
}

// Entity returns when the tokens of an entity were revoked, or nil if they were not.
func (e *Engine) Entity(ctx context.Context, storage logical.Storage, id string) (*EntityEnd, error) {
	if err := cutoff.ValidateEntity("id", id); err != nil {
		return nil, err
	}
	entry, err := e.Cutoffs.ReadEntity(ctx, storage, id)
	if err != nil || entry == nil {
		return nil, err
	}
	last, err := e.Tokens.LastComplete(ctx, storage)
	if err != nil {
		return nil, err
	}
	tidied := last != nil && last.Failed == 0 && !last.StartedAt.Before(entry.At)
	return &EntityEnd{ID: id, RevokedAt: entry.At, Tidied: tidied}, nil
}

// Untracked is the roles whose tokens have no record, which a kill switch of an
// entity could find.
type Untracked struct {
	Roles []string // some of them, sorted
	Count int
	More  bool // there may be more: not all roles were looked at
}

// Untracked returns the roles whose tokens are not tracked. It looks at roles for a
// bounded time.
func (e *Engine) Untracked(ctx context.Context, storage logical.Storage) (*Untracked, error) {
	ctx, cancel := context.WithTimeout(ctx, untrackedBudget)
	defer cancel()
	found := &Untracked{Roles: []string{}}
	names, err := e.Roles.List(ctx, storage, "")
	if err != nil {
		return nil, err
	}
	slices.Sort(names)
	for _, name := range names {
		r, err := e.Roles.Get(ctx, storage, name)
		switch {
		case ctx.Err() != nil:
			found.More = true
			return found, nil
		case errors.Is(err, store.ErrUndecodable):
			found.More = true // it issues nothing, and may have
		case err != nil:
			return nil, err
		case r == nil || r.TokenType.Opaque() || r.Track:
		default:
			if found.Count++; len(found.Roles) < maxUntracked {
				found.Roles = append(found.Roles, name)
			}
		}
	}
	return found, nil
}
