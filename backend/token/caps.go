package token

import (
	"container/heap"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/hashicorp/vault/sdk/logical"

	"github.com/vault-tokens/vault-plugin-secrets-tokens/backend/store"
	"github.com/vault-tokens/vault-plugin-secrets-tokens/backend/usererror"
	"github.com/vault-tokens/vault-plugin-secrets-tokens/verify/format"
)

const capPrefix = "cap/"

// caps counts the live tokens of roles with max_tokens. Each token issued under a
// cap has a slot: an entry named <role>/<expiry>-<token id>, so that one listing
// counts a role. The expiry is the one that the token was issued with; renewals
// do not write it, and are looked up when it matters.
//
// A slot is written before the token's record and removed after it. What a fault
// leaves in between is found by reconcile.
type caps struct {
	entries store.Entries[slot]
	clock   func() time.Time

	mu    sync.Mutex
	roles map[string]*counter // never removed, since somebody may be waiting for one
}

// slot is what an entry holds: nothing, since its name says all.
type slot struct{}

// counter is the live tokens of one role.
type counter struct {
	loading chan struct{} // held by who lists the role's slots

	mu     sync.Mutex // never held during I/O
	loaded bool
	slots  map[string]*slotState // by token id
	byTime expiries              // of the slots, with some that are gone
}

// slotState is what is known of one slot.
type slotState struct {
	name    string    // of its entry, below the role
	expires time.Time // of the token, as far as is known
	issuing bool      // its record is about to be written
	written time.Time // when this process wrote it; zero if another one did
}

func newCaps(clock func() time.Time) *caps {
	return &caps{entries: store.Entries[slot]{Prefix: capPrefix, Format: 1}, clock: clock, roles: map[string]*counter{}}
}

// has reports whether slots of a role were looked at since the start.
func (c *caps) has(role string) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.roles[role] != nil
}

func (c *caps) of(role string) *counter {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.roles[role] == nil {
		c.roles[role] = &counter{loading: make(chan struct{}, 1), slots: map[string]*slotState{}}
	}
	return c.roles[role]
}

// invalidate makes the next capped issue of a role list its slots again.
func (c *caps) invalidate(key string) bool {
	rest, ours := strings.CutPrefix(key, capPrefix)
	if ours {
		role, _, _ := strings.Cut(rest, "/")
		c.of(role).unload()
	}
	return ours
}

func (n *counter) unload() {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.loaded = false
}

// slotName is the name of a slot below its role.
func slotName(id string, expires time.Time) string {
	return strconv.FormatInt(expires.Unix(), 10) + "-" + id
}

// parseSlotName reads the name of a slot. Slots of format 0 were named by the id
// alone: their expiry is zero, so that it is looked up.
func parseSlotName(name string) (id string, expires time.Time, ok bool) {
	first, rest, dated := strings.Cut(name, "-")
	if !dated {
		return name, time.Time{}, format.ValidID(name)
	}
	seconds, err := strconv.ParseInt(first, 10, 64)
	return rest, time.Unix(seconds, 0), err == nil && format.ValidID(rest)
}

// expiryOf returns when a token that has a record ends, zero if it has none.
type expiryOf func(ctx context.Context, id string) (time.Time, error)

// take counts a token that is about to be written, unless the cap is reached. If
// the token is not written after all, give it back with release.
func (c *caps) take(ctx context.Context, storage logical.Storage, record *Record, maxTokens int, expiry expiryOf) error {
	n := c.of(record.Role)
	for {
		if err := c.load(ctx, storage, record.Role, n); err != nil {
			return err
		}
		taken, doubtful := n.take(record, maxTokens, c.clock())
		if taken {
			break
		}
		if doubtful == "" {
			return usererror.Field("role", "%q has reached max_tokens: %d tokens of it are live; revoke some or raise max_tokens", record.Role, maxTokens)
		}
		if err := c.settle(ctx, storage, record.Role, n, doubtful, expiry); err != nil {
			return err
		}
	}
	name := record.Role + "/" + slotName(record.ID, record.ExpiresAt)
	if err := c.entries.Put(ctx, storage, name, &slot{}); err != nil {
		// The entry may be there. If it cannot be removed, the slot counts until
		// reconcile finds it.
		if c.entries.Delete(ctx, storage, name) == nil {
			n.drop(record.ID)
		}
		return err
	}
	return nil
}

// take counts the token if there is room. Otherwise it names a slot whose token
// may have ended, "" if there is none.
func (n *counter) take(record *Record, maxTokens int, now time.Time) (taken bool, doubtful string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if !n.loaded {
		return false, record.ID // and load again: it was invalidated meanwhile
	}
	if len(n.slots) >= maxTokens {
		return false, n.earliest(now)
	}
	n.add(record.ID, &slotState{name: slotName(record.ID, record.ExpiresAt), expires: record.ExpiresAt, issuing: true, written: now})
	return true, ""
}

func (n *counter) add(id string, s *slotState) {
	n.slots[id] = s
	n.push(id, s)
}

// push enters a slot into the heap with its present expiry. What is there of it
// with an earlier one stays, and is passed over; now and then all of that goes.
func (n *counter) push(id string, s *slotState) {
	if len(n.byTime) > 2*len(n.slots)+64 {
		n.rebuild()
		return
	}
	heap.Push(&n.byTime, expiryItem{s.expires, id})
}

func (n *counter) rebuild() {
	n.byTime = n.byTime[:0]
	for id, s := range n.slots {
		n.byTime = append(n.byTime, expiryItem{s.expires, id})
	}
	heap.Init(&n.byTime)
}

// earliest returns a slot that has expired, as far as is known, or "". It looks at
// what has changed only, so that a refusal costs the same for any number of slots.
func (n *counter) earliest(now time.Time) string {
	for len(n.byTime) > 0 {
		first := n.byTime[0]
		s := n.slots[first.id]
		switch {
		case s == nil || !s.expires.Equal(first.expires) || s.issuing:
			heap.Pop(&n.byTime) // gone, or renewed, or to be pushed once it is issued
		case now.Before(first.expires):
			return ""
		default:
			return first.id
		}
	}
	return ""
}

// settle finds out whether the token of a slot has ended. If so, the slot is
// removed; else its expiry is known from now on.
func (c *caps) settle(ctx context.Context, storage logical.Storage, role string, n *counter, id string, expiry expiryOf) error {
	n.mu.Lock()
	s := n.slots[id]
	n.mu.Unlock()
	if s == nil {
		return nil // released meanwhile, or to be loaded again
	}
	expires, err := expiry(ctx, id)
	if errors.Is(err, store.ErrUndecodable) {
		expires = c.clock().Add(settleAfter) // it counts, until somebody removes it
	} else if err != nil {
		return err
	}
	if c.clock().Before(expires) {
		n.move(id, expires)
		return nil
	}
	return c.free(ctx, storage, role, n, id)
}

// free removes a slot.
func (c *caps) free(ctx context.Context, storage logical.Storage, role string, n *counter, id string) error {
	n.mu.Lock()
	s := n.slots[id]
	n.mu.Unlock()
	if s == nil {
		return nil
	}
	if err := c.entries.Delete(ctx, storage, role+"/"+s.name); err != nil {
		return err
	}
	n.drop(id)
	return nil
}

func (n *counter) drop(id string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	delete(n.slots, id)
}

// move follows the renewal of a token.
func (n *counter) move(id string, expires time.Time) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if s := n.slots[id]; s != nil {
		s.expires = expires
		n.push(id, s)
	}
}

// issued says that the record of a token is written, or has failed for good.
func (n *counter) issued(id string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if s := n.slots[id]; s != nil && s.issuing {
		s.issuing = false
		n.push(id, s)
	}
}

// release follows the end of a token, or of the attempt to issue it.
func (c *caps) release(ctx context.Context, storage logical.Storage, role, id string) error {
	n := c.of(role)
	n.issued(id)
	if err := c.load(ctx, storage, role, n); err != nil {
		return err
	}
	return c.free(ctx, storage, role, n, id)
}

// load lists the slots of a role, unless they are known. Slots whose tokens are
// being issued stay, listed or not.
func (c *caps) load(ctx context.Context, storage logical.Storage, role string, n *counter) error {
	if n.isLoaded() {
		return nil
	}
	select {
	case n.loading <- struct{}{}:
	case <-ctx.Done():
		return ctx.Err()
	}
	defer func() { <-n.loading }()
	if n.isLoaded() {
		return nil // by who was before
	}
	n.mu.Lock()
	n.loaded = true // a change from now on makes it false again
	n.mu.Unlock()
	names, err := c.entries.List(ctx, storage, role+"/")
	if err != nil {
		n.unload()
		return err
	}
	n.replace(names)
	return nil
}

func (n *counter) isLoaded() bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.loaded
}

func (n *counter) replace(names []string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	listed := map[string]*slotState{}
	for _, name := range names {
		id, expires, ok := parseSlotName(name)
		if !ok {
			continue // of a later version: not ours to count
		}
		s := n.slots[id]
		if s == nil {
			s = &slotState{name: name, expires: expires}
		}
		listed[id] = s
	}
	for id, s := range n.slots {
		if s.issuing {
			listed[id] = s
		}
	}
	n.slots = listed
	n.rebuild()
}

// reconcile removes the slots of a role whose tokens have no record: those that a
// crash or a fault has left. It skips slots that this process wrote within the
// last minutes, since a record may still be on its way.
func (c *caps) reconcile(ctx context.Context, storage logical.Storage, role string, expiry expiryOf) (removed int, err error) {
	n := c.of(role)
	n.unload() // and see what other nodes have left
	if err := c.load(ctx, storage, role, n); err != nil {
		return 0, err
	}
	for _, id := range n.settled(c.clock()) {
		if err := ctx.Err(); err != nil {
			return removed, err
		}
		expires, err := expiry(ctx, id)
		if err != nil {
			return removed, fmt.Errorf("cap of role %s: %w", role, err)
		}
		if !expires.IsZero() {
			n.move(id, expires)
			continue
		}
		if err := c.free(ctx, storage, role, n, id); err != nil {
			return removed, err
		}
		removed++
	}
	return removed, nil
}

// settleAfter is how long after its slot a record is surely written, or not.
const settleAfter = 5 * time.Minute

func (n *counter) settled(now time.Time) []string {
	n.mu.Lock()
	defer n.mu.Unlock()
	ids := slices.Collect(maps.Keys(n.slots))
	return slices.DeleteFunc(ids, func(id string) bool {
		s := n.slots[id]
		age := now.Sub(s.written)
		return s.issuing || !s.written.IsZero() && age >= 0 && age < settleAfter
	})
}

// roleNames lists the roles that have slots.
func (c *caps) roleNames(ctx context.Context, storage logical.Storage) ([]string, error) {
	folders, err := c.entries.List(ctx, storage, "")
	for i, folder := range folders {
		folders[i] = strings.TrimSuffix(folder, "/")
	}
	return folders, err
}

// count returns how many slots are known to be taken, over all roles.
func (c *caps) count() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	total := 0
	for _, n := range c.roles {
		n.mu.Lock()
		total += len(n.slots)
		n.mu.Unlock()
	}
	return total
}

// expiries is a heap of expiries, the earliest first.
type expiries []expiryItem

type expiryItem struct {
	expires time.Time
	id      string
}

func (e expiries) Len() int           { return len(e) }
func (e expiries) Less(i, j int) bool { return e[i].expires.Before(e[j].expires) }
func (e expiries) Swap(i, j int)      { e[i], e[j] = e[j], e[i] }
func (e *expiries) Push(x any)        { *e = append(*e, x.(expiryItem)) }
func (e *expiries) Pop() any {
	old := *e
	last := old[len(old)-1]
	*e = old[:len(old)-1]
	return last
}
