package token

import (
	"container/heap"
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/hashicorp/vault/sdk/logical"

	"github.com/vault-tokens/vault-plugin-secrets-tokens/backend/statuslist"
	"github.com/vault-tokens/vault-plugin-secrets-tokens/backend/store"
	"github.com/vault-tokens/vault-plugin-secrets-tokens/backend/usererror"
	"github.com/vault-tokens/vault-plugin-secrets-tokens/verify/format"
)

const capPrefix = "cap/"

// caps counts the live tokens of roles with max_tokens. Each token issued under a
// cap has a slot: an entry named <role>/<expiry>-<token id>-<bit>, so that one listing
// counts a role. The expiry is the one that the token was issued with; renewals
// do not write it, and are looked up when it matters. The token's bit is in the name
// too, so that slots of tokens that are revoked are not counted while they wait to
// be removed.
//
// A slot is written before the token's record and removed after it. What a fault
// leaves in between is found by reconcile.
type caps struct {
	entries store.Entries[slot]
	clock   func() time.Time
	dead    func(context.Context, logical.Storage, slotKey) bool // whether a slot's token is revoked

	mu    sync.Mutex
	roles map[string]*counter // never removed, since somebody may be waiting for one
}

// slot is what an entry holds: nothing, since its name says all.
type slot struct{}

// counter is the live tokens of one role.
type counter struct {
	loading chan struct{} // held by who lists the role's slots

	mu      sync.Mutex // never held during I/O
	loaded  bool
	changes int                   // of the slots, by other nodes
	slots   map[string]*slotState // by token id
	dead    int                   // of the slots
	byTime  expiries              // of the slots, with some that are gone
	// known is, while the slots are listed, those whose state is better known here:
	// one that was written or removed meanwhile may be in the listing, or not.
	known map[string]bool
}

// slotState is what is known of one slot.
type slotState struct {
	name    string    // of its entry, below the role
	expires time.Time // of the token, as far as is known
	// busy: its token is being issued or renewed, or the slot is being removed.
	// Whoever began that ends it; others leave the slot alone.
	busy    bool
	written time.Time // when this process wrote it; zero if another one did
	dead    bool      // its token is revoked, and it is not counted
}

func newCaps(clock func() time.Time, dead func(context.Context, logical.Storage, slotKey) bool) *caps {
	return &caps{entries: store.Entries[slot]{Prefix: capPrefix, Format: 1}, clock: clock, dead: dead, roles: map[string]*counter{}}
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
		c.recount(role)
	}
	return ours
}

// recount makes the next capped issue of a role list its slots again.
func (c *caps) recount(role string) {
	if c.has(role) {
		c.of(role).unload()
	}
}

// live returns how many tokens of a role count against its cap, nil if that is not
// known.
func (c *caps) live(role string) *int {
	if !c.has(role) {
		return nil
	}
	n := c.of(role)
	n.mu.Lock()
	defer n.mu.Unlock()
	if !n.loaded {
		return nil
	}
	live := len(n.slots) - n.dead
	return &live
}

func (n *counter) unload() {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.loaded = false
	n.changes++
}

// slotKey is what the name of a slot says of its token.
type slotKey struct {
	role    string
	id      string
	expires time.Time      // zero in format 0
	ref     statuslist.Ref // zero before opaque tokens had bits
}

func slotOf(record *Record) slotKey {
	return slotKey{record.Role, record.ID, record.ExpiresAt, record.Ref}
}

// name is the name of a slot below its role.
func (k slotKey) name() string {
	return strconv.FormatInt(k.expires.Unix(), 10) + "-" + k.id + "-" + k.ref.List + "." + strconv.Itoa(k.ref.Index)
}

// parseSlotName reads the name of a slot. Slots of format 0 were named by the id
// alone: their expiry is zero, so that it is looked up.
func parseSlotName(role, name string) (slotKey, bool) {
	parts := strings.Split(name, "-")
	if len(parts) == 1 {
		return slotKey{role: role, id: name}, format.ValidID(name)
	}
	k := slotKey{role: role, id: parts[1]}
	seconds, err := strconv.ParseInt(parts[0], 10, 64)
	k.expires = time.Unix(seconds, 0)
	if err != nil || !format.ValidID(k.id) || len(parts) > 3 {
		return slotKey{}, false
	}
	if len(parts) == 3 {
		list, index, _ := strings.Cut(parts[2], ".")
		k.ref.List = list
		k.ref.Index, err = strconv.Atoi(index)
	}
	return k, err == nil
}

// expiryOf returns when a token that has a record ends, zero if it has none.
type expiryOf func(ctx context.Context, id string) (time.Time, error)

// take counts a token that is about to be written, unless the cap is reached. If
// the token is not written after all, give it back with release.
func (c *caps) take(ctx context.Context, storage logical.Storage, record *Record, maxTokens int, place func() error, expiry expiryOf) error {
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
	if err := place(); err != nil {
		n.drop(record.ID) // nothing is stored of it
		return err
	}
	if err := c.entries.Put(ctx, storage, record.Role+"/"+n.name(record), &slot{}); err != nil {
		// The entry may be there. If it cannot be removed, the slot counts until
		// reconcile finds it.
		n.settled(record.ID)
		_ = c.free(ctx, storage, record.Role, n, record.ID, nil)
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
	if len(n.slots)-n.dead >= maxTokens {
		return false, n.earliest(now)
	}
	n.slots[record.ID] = &slotState{expires: record.ExpiresAt, busy: true, written: now}
	return true, ""
}

// name gives the slot of a token its name, and returns it.
func (n *counter) name(record *Record) string {
	n.mu.Lock()
	defer n.mu.Unlock()
	name := slotOf(record).name()
	if s := n.slots[record.ID]; s != nil {
		s.name = name
	}
	return name
}

// drop forgets a slot; note keeps a listing from bringing it back.
func (n *counter) drop(id string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if s := n.slots[id]; s != nil && s.dead {
		n.dead--
	}
	delete(n.slots, id)
	n.note(id)
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
		case s == nil || !s.expires.Equal(first.expires) || s.busy:
			heap.Pop(&n.byTime) // gone, or renewed, or to be pushed by settled
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
	seen := n.look(id)
	if seen == nil {
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
	return c.free(ctx, storage, role, n, id, seen)
}

// look returns the expiry of a slot as it is known now, nil if there is none.
func (n *counter) look(id string) *time.Time {
	n.mu.Lock()
	defer n.mu.Unlock()
	if s := n.slots[id]; s != nil {
		expires := s.expires
		return &expires
	}
	return nil
}

// free removes a slot, unless it is busy, or its token was renewed since the
// caller has seen when it expires (nil: whatever was seen).
func (c *caps) free(ctx context.Context, storage logical.Storage, role string, n *counter, id string, seen *time.Time) error {
	n.mu.Lock()
	s := n.slots[id]
	if s == nil || s.busy || seen != nil && !seen.Equal(s.expires) {
		n.mu.Unlock()
		return nil
	}
	s.busy = true
	n.mu.Unlock()
	err := c.entries.Delete(ctx, storage, role+"/"+s.name)
	if err != nil {
		n.settled(id)
		return err
	}
	n.drop(id)
	return nil
}

// note keeps what is known of a slot from being replaced by a listing that is
// under way; n.mu is held.
func (n *counter) note(id string) {
	if n.known != nil {
		n.known[id] = true
	}
}

// move says when a token ends, as its record has it.
func (n *counter) move(id string, expires time.Time) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if s := n.slots[id]; s != nil {
		s.expires = expires
		n.push(id, s)
	}
}

// settled says that the record of a token is written, or has failed for good.
func (n *counter) settled(id string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if s := n.slots[id]; s != nil && s.busy {
		s.busy = false
		n.push(id, s)
		n.note(id)
	}
}

// hold keeps the slot of a token that is to be renewed, until settled. It reports
// whether the token has one: it may just have expired, and given it to another.
func (n *counter) hold(id string) bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	s := n.slots[id]
	if s == nil {
		return !n.loaded // nothing was given away
	}
	if s.busy || s.dead {
		return false
	}
	s.busy = true
	return true
}

// release follows the end of a token, or of the attempt to issue it. As every
// write, it goes on when the caller hangs up.
func (c *caps) release(ctx context.Context, storage logical.Storage, role, id string) error {
	ctx, cancel := store.Detach(ctx)
	defer cancel()
	n := c.of(role)
	n.settled(id)
	if err := c.load(ctx, storage, role, n); err != nil {
		return err
	}
	return c.free(ctx, storage, role, n, id, nil)
}

// load lists the slots of a role, unless they are known. Until it has succeeded
// nobody counts.
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
	changes := n.beginListing()
	ctx, cancel := store.Detach(ctx) // others wait for it
	defer cancel()
	names, err := c.entries.List(ctx, storage, role+"/")
	listed := make(map[string]*slotState, len(names))
	for _, name := range names {
		if k, ok := parseSlotName(role, name); ok { // else of a later version, so not ours to count
			listed[k.id] = &slotState{name: name, expires: k.expires, dead: c.dead(ctx, storage, k)}
		}
	}
	n.endListing(listed, err == nil, changes)
	return err
}

func (n *counter) isLoaded() bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.loaded
}

func (n *counter) beginListing() (changes int) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.known = map[string]bool{}
	for id, s := range n.slots {
		if s.busy {
			n.known[id] = true
		}
	}
	return n.changes
}

// endListing takes over what was listed, unless another node has changed some of
// it meanwhile.
func (n *counter) endListing(listed map[string]*slotState, ok bool, changes int) {
	n.mu.Lock()
	defer n.mu.Unlock()
	known := n.known
	n.known = nil
	if !ok || changes != n.changes {
		return
	}
	for id, s := range listed {
		if before := n.slots[id]; before != nil {
			before.dead = s.dead
			listed[id] = before
		}
	}
	for id := range known { // of these the listing may be wrong
		delete(listed, id)
		if s := n.slots[id]; s != nil {
			listed[id] = s
		}
	}
	n.slots, n.loaded, n.dead = listed, true, 0
	for _, s := range listed {
		if s.dead {
			n.dead++
		}
	}
	n.rebuild()
}

// reconcile removes the slots of a role whose tokens have no record: those that a
// crash or a fault has left. It looks at ids that come after the given one, and
// returns the last that it looked at. It skips slots that this process wrote
// within the last minutes, since a record may still be on its way.
func (c *caps) reconcile(ctx context.Context, storage logical.Storage, role, after string, expiry expiryOf) (removed int, last string, err error) {
	n := c.of(role)
	n.unload() // and see what other nodes have left
	if err := c.load(ctx, storage, role, n); err != nil {
		return 0, after, err
	}
	last = after
	for _, id := range n.idsAfter(after) {
		if err := ctx.Err(); err != nil {
			return removed, last, err
		}
		freed, err := c.reconcileSlot(ctx, storage, role, n, id, expiry)
		if err != nil {
			return removed, last, fmt.Errorf("cap of role %s: %w", role, err)
		}
		if freed {
			removed++
		}
		last = id
	}
	return removed, last, nil
}

func (c *caps) reconcileSlot(ctx context.Context, storage logical.Storage, role string, n *counter, id string, expiry expiryOf) (freed bool, err error) {
	if !n.isSettled(id, c.clock()) {
		return false, nil
	}
	seen := n.look(id)
	expires, err := expiry(ctx, id)
	switch {
	case errors.Is(err, store.ErrUndecodable):
		return false, nil // it counts, until somebody removes it
	case err != nil:
		return false, err
	case !expires.IsZero():
		n.move(id, expires)
		return false, nil
	}
	return true, c.free(ctx, storage, role, n, id, seen)
}

// settleAfter is how long after its slot a record is surely written, or not.
const settleAfter = 5 * time.Minute

func (n *counter) idsAfter(after string) []string {
	n.mu.Lock()
	defer n.mu.Unlock()
	var ids []string
	for id := range n.slots {
		if id > after {
			ids = append(ids, id)
		}
	}
	slices.Sort(ids)
	return ids
}

// isSettled reports whether the slot's record is there by now, or never will be.
func (n *counter) isSettled(id string, now time.Time) bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	s := n.slots[id]
	if s == nil || s.busy {
		return false
	}
	age := now.Sub(s.written)
	return s.written.IsZero() || age < 0 || age >= settleAfter
}

// roleNames lists the roles that have slots.
func (c *caps) roleNames(ctx context.Context, storage logical.Storage) ([]string, error) {
	folders, err := c.entries.List(ctx, storage, "")
	for i, folder := range folders {
		folders[i] = strings.TrimSuffix(folder, "/")
	}
	return folders, err
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
