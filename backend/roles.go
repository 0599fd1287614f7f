package backend

import (
	"context"
	"time"

	"github.com/hashicorp/vault/sdk/logical"

	"github.com/vault-tokens/vault-plugin-secrets-tokens/backend/config"
	"github.com/vault-tokens/vault-plugin-secrets-tokens/backend/keyring"
	"github.com/vault-tokens/vault-plugin-secrets-tokens/backend/role"
	"github.com/vault-tokens/vault-plugin-secrets-tokens/backend/store"
	"github.com/vault-tokens/vault-plugin-secrets-tokens/backend/token"
)

// RoleChange is what ChangeRole did.
type RoleChange struct {
	Role     *role.Role
	Before   *role.Role // nil if it was created or replaced
	Created  bool
	Replaced bool // in place of one that could not be decoded
	Stored   bool // true even with an error, if what follows the write failed
	Ceilings *config.Config
	NewKey   *keyring.Key // the default key, if the role is the first to need it
	ListKey  *ListKey     // nil if nothing was stored
	// Young is how long the key that the role was given has published the version
	// that signs, if that is less than verifiers may cache the key set.
	Young *time.Duration
}

// ChangeRole stores what change makes of a role, if that is valid. If there is
// no such role, or none that can be decoded, it begins with the one that create
// returns. One that a newer version of the plugin wrote is not touched. A key that
// was made is returned even with an error.
func (e *Engine) ChangeRole(ctx context.Context, storage logical.Storage, name string, create func() (*role.Role, error), change func(r *role.Role, created bool) error) (*RoleChange, error) {
	defer e.Roles.Lock(name)()
	old, unreadable := e.Roles.Get(ctx, storage, name)
	if unreadable != nil && !store.Replaceable(unreadable) {
		return nil, unreadable
	}
	done := &RoleChange{Before: old, Replaced: unreadable != nil, Created: old == nil && unreadable == nil}
	var err error
	if old != nil {
		done.Role = old.Clone()
	} else if done.Role, err = create(); err != nil {
		return nil, err
	}
	if err := change(done.Role, old == nil); err != nil {
		return nil, err
	}
	if done.Ceilings, err = e.Config.Get(ctx, storage); err != nil {
		return nil, err
	}
	if err := done.Role.Validate(done.Ceilings); err != nil {
		return nil, err
	}
	if done.Role.TokenType == role.JWT {
		err = e.putWithKey(ctx, storage, old, done)
	} else {
		err = e.put(ctx, storage, done)
	}
	if err != nil {
		return done, err
	}
	done.ListKey, err = e.EnsureListKey(ctx, storage, done.Ceilings)
	return done, err
}

func (e *Engine) put(ctx context.Context, storage logical.Storage, done *RoleChange) error {
	err := e.Roles.Put(ctx, storage, done.Role.Name, done.Role)
	done.Stored = err == nil
	return err
}

// EndRole revokes every token of a role that was issued until it returns; see
// token.Tokens.EndRole. Their records are removed in the background.
func (e *Engine) EndRole(ctx context.Context, storage logical.Storage, name string) (*token.RoleEnded, error) {
	ended, err := e.Tokens.EndRole(ctx, storage, name)
	if err != nil {
		return nil, err
	}
	e.StartTidy()
	return ended, nil
}
