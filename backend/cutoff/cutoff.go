// Package cutoff keeps the cut-offs of entities and roles: a token that was issued
// until then is dead, whatever its record, its signature or its status list say. A
// cut-off is one write, however many tokens it ends.
//
// The name of an entry says what it ends and until when, so that one listing makes
// all of them known, and a question about a token reads nothing.
package cutoff

import (
	"context"
	"errors"
	"regexp"
	"time"

	"github.com/hashicorp/vault/sdk/logical"

	"github.com/vault-tokens/vault-plugin-secrets-tokens/backend/store"
	"github.com/vault-tokens/vault-plugin-secrets-tokens/backend/usererror"
)

const (
	entityPrefix = "cutoff/entity/"
	rolePrefix   = "cutoff/role/"
)

// Cutoffs is the cut-offs of a mount.
type Cutoffs struct {
	clock    func() time.Time
	entities *kind
	roles    *kind
}

// New returns the cut-offs of a mount. maxAge returns how old what is known of
// them may be on a node that only follows the writes of another: what tells it of a
// change can be lost. It is 0 on a node that writes.
func New(clock func() time.Time, maxAge func() time.Duration) *Cutoffs {
	return &Cutoffs{
		clock:    clock,
		entities: newKind(entityPrefix, clock, maxAge),
		roles:    newKind(rolePrefix, clock, maxAge),
	}
}

// Entry is a cut-off as stored.
type Entry struct {
	At time.Time `json:"at"`
	// Until is when the last token has expired that may have been issued until At;
	// zero as long as it is not known.
	Until time.Time `json:"until,omitzero"`
}

// Entity returns the cut-off of an entity, to the second, or zero if it has none.
// Tokens whose iat is not after it are dead.
func (c *Cutoffs) Entity(ctx context.Context, storage logical.Storage, id string) (time.Time, error) {
	return c.entities.get(ctx, storage, id)
}

// Role returns the cut-off of a role, as Entity does.
func (c *Cutoffs) Role(ctx context.Context, storage logical.Storage, name string) (time.Time, error) {
	return c.roles.get(ctx, storage, name)
}

// EndEntity makes all tokens dead that an entity was issued until now, and returns
// the cut-off. It takes effect here before it is stored, and stays in effect if it
// is not known whether it was stored; then call it again. It never moves back: a
// clock that is behind an earlier cut-off leaves that one as it is.
func (c *Cutoffs) EndEntity(ctx context.Context, storage logical.Storage, id string) (time.Time, error) {
	if err := ValidateEntity("id", id); err != nil {
		return time.Time{}, err
	}
	return c.entities.end(ctx, storage, id)
}

// EndRole is EndEntity for the tokens of a role, whose name was checked.
func (c *Cutoffs) EndRole(ctx context.Context, storage logical.Storage, name string) (time.Time, error) {
	return c.roles.end(ctx, storage, name)
}

// ReadEntity returns the stored cut-off of an entity, or nil if it has none.
func (c *Cutoffs) ReadEntity(ctx context.Context, storage logical.Storage, id string) (*Entry, error) {
	at, err := c.entities.get(ctx, storage, id)
	if err != nil || at.IsZero() {
		return nil, err
	}
	entry, err := c.entities.entries.Read(ctx, storage, nameOf(id, at.Unix()))
	if err == nil && entry == nil {
		entry = &Entry{At: at} // in effect here, and perhaps not stored
	}
	return entry, err
}

// Newest returns the latest of all cut-offs, to the second; zero if there is none.
func (c *Cutoffs) Newest(ctx context.Context, storage logical.Storage) (time.Time, error) {
	entity, errEntity := c.entities.latest(ctx, storage)
	role, errRole := c.roles.latest(ctx, storage)
	if role.After(entity) {
		entity = role
	}
	return entity, errors.Join(errEntity, errRole)
}

// Invalidate follows the change of a storage key elsewhere. It reads nothing.
func (c *Cutoffs) Invalidate(key string) bool {
	return c.entities.invalidate(key) || c.roles.invalidate(key)
}

// Tidy removes the cut-offs that no token needs any more, and reports how many. It
// looks at those from before cleaned, when the last complete pass over all records
// began, which has ended the tokens that have one. Tokens without a record may live
// on until they expire: horizon returns when the last of all has that are signed by
// now, and is called once if it is needed. A cut-off is stored with it, and removed
// margin after it, by a later call. It stops when ctx ends.
func (c *Cutoffs) Tidy(ctx context.Context, storage logical.Storage, cleaned time.Time, margin time.Duration, horizon func() (time.Time, error)) (removed int, err error) {
	t := &tidying{storage: storage, now: c.clock(), cleaned: cleaned, margin: margin, horizon: horizon}
	errEntities := t.kind(ctx, c.entities)
	errRoles := t.kind(ctx, c.roles)
	return t.removed, errors.Join(errEntities, errRoles)
}

// MaxIDLength bounds an entity's id, in bytes.
const MaxIDLength = 64

var idPattern = regexp.MustCompile(`^[A-Za-z0-9_-]+$`)

// ValidateEntity checks the id of an entity; Vault's are UUIDs.
func ValidateEntity(field, id string) error {
	if len(id) > MaxIDLength || !idPattern.MatchString(id) {
		return usererror.Field(field, "must be the id of a Vault entity, such as 6ac4ea92-04c3-c6b6-e6d3-5fb2c7a7e9c1: at most %d letters, digits, - and _; `vault token lookup` shows it as entity_id, and introspection as client_id", MaxIDLength)
	}
	return nil
}

func entriesBelow(prefix string) store.Entries[Entry] {
	return store.Entries[Entry]{Prefix: prefix, Format: 1}
}
