package backend

import (
	"context"

	"github.com/hashicorp/vault/sdk/logical"

	"github.com/vault-tokens/vault-plugin-secrets-tokens/backend/keyring"
	"github.com/vault-tokens/vault-plugin-secrets-tokens/backend/usererror"
)

// RotateKey rotates a signing key; in an emergency, it drops all that the key
// has signed. A retired version stays published for the status lists it signed.
func (e *Engine) RotateKey(ctx context.Context, storage logical.Storage, name string, emergency bool) (*keyring.Rotation, error) {
	if emergency {
		return e.Keys.EmergencyRotate(ctx, storage, name)
	}
	c, err := e.Config.Get(ctx, storage)
	if err != nil {
		return nil, err
	}
	return e.Keys.Rotate(ctx, storage, name, c.StatusListLifetime)
}

// DeleteKey removes a signing key that no role names and no live token was
// signed with, and reports whether there was one.
func (e *Engine) DeleteKey(ctx context.Context, storage logical.Storage, name string) (bool, error) {
	user, err := e.roleWithKey(ctx, storage, name)
	if err != nil {
		return false, err
	}
	if user != "" {
		return false, usererror.Field("name", "key %q is used by role %q; delete the role or give it another key first", name, user)
	}
	return e.Keys.Delete(ctx, storage, name)
}

// roleWithKey returns a role that names the key, or "".
func (e *Engine) roleWithKey(ctx context.Context, storage logical.Storage, key string) (string, error) {
	names, err := e.Roles.List(ctx, storage, "")
	if err != nil {
		return "", err
	}
	for _, name := range names {
		r, err := e.Roles.Get(ctx, storage, name)
		if err != nil {
			return "", err
		}
		if r != nil && r.Key == key {
			return name, nil
		}
	}
	return "", nil
}
