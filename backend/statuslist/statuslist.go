// Package statuslist gives tokens a bit in a Token Status List
// (draft-ietf-oauth-status-list) and remembers which of them are revoked.
//
// Lists are shared by roles: what a verifier has to fetch grows with the live
// tokens, not with the roles. A role reserves a block of indexes with one write
// of the list's entry, small blocks first, and gives them out from memory.
//
// A list belongs to the instance of the engine that made it: no other one, and
// not the same one after a restart, reserves indexes on it. So an index cannot be
// given out twice, whoever writes last. To every other instance, an index that is
// in no block was never given out, and reads as revoked.
package statuslist

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync"
	"time"

	"github.com/hashicorp/golang-lru/v2/simplelru"
	"github.com/hashicorp/vault/sdk/logical"

	"github.com/vault-tokens/vault-plugin-secrets-tokens/backend/store"
	"github.com/vault-tokens/vault-plugin-secrets-tokens/verify/format"
)

const (
	listPrefix     = "list/"
	revokedPrefix  = "revoked/"
	instancePrefix = "instance/"
	instanceName   = "current"

	// listSize is how many bits a list has: 16 KiB before compression.
	listSize = 1 << 17

	cachedLists     = 1 << 14
	cachedListBytes = 64 << 20
	listOverhead    = 512 // bytes that a list takes in memory besides what it holds

	// relistAfter is how old the knowledge may be of which lists exist, when a
	// list is asked for that is not known.
	relistAfter = 30 * time.Second
)

// Owner is what the tokens of a list have in common.
type Owner struct {
	Key    string `json:"key"`
	Issuer string `json:"issuer"`
}

// Ref refers to a token's bit: an index in a list.
type Ref struct {
	List  string
	Index int
}

// Status is what is known of a token's bit.
type Status int

// The statuses of a bit.
const (
	Valid    Status = iota
	Revoked         // by an entry of its own
	NotGiven        // the index was never given out, or its list is gone
)

// Lists is all status lists of a mount. Each is loaded when it is asked for.
type Lists struct {
	entries     store.Entries[entry]
	revocations store.Entries[Revocation] // named list/revocationName
	instances   *store.Store[instance]
	clock       func() time.Time
	random      io.Reader
	maxAge      func() time.Duration

	mu        sync.Mutex // of all that follows; never held during I/O
	instance  string     // of this engine; "" before it has made a list
	known     map[string]*horizon
	knownAt   time.Time
	writers   map[Owner]*writer
	loaded    *simplelru.LRU[string, *list]
	bytes     int // of the loaded lists
	loading   map[string]*loading
	orphansAt time.Time // when revocations without a list were last looked for

	relist chan struct{} // held by who lists the ids
}

// horizon is what is remembered of each list that exists.
type horizon struct {
	until time.Time // zero before its entry was read
	swept time.Time // when expired revocations were last removed
}

// instance is the stored id of the engine that makes lists now.
type instance struct {
	ID        string    `json:"id"`
	StartedAt time.Time `json:"started_at"`
}

// list is one status list in memory.
type list struct {
	entry   *entry    // replaced as a whole; see setEntry
	readAt  time.Time // zero if it was made here
	size    int       // of the entry in memory, in bytes
	revoked bits
	// unsure are revoked indexes of which the storage may or may not know: the
	// write failed, perhaps after it took effect.
	unsure    map[int]bool
	version   int // counts changes of what is published
	published *published
	building  sync.Mutex // held while the list is signed

	// Of a list that this instance made:
	open   int  // blocks of which indexes may still be given out
	closed bool // nothing more is given out; see closeList
}

func newList(stored *entry) *list {
	li := &list{}
	li.setEntry(stored)
	return li
}

func (li *list) setEntry(stored *entry) {
	li.entry = stored
	li.size = listOverhead + 16*len(stored.Blocks)
	for _, role := range stored.Roles {
		li.size += 16 + len(role)
	}
}

// bytes is about what the list takes in memory.
func (li *list) bytes() int {
	n := li.size + li.revoked.bytes()
	if li.published != nil {
		n += len(li.published.body)
	}
	return n
}

// loading is one load of a list, which those who ask for it share.
type loading struct {
	done chan struct{} // closed when list and err are set
	list *list
	err  error
}

// New returns the lists of a mount. maxAge returns how long a list may be cached
// on a node that only follows the writes of another, whose instance it then reads
// from the storage: what tells it of a change can be lost. It is 0 on a node that
// writes.
func New(clock func() time.Time, random io.Reader, maxAge func() time.Duration) *Lists {
	l := &Lists{
		entries:     store.Entries[entry]{Prefix: listPrefix, Format: 1},
		revocations: store.Entries[Revocation]{Prefix: revokedPrefix, Format: 1},
		instances:   store.New(store.Entries[instance]{Prefix: instancePrefix, Format: 1}, store.Options{MaxEntries: 1, MaxAbsent: 1, MaxAge: maxAge, Clock: clock}),
		clock:       clock,
		random:      random,
		maxAge:      maxAge,
		writers:     map[Owner]*writer{},
		loading:     map[string]*loading{},
		relist:      make(chan struct{}, 1),
	}
	var err error
	l.loaded, err = simplelru.NewLRU[string, *list](cachedLists, nil)
	if err != nil {
		panic(err) // a size below one is a mistake in the program
	}
	return l
}

// Begin stores the id of this instance, so that nodes which follow know that
// lists of the one before are not continued. The first list that is made does it
// too, if it has not been done by then.
func (l *Lists) Begin(ctx context.Context, storage logical.Storage) error {
	_, err := l.begin(ctx, storage)
	return err
}

func (l *Lists) begin(ctx context.Context, storage logical.Storage) (id string, err error) {
	defer l.instances.Lock(instanceName)() // one id, whoever comes first
	l.mu.Lock()
	id = l.instance
	l.mu.Unlock()
	if id != "" {
		return id, nil
	}
	if id, err = format.NewID(l.random); err != nil {
		return "", err
	}
	if err := l.instances.Put(ctx, storage, instanceName, &instance{ID: id, StartedAt: l.clock()}); err != nil {
		return "", err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.instance = id
	return id, nil
}

// continues reports whether more indexes of a list can still be given out, by
// this engine or by the one that this node follows.
func (l *Lists) continues(ctx context.Context, storage logical.Storage, of *entry) (bool, error) {
	if l.maxAge() == 0 {
		l.mu.Lock()
		defer l.mu.Unlock()
		return of.Instance != "" && of.Instance == l.instance, nil
	}
	current, err := l.instances.Get(ctx, storage, instanceName)
	return current != nil && of.Instance == current.ID, err
}

// Invalidate follows the change of a storage key elsewhere. It touches one list,
// and reads nothing.
func (l *Lists) Invalidate(key string) bool {
	if l.instances.Invalidate(key) {
		return true
	}
	if id, ok := strings.CutPrefix(key, listPrefix); ok {
		l.mu.Lock()
		defer l.mu.Unlock()
		l.forget(id)
		if l.known != nil {
			l.known[id] = &horizon{} // it may exist
		}
		return true
	}
	if rest, ok := strings.CutPrefix(key, revokedPrefix); ok {
		id, name, _ := strings.Cut(rest, "/")
		index, _, err := parseRevocationName(name)
		l.mu.Lock()
		defer l.mu.Unlock()
		if err != nil {
			l.forget(id)
			return true
		}
		l.markRevoked(id, index, false)
		return true
	}
	return false
}

// forget drops a list from memory. If it is one of this instance, somebody else
// has written it: nothing more is given out on it. l.mu is held.
func (l *Lists) forget(id string) {
	delete(l.loading, id)
	if li, ok := l.loaded.Peek(id); ok {
		l.bytes -= li.bytes()
		l.loaded.Remove(id)
		l.closeList(li)
	}
}

// inMemory returns a list if it is loaded; l.mu is held.
func (l *Lists) inMemory(id string) *list {
	if li, ok := l.loaded.Get(id); ok {
		return li
	}
	return nil
}

// keep adds a list to what is loaded, within the bounds. A list that is being
// filled stays, whatever it takes; l.mu is held.
func (l *Lists) keep(li *list) {
	if old, ok := l.loaded.Peek(li.entry.ID); ok {
		l.bytes -= old.bytes()
	}
	l.loaded.Add(li.entry.ID, li)
	l.bytes += li.bytes()
	l.shrink()
}

func (l *Lists) shrink() {
	for range l.loaded.Len() {
		id, oldest, ok := l.loaded.GetOldest()
		if !ok || l.bytes <= cachedListBytes && l.loaded.Len() < cachedLists {
			return
		}
		if l.beingFilled(oldest) {
			l.loaded.Get(id) // look at the next one first
			continue
		}
		l.bytes -= oldest.bytes()
		l.loaded.Remove(id)
	}
}

func (l *Lists) beingFilled(li *list) bool {
	w := l.writers[li.entry.Owner]
	return li.open > 0 || w != nil && w.list == li
}

// change lets a list change in memory, and follows what it takes; l.mu is held.
func (l *Lists) change(li *list, change func()) {
	before := li.bytes()
	change()
	if kept, ok := l.loaded.Peek(li.entry.ID); ok && kept == li {
		l.bytes += li.bytes() - before
	}
}

// markRevoked sets a bit in memory, if the list is there; a load that is under
// way may have missed it, and is not joined any more. l.mu is held.
func (l *Lists) markRevoked(id string, index int, unsure bool) {
	delete(l.loading, id)
	li := l.inMemory(id)
	if li == nil {
		return
	}
	l.change(li, func() {
		if li.revoked.add(index) {
			li.version++
		}
		switch {
		case unsure && li.unsure == nil:
			li.unsure = map[int]bool{index: true}
		case unsure:
			li.unsure[index] = true
		default:
			delete(li.unsure, index)
		}
	})
}

// Revoke marks a token that lives until expires as revoked, with one entry, and
// reports whether there was anything to do: not if it has its entry already.
//
// It needs nothing to be loaded, nor the list to be known: after a failover or a
// restored snapshot this node may not know it yet.
func (l *Lists) Revoke(ctx context.Context, storage logical.Storage, ref Ref, tokenID string, expires time.Time) (bool, error) {
	if !format.ValidID(ref.List) || ref.Index < 0 || ref.Index >= listSize {
		return false, fmt.Errorf("status list %q has no index %d", ref.List, ref.Index)
	}
	l.mu.Lock()
	li := l.inMemory(ref.List)
	done := li != nil && li.revoked.has(ref.Index) && !li.unsure[ref.Index]
	l.mu.Unlock()
	if done {
		return false, nil
	}
	name := ref.List + "/" + revocationName(ref.Index, expires)
	err := l.revocations.Put(ctx, storage, name, &Revocation{TokenID: tokenID, RevokedAt: l.clock()})
	l.mu.Lock()
	defer l.mu.Unlock()
	l.markRevoked(ref.List, ref.Index, err != nil)
	return err == nil, err
}

// Status returns the role that reserved a token's bit, "" if none did, and what
// is known of the bit. Its list is loaded if it is not in memory.
func (l *Lists) Status(ctx context.Context, storage logical.Storage, ref Ref) (role string, status Status, err error) {
	li, err := l.get(ctx, storage, ref.List)
	if err != nil || li == nil {
		return "", NotGiven, err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	from := 0
	for _, b := range li.entry.Blocks {
		if ref.Index >= from && ref.Index < from+b.size {
			role = li.entry.Roles[b.role]
			break
		}
		from += b.size
	}
	switch {
	case ref.Index >= 0 && ref.Index < listSize && li.revoked.has(ref.Index):
		return role, Revoked, nil
	case role == "":
		return "", NotGiven, nil
	}
	return role, Valid, nil
}

// get returns a list, or nil if there is none.
func (l *Lists) get(ctx context.Context, storage logical.Storage, id string) (*list, error) {
	limit := l.maxAge()
	l.mu.Lock()
	li := l.inMemory(id)
	if li != nil && limit > 0 {
		if age := l.clock().Sub(li.readAt); age < 0 || age >= limit {
			l.forget(id)
			li = nil
		}
	}
	l.mu.Unlock()
	if li != nil {
		return li, nil
	}
	if exists, err := l.exists(ctx, storage, id); err != nil || !exists {
		return nil, err
	}
	l.mu.Lock()
	if li := l.inMemory(id); li != nil {
		l.mu.Unlock()
		return li, nil
	}
	if under := l.loading[id]; under != nil {
		l.mu.Unlock()
		select {
		case <-under.done:
			return under.list, under.err
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
	this := &loading{done: make(chan struct{}), err: errors.New("loading the status list panicked")}
	l.loading[id] = this
	l.mu.Unlock()

	defer func() {
		l.mu.Lock()
		defer l.mu.Unlock()
		if l.loading[id] == this { // nothing has changed meanwhile
			delete(l.loading, id)
			switch {
			case this.err != nil:
			case this.list != nil:
				l.keep(this.list)
			default:
				delete(l.known, id) // it was removed
			}
		}
		close(this.done)
	}()
	ctx, cancel := store.Detach(ctx) // others may wait for it
	defer cancel()
	this.list, this.err = l.read(ctx, storage, id)
	return this.list, this.err
}

// exists reports whether there is a list of this id. What lists there are is
// known from one listing, so that made-up ids cost nothing.
func (l *Lists) exists(ctx context.Context, storage logical.Storage, id string) (bool, error) {
	if known, fresh := l.isKnown(id); known || fresh {
		return known, nil
	}
	select {
	case l.relist <- struct{}{}:
	case <-ctx.Done():
		return false, ctx.Err()
	}
	defer func() { <-l.relist }()
	if known, fresh := l.isKnown(id); known || fresh {
		return known, nil // listed while this call waited
	}
	ctx, cancel := store.Detach(ctx) // others wait for it
	defer cancel()
	err := l.listIDs(ctx, storage)
	known, _ := l.isKnown(id)
	return known, err
}

func (l *Lists) isKnown(id string) (known, fresh bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	age := l.clock().Sub(l.knownAt)
	return l.known[id] != nil, l.known != nil && age >= 0 && age < relistAfter
}

// listIDs makes the ids of all lists known. Ids that became known during the
// listing stay known.
func (l *Lists) listIDs(ctx context.Context, storage logical.Storage) error {
	ids, err := l.entries.List(ctx, storage, "")
	if err != nil {
		return err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.known == nil {
		l.known = map[string]*horizon{}
	}
	for _, id := range ids {
		if l.known[id] == nil {
			l.known[id] = &horizon{}
		}
	}
	l.knownAt = l.clock()
	return nil
}

// read loads a list from the storage: two operations. The revocations come first:
// remove deletes them after the entry, so that what is read beside an entry is
// complete.
func (l *Lists) read(ctx context.Context, storage logical.Storage, id string) (*list, error) {
	readAt := l.clock()
	names, err := l.revocations.List(ctx, storage, id+"/")
	if err != nil {
		return nil, err
	}
	stored, err := l.entries.Read(ctx, storage, id)
	if err != nil || stored == nil {
		return nil, err
	}
	li := newList(stored)
	li.readAt = readAt
	for _, name := range names {
		index, _, err := parseRevocationName(name)
		if err != nil {
			return nil, fmt.Errorf("status list %s: %w", id, err)
		}
		li.revoked.add(index)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if h := l.known[id]; h != nil {
		h.until = stored.Until
	}
	return li, nil
}

// Counts are figures of the status lists for operators.
type Counts struct {
	Lists, Loaded, LoadedBytes int
}

// Counts returns how many lists are known and loaded.
func (l *Lists) Counts() Counts {
	l.mu.Lock()
	defer l.mu.Unlock()
	return Counts{Lists: len(l.known), Loaded: l.loaded.Len(), LoadedBytes: l.bytes}
}
