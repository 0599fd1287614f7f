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
	// A block is as large as all that its role has reserved before, within these
	// bounds: few tokens take little of a list, and many cost one write per
	// several thousand.
	smallestBlock = 32
	largestBlock  = 1 << 12

	// firstSize is the Size of the first list of an instance. Each list that was
	// filled is followed by one of twice the size, up to all of it: a token that
	// this engine never issued finds few indexes that read as valid.
	firstSize = 1 << 14

	// reserveAhead is how far beyond the need a list's Until is written.
	reserveAhead = 10 * time.Minute

	// maxBlocks bounds the entry of a list, which each block writes anew: it has some
	// 25 KB then, and 150 KB with the longest names of roles.
	maxBlocks = 1 << 10
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
		w = &writer{changes: make(chan struct{}, 1), size: firstSize, open: map[string]*openBlock{}, taken: map[string]int{}}
		l.writers[owner] = w
	}
	return w
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
		if !b.list.revoked.has(index) {
			return Ref{List: b.list.entry.ID, Index: index}, true
		}
	}
	w.closeBlock(role)
	return Ref{}, false
}

// extend makes room for a token: its role's block lasts longer, or it gets a new
// one on the current list, or on a new list. That is stored before anything is
// given out. w.changes is held.
func (l *Lists) extend(ctx context.Context, storage logical.Storage, w *writer, owner Owner, role string, expires time.Time) error {
	l.mu.Lock()
	current, needsBlock := w.list, true
	if b := w.open[role]; b != nil {
		current, needsBlock = b.list, false
	} else if current != nil && current.full() {
		w.size = min(2*current.entry.Size, listSize)
		w.list, current = nil, nil
	}
	size := min(max(w.taken[role], smallestBlock), largestBlock)
	l.mu.Unlock()

	fresh := current == nil
	if fresh {
		instance, err := l.begin(ctx, storage)
		if err != nil {
			return err
		}
		id, err := format.NewID(l.random)
		if err != nil {
			return err
		}
		current = newList(&entry{ID: id, Owner: owner, Instance: instance, CreatedAt: l.clock(), Size: w.size})
	}
	next := current.entry
	from := next.reserved()
	if needsBlock {
		size = min(size, next.Size-from)
		next = next.with(role, size)
	}
	if expires.After(next.Until) {
		longer := *next
		longer.Until = expires.Add(reserveAhead)
		next = &longer
	}
	err := l.entries.Put(ctx, storage, next.ID, next)

	l.mu.Lock()
	defer l.mu.Unlock()
	if err != nil {
		// The write may still take effect, after any that would follow. So this
		// list is not written again.
		l.closeList(current)
		return err
	}
	if current.closed {
		return nil // somebody else has written the list meanwhile: take another
	}
	if l.known == nil {
		l.known = map[string]*horizon{} // what else exists is still to be listed
	}
	if h := l.known[next.ID]; h != nil {
		h.until = next.Until
	} else {
		l.known[next.ID] = &horizon{until: next.Until}
	}
	if fresh {
		current.setEntry(next)
		w.list = current
		l.keep(current)
	} else {
		l.change(current, func() { current.setEntry(next) })
	}
	if needsBlock {
		w.open[role] = &openBlock{list: current, from: from, rest: shuffled(size)}
		current.open++
		w.taken[role] = min(w.taken[role]+size, largestBlock)
	}
	return nil
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
