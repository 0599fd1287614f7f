package keyring

import (
	"context"
	"errors"
	"slices"
	"strings"

	"github.com/hashicorp/vault/sdk/logical"

	"github.com/vault-tokens/vault-plugin-secrets-tokens/backend/store"
)

// usePrefix is where roles refer to keys, as <key>/<role>: so that deleting a key
// needs to read the roles that may name it, and no others. A reference is written
// before the role that names the key, and removed after it names another one. One
// that is left over means nothing.
const usePrefix = "keyuse/"

// use is a stored reference. Its name says all.
type use struct{}

func useName(key, role string) string { return key + "/" + role }

// Uses returns the roles that refer to a key.
func (k *Keyring) Uses(ctx context.Context, storage logical.Storage, key string) ([]string, error) {
	return k.uses.List(ctx, storage, key+"/")
}

// UsedKeys returns the names of the keys that roles refer to.
func (k *Keyring) UsedKeys(ctx context.Context, storage logical.Storage) ([]string, error) {
	folders, err := k.uses.List(ctx, storage, "")
	for i, folder := range folders {
		folders[i] = strings.TrimSuffix(folder, "/")
	}
	return folders, err
}

// Refer makes a role refer to a key. The caller holds the role's lock.
func (k *Keyring) Refer(ctx context.Context, storage logical.Storage, key, role string) error {
	name := useName(key, role)
	entry, err := storage.Get(ctx, k.uses.Key(name))
	if err != nil || entry != nil {
		return err
	}
	return k.uses.Put(ctx, storage, name, &use{})
}

// Release removes a role's reference to a key that it does not name any more. The
// caller holds the role's lock, unless the key is gone.
func (k *Keyring) Release(ctx context.Context, storage logical.Storage, key, role string) error {
	return k.uses.Delete(ctx, storage, useName(key, role))
}

// Assigned is a key that a role, or the mount, uses from now on.
type Assigned struct {
	Key  *Key
	Made bool // by this call
	Only bool // and there was no other
}

// Assign lets storeRole store a role that names a key, if the key allows the role. With
// mayMake, it makes the key if there is none. The key is neither changed nor
// deleted before storeRole returns. A key that was made is returned even with an error.
// The caller holds the role's lock.
func (k *Keyring) Assign(ctx context.Context, storage logical.Storage, name, role string, mayMake bool, storeRole func(*Key) error) (*Assigned, error) {
	var pairs []*Version
	if mayMake {
		var err error
		if pairs, err = k.prepareMissing(ctx, storage, name); err != nil {
			return nil, err
		}
	}
	unlock, err := k.changing.lock(ctx, name)
	if err != nil {
		return nil, err
	}
	defer unlock()
	done, err := k.makeMissing(ctx, storage, name, pairs)
	if err != nil {
		return nil, err
	}
	if done.Key, err = k.Usable(ctx, storage, name, role); err != nil {
		return done, err
	}
	if err := k.Refer(ctx, storage, name, role); err != nil {
		return done, err
	}
	return done, storeRole(done.Key)
}

// Ensure returns a key, and makes it with the default settings if there is none. One
// that cannot be decoded is a mistake in key.
func (k *Keyring) Ensure(ctx context.Context, storage logical.Storage, name string) (*Assigned, error) {
	key, err := k.readable(ctx, storage, name)
	if key != nil || err != nil {
		return &Assigned{Key: key}, err
	}
	pairs, err := k.prepare(ctx, storage, name, nil)
	if err != nil {
		return nil, err
	}
	unlock, err := k.changing.lock(ctx, name)
	if err != nil {
		return nil, err
	}
	defer unlock()
	return k.makeMissing(ctx, storage, name, pairs)
}

// FirstUse reports whether no verifier can have fetched a key set for a token that
// the key, or another one, signed before it was given to this role: there is no other
// key, no other role refers to it, and its first version signs. In doubt it says no.
func (k *Keyring) FirstUse(ctx context.Context, storage logical.Storage, key *Key, role string) bool {
	names, errNames := k.List(ctx, storage)
	roles, errRoles := k.Uses(ctx, storage, key.Name)
	signing, errSigning := key.Signing()
	return errors.Join(errNames, errRoles, errSigning) == nil &&
		len(names) == 1 && slices.Equal(roles, []string{role}) && signing.Number == 1
}

// makeMissing makes a key of the pairs, if there are any and somebody else has not
// made one meanwhile; the key's lock is held.
func (k *Keyring) makeMissing(ctx context.Context, storage logical.Storage, name string, pairs []*Version) (*Assigned, error) {
	done := &Assigned{}
	if pairs == nil {
		return done, nil
	}
	var err error
	if done.Only, err = k.isEmpty(ctx, storage); err != nil {
		return nil, err
	}
	if done.Key, done.Made, err = k.write(ctx, storage, name, Settings{}, pairs); err != nil {
		return nil, err
	}
	return done, nil
}

// prepareMissing makes the pairs of a key if there is none.
func (k *Keyring) prepareMissing(ctx context.Context, storage logical.Storage, name string) ([]*Version, error) {
	key, err := k.Get(ctx, storage, name)
	if key != nil || err != nil {
		if errors.Is(err, store.ErrUndecodable) {
			err = nil // Usable tells of it
		}
		return nil, err
	}
	return k.prepare(ctx, storage, name, nil)
}

func (k *Keyring) isEmpty(ctx context.Context, storage logical.Storage) (bool, error) {
	names, err := k.List(ctx, storage)
	return len(names) == 0, err
}
