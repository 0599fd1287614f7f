package statuslist

import (
	"context"
	"math/rand/v2"
	"slices"
	"time"

	"github.com/hashicorp/vault/sdk/logical"

	"github.com/vault-tokens/vault-plugin-secrets-tokens/verify/format"
)

const (
	// A block is three times as large as all that its role has reserved before,
	// within these bounds: few tokens take little of a list, and many cost one write
	// per several thousand.
	smallestBlock = 32
	blockGrowth   = 3
	largestBlock  = 1 << 12

	// firstSize is the Size of the first list of JWTs of an instance. Each that was
	// filled is followed by one of twice the size, up to all of it: a token that
	// this engine never issued finds few indexes that read as valid. Of an opaque
	// token the engine knows by its record whether it issued it.
	firstSize = 1 << 14

	// reserveAhead is how far beyond the need a list's Until is written.
	reserveAhead = 10 * time.Minute

	// maxBlocks bounds the entry of a list, which each block writes anew: it has some
	// 100 KB then, and 600 KB with the longest names of roles. The smallest blocks
	// just fill a list before it is reached.
	maxBlocks = 1 << 12
)

// writer reserves indexes for the tokens of one owner, on one list at a time. A
// block that is open stays so when its list is full: else many roles would fill
// lists with blocks that none of them has used.
type writer struct {
	changes chan struct{} // held by who writes the entry of a list
	list    *list         // where blocks are reserved; nil if the next one needs a new list
	size    int           // of the next list
	open    map[string]*openBlock
	taken   map[string]int // by role, what it has reserved, at most largestBlock
}

// openBlock is reserved indexes that are not given out yet, in random order, so
// that an index does not show when its token was issued.
type openBlock struct {
	list *list
	from int
	rest []uint16
}

// closeBlock forgets the role's block, which is used up or must not be used.
func (w *writer) closeBlock(role string) {
	if b := w.open[role]; b != nil {
		b.list.open--
		delete(w.open, role)
	}
}

// closeList makes sure that nothing more is given out on a list; l.mu is held.
func (l *Lists) closeList(li *list) {
	li.closed = true
	w := l.writers[li.entry.Owner]
	if w == nil {
		return
	}
	if w.list == li {
		w.list = nil
	}
	if li.open == 0 {
		return
	}
	for role, b := range w.open {
		if b.list == li {
			w.closeBlock(role)
		}
	}
}

// Reserve returns an unused bit for a token of a role that lives until expires.
// It writes the storage once per block of indexes, not once per token.
func (l *Lists) Reserve(ctx context.Context, storage logical.Storage, owner Owner, role string, expires time.Time) (Ref, error) {
	w := l.writer(owner)
	if ref, ok := l.take(w, role, expires); ok {
		return ref, nil
	}
	select {
	case w.changes <- struct{}{}:
	case <-ctx.Done():
		return Ref{}, ctx.Err()
	}
	defer func() { <-w.changes }()
	for {
		if ref, ok := l.take(w, role, expires); ok {
			return ref, nil // by now, or reserved below
		}
		if err := l.extend(ctx, storage, w, owner, role, expires); err != nil {
			return Ref{}, err
		}
	}
}

func (l *Lists) writer(owner Owner) *writer {
	l.mu.Lock()
	defer l.mu.Unlock()
	w := l.writers[owner]
	if w == nil {
		w = &writer{changes: make(chan struct{}, 1), size: owner.firstSize(), open: map[string]*openBlock{}, taken: map[string]int{}}
		l.writers[owner] = w
	}
	return w
}

func (o Owner) firstSize() int {
	if o.Lifetime != "" {
		return listSize
	}
	return firstSize
}

// take gives out a reserved index, if the role has one on a list that lasts for
// long enough.
func (l *Lists) take(w *writer, role string, expires time.Time) (Ref, bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	b := w.open[role]
	if b == nil || expires.After(b.list.entry.Until) {
		return Ref{}, false
	}
	for len(b.rest) > 0 {
		last := len(b.rest) - 1
		index := b.from + int(b.rest[last])
		b.rest = b.rest[:last]
		if !b.list.revoked.bits.has(index) {
			return Ref{List: b.list.entry.ID, Index: index}, true
		}
	}
	w.closeBlock(role)
	return Ref{}, false
}

// extension is a change of a list's entry that makes room for a token.
type extension struct {
	list  *list
	fresh bool   // the list is not stored yet
	next  *entry // as it will be
	from  int    // of the new block
	size  int    // of the new block; 0 if there is none
}

// extend makes room for a token: its role's block lasts longer, or it gets a new
// one on the current list, or on a new list. That is stored before anything is
// given out. w.changes is held.
func (l *Lists) extend(ctx context.Context, storage logical.Storage, w *writer, owner Owner, role string, expires time.Time) error {
	x := l.plan(w, role)
	if x.list == nil {
		instance, err := l.begin(ctx, storage)
		if err != nil {
			return err
		}
		id, err := format.NewID(l.random)
		if err != nil {
			return err
		}
		x.list = newList(&entry{ID: id, Owner: owner, Instance: instance, CreatedAt: l.clock(), Size: w.size})
		x.fresh = true
	}
	x.next = x.list.entry
	if x.size > 0 {
		x.from = x.next.reserved()
		x.size = min(x.size, x.next.Size-x.from)
		x.next = x.next.with(role, x.size)
	}
	x.next = x.next.until(expires)
	err := l.entries.Put(ctx, storage, x.next.ID, x.next)
	l.commit(w, role, x, err)
	return err
}

// plan decides what is extended: the list is nil if it takes a new one.
func (l *Lists) plan(w *writer, role string) *extension {
	l.mu.Lock()
	defer l.mu.Unlock()
	if b := w.open[role]; b != nil {
		return &extension{list: b.list}
	}
	if w.list != nil && w.list.full() {
		w.size = min(2*w.list.entry.Size, listSize)
		w.list = nil
	}
	return &extension{list: w.list, size: blockSize(w.taken[role])}
}

// commit follows the write of an extension in memory.
func (l *Lists) commit(w *writer, role string, x *extension, err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if err != nil {
		// The write may still take effect, after any that would follow. So no
		// block of this list is reserved any more.
		l.closeList(x.list)
		return
	}
	if x.list.closed {
		return // somebody else has written the list meanwhile: take another
	}
	l.noteUntil(x.next)
	if x.fresh {
		x.list.setEntry(x.next)
		w.list = x.list
		l.keep(x.list)
	} else {
		l.change(x.list, func() { x.list.setEntry(x.next) })
	}
	if x.size > 0 {
		w.open[role] = &openBlock{list: x.list, from: x.from, rest: shuffled(x.size)}
		x.list.open++
		w.taken[role] = min(w.taken[role]+x.size, largestBlock)
	}
}

// noteUntil makes the list known; l.mu is held.
func (l *Lists) noteUntil(e *entry) {
	if l.known == nil {
		l.known = map[string]*horizon{} // what else exists is still to be listed
	}
	if h := l.known[e.ID]; h != nil {
		h.until = e.Until
	} else {
		l.known[e.ID] = &horizon{until: e.Until}
	}
}

// Prolong makes sure that a list lasts until a token on it expires that is about to
// be renewed. It writes the storage once per list and reserveAhead, and reports
// false if there is no such list.
func (l *Lists) Prolong(ctx context.Context, storage logical.Storage, id string, expires time.Time) (bool, error) {
	li, err := l.get(ctx, storage, id)
	if err != nil || li == nil {
		return false, err
	}
	if l.lasts(li, expires) {
		return true, nil
	}
	w := l.writer(l.ownerOf(li))
	select {
	case w.changes <- struct{}{}:
	case <-ctx.Done():
		return false, ctx.Err()
	}
	defer func() { <-w.changes }()
	// Again: it may have been written, or removed, while this call waited.
	if li, err = l.get(ctx, storage, id); err != nil || li == nil {
		return false, err
	}
	if l.lasts(li, expires) {
		return true, nil
	}
	l.mu.Lock()
	next := li.entry.until(expires)
	l.mu.Unlock()
	err = l.entries.Put(ctx, storage, id, next)
	l.mu.Lock()
	defer l.mu.Unlock()
	if err != nil {
		l.closeList(li) // as in commit
		return false, err
	}
	l.noteUntil(next)
	delete(l.loading, id) // it may have read what was there before
	l.change(li, func() { li.setEntry(next) })
	return true, nil
}

// Until returns until when a list lasts at least, zero if there is none.
func (l *Lists) Until(ctx context.Context, storage logical.Storage, id string) (time.Time, error) {
	li, err := l.get(ctx, storage, id)
	if err != nil || li == nil {
		return time.Time{}, err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	return li.entry.Until, nil
}

func (l *Lists) lasts(li *list, expires time.Time) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return !expires.After(li.entry.Until)
}

func (l *Lists) ownerOf(li *list) Owner {
	l.mu.Lock()
	defer l.mu.Unlock()
	return li.entry.Owner
}

func blockSize(taken int) int {
	return min(max(blockGrowth*taken, smallestBlock), largestBlock)
}

// full reports whether the list has no room for another block.
func (li *list) full() bool {
	return li.entry.reserved() >= li.entry.Size || len(li.entry.Blocks) >= maxBlocks
}

func shuffled(n int) []uint16 {
	order := make([]uint16, n)
	for i := range order {
		order[i] = uint16(i)
	}
	rand.Shuffle(n, func(i, j int) { order[i], order[j] = order[j], order[i] })
	return slices.Clip(order)
}
