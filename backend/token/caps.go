package token

import (
	"context"
	"strings"
	"sync"
	"time"

	"github.com/hashicorp/vault/sdk/logical"

	"github.com/vault-tokens/vault-plugin-secrets-tokens/backend/store"
	"github.com/vault-tokens/vault-plugin-secrets-tokens/backend/usererror"
)

const capPrefix = "cap/"

// caps counts the live tokens of roles with max_tokens. Each token issued under a
// cap has an entry of its own, so that counting a role does not read every record
// of the mount.
type caps struct {
	entries store.Entries[capped] // named <role>/<token id>
	clock   func() time.Time

	mu   sync.Mutex
	live map[string]*liveTokens // by role
}

// capped is the entry of one token. It is written before the token's record and
// removed after it; an entry that a crash leaves counts until it expires.
type capped struct {
	ExpiresAt time.Time `json:"expires_at"`
}

// liveTokens are the live tokens of one role by id, with their expiry.
type liveTokens struct {
	mu      sync.Mutex
	loaded  bool
	expires map[string]time.Time
}

func newCaps(clock func() time.Time) *caps {
	return &caps{entries: store.Entries[capped]{Prefix: capPrefix}, clock: clock, live: map[string]*liveTokens{}}
}

// invalidate drops what is known of a storage key that changed elsewhere.
func (c *caps) invalidate(key string) bool {
	rest, ours := strings.CutPrefix(key, capPrefix)
	if ours {
		role, _, _ := strings.Cut(rest, "/")
		c.forget(role)
	}
	return ours
}

func (c *caps) of(role string) *liveTokens {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.live[role] == nil {
		c.live[role] = &liveTokens{expires: map[string]time.Time{}}
	}
	return c.live[role]
}

// forget makes the next capped issue of a role count the entries again.
func (c *caps) forget(role string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.live, role)
}

func (c *caps) forgetAll() {
	c.mu.Lock()
	defer c.mu.Unlock()
	clear(c.live)
}

// take counts a token that is about to be written, unless the cap is reached.
func (c *caps) take(ctx context.Context, storage logical.Storage, record *Record, maxTokens int) error {
	live := c.of(record.Role)
	live.mu.Lock()
	defer live.mu.Unlock()
	if !live.loaded {
		if err := c.load(ctx, storage, record.Role, live); err != nil {
			return err
		}
	}
	if len(live.expires) >= maxTokens {
		live.dropExpired(c.clock())
	}
	if len(live.expires) >= maxTokens {
		return usererror.Field("role", "%q has reached max_tokens: %d tokens of it are live; revoke some or raise max_tokens", record.Role, maxTokens)
	}
	if err := c.put(ctx, storage, record); err != nil {
		return err
	}
	live.expires[record.ID] = record.ExpiresAt
	return nil
}

// load reads the entries of a role, and removes those that have expired.
func (c *caps) load(ctx context.Context, storage logical.Storage, role string, live *liveTokens) error {
	ids, err := c.entries.List(ctx, storage, role+"/")
	if err != nil {
		return err
	}
	now := c.clock()
	for _, id := range ids {
		entry, err := c.entries.Read(ctx, storage, role+"/"+id)
		switch {
		case err != nil:
			return err
		case entry == nil: // revoked since it was listed
		case now.Before(entry.ExpiresAt):
			live.expires[id] = entry.ExpiresAt
		default:
			if err := c.entries.Delete(ctx, storage, role+"/"+id); err != nil {
				return err
			}
		}
	}
	live.loaded = true
	return nil
}

func (l *liveTokens) dropExpired(now time.Time) {
	for id, expires := range l.expires {
		if !now.Before(expires) {
			delete(l.expires, id)
		}
	}
}

// move follows the renewal of a token.
func (c *caps) move(ctx context.Context, storage logical.Storage, record *Record) error {
	live := c.of(record.Role)
	live.mu.Lock()
	defer live.mu.Unlock()
	if err := c.put(ctx, storage, record); err != nil {
		return err
	}
	if live.loaded {
		live.expires[record.ID] = record.ExpiresAt
	}
	return nil
}

// release follows the end of a token.
func (c *caps) release(ctx context.Context, storage logical.Storage, record *Record) error {
	live := c.of(record.Role)
	live.mu.Lock()
	defer live.mu.Unlock()
	if err := c.entries.Delete(ctx, storage, record.Role+"/"+record.ID); err != nil {
		return err
	}
	delete(live.expires, record.ID)
	return nil
}

func (c *caps) put(ctx context.Context, storage logical.Storage, record *Record) error {
	return c.entries.Put(ctx, storage, record.Role+"/"+record.ID, &capped{ExpiresAt: record.ExpiresAt})
}
