package store

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/hashicorp/vault/sdk/logical"
)

// detachedTimeout bounds what goes on when the caller hangs up.
const detachedTimeout = 30 * time.Second

// ErrNewer reports an entry that a later version of the engine wrote. It is not
// read and not overwritten: this version would drop what it does not know, and
// that may be a restriction.
var ErrNewer = errors.New("written by a newer version of the plugin; run that version again")

// ErrUndecodable reports an entry that is there and cannot be read, so that
// nothing is known of it. It can be deleted.
var ErrUndecodable = errors.New("entry cannot be decoded")

// Replaceable reports whether a failure to read an entry is one that only
// overwriting or deleting it can mend.
func Replaceable(err error) bool {
	return errors.Is(err, ErrUndecodable) && !errors.Is(err, ErrNewer)
}

// Entries is the values of one kind in Vault's storage, each as a JSON object at
// prefix + path(name).
type Entries[V any] struct {
	Prefix string // ends in a slash
	// Path places names below the prefix, for kinds that are too many for one
	// folder; its last segment is the name. Nil places them there directly.
	Path func(name string) string
	// Format is the version of the stored form, in the member "format" of each
	// entry. Entries from before there were versions have none, which is 0.
	// A change that an older version must not ignore raises it.
	Format int
	// New returns what an entry is decoded onto, so that a member that is missing
	// has its default. Nil is the zero value.
	New func(name string) *V
}

// Key returns where the storage has the value of a name.
func (e Entries[V]) Key(name string) string {
	if e.Path == nil {
		return e.Prefix + name
	}
	return e.Prefix + e.Path(name)
}

// Read returns the value, or nil if there is none. An entry that cannot be
// decoded is an error: it must never pass for absent.
func (e Entries[V]) Read(ctx context.Context, storage logical.Storage, name string) (*V, error) {
	value, _, err := e.read(ctx, storage, name)
	return value, err
}

// read returns the size of the stored entry too, in bytes.
func (e Entries[V]) read(ctx context.Context, storage logical.Storage, name string) (value *V, size int, err error) {
	entry, err := storage.Get(ctx, e.Key(name))
	if err != nil {
		return nil, 0, fmt.Errorf("read %s%s: %w", e.Prefix, name, err)
	}
	if entry == nil {
		return nil, 0, nil
	}
	if value, err = e.decode(entry.Value, name); err != nil {
		return nil, 0, fmt.Errorf("%w: %s%s: %w", ErrUndecodable, e.Prefix, name, err)
	}
	return value, len(entry.Value), nil
}

func (e Entries[V]) decode(raw []byte, name string) (*V, error) {
	var stored struct {
		Format int `json:"format"`
	}
	if err := json.Unmarshal(raw, &stored); err != nil {
		return nil, err
	}
	if stored.Format > e.Format {
		return nil, fmt.Errorf("format %d: %w", stored.Format, ErrNewer)
	}
	value := new(V)
	if e.New != nil {
		value = e.New(name)
	}
	return value, json.Unmarshal(raw, value)
}

// encode writes the format before the members of the value.
func (e Entries[V]) encode(value *V) ([]byte, error) {
	raw, err := json.Marshal(value)
	if err != nil {
		return nil, err
	}
	members, ok := bytes.CutPrefix(raw, []byte("{"))
	if !ok {
		return nil, fmt.Errorf("%T is no JSON object", value)
	}
	head := `{"format":` + strconv.Itoa(e.Format)
	if !bytes.Equal(members, []byte("}")) {
		head += ","
	}
	return append([]byte(head), members...), nil
}

// Put writes the value. On an error the storage may hold either the old or the
// new one. The write goes on when the caller hangs up: a write that was given up
// could still take effect, after a later one.
func (e Entries[V]) Put(ctx context.Context, storage logical.Storage, name string, value *V) error {
	_, err := e.put(ctx, storage, name, value)
	return err
}

func (e Entries[V]) put(ctx context.Context, storage logical.Storage, name string, value *V) (size int, err error) {
	raw, err := e.encode(value)
	if err != nil {
		return 0, fmt.Errorf("encode %s%s: %w", e.Prefix, name, err)
	}
	ctx, cancel := Detach(ctx)
	defer cancel()
	if err := storage.Put(ctx, &logical.StorageEntry{Key: e.Key(name), Value: raw}); err != nil {
		return 0, fmt.Errorf("write %s%s: %w", e.Prefix, name, err)
	}
	return len(raw), nil
}

// Delete removes the value; removing what is not there is no error. It goes on
// when the caller hangs up.
func (e Entries[V]) Delete(ctx context.Context, storage logical.Storage, name string) error {
	ctx, cancel := Detach(ctx)
	defer cancel()
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

// Detach returns a context that outlives the request, with a deadline of its own:
// for a write, and for a read that others may wait for.
func Detach(ctx context.Context) (context.Context, context.CancelFunc) {
	return context.WithTimeout(context.WithoutCancel(ctx), detachedTimeout)
}
