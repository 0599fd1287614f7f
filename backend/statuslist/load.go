package statuslist

import (
	"context"
	"errors"
	"fmt"

	"github.com/hashicorp/vault/sdk/logical"

	"github.com/vault-tokens/vault-plugin-secrets-tokens/backend/store"
)

// get returns a list, or nil if there is none.
func (l *Lists) get(ctx context.Context, storage logical.Storage, id string) (*list, error) {
	if li := l.young(id); li != nil {
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

	defer l.loadEnds(id, this)
	ctx, cancel := store.Detach(ctx) // others may wait for it
	defer cancel()
	this.list, this.err = l.read(ctx, storage, id)
	return this.list, this.err
}

// young returns a list that is in memory, if it may still be used.
func (l *Lists) young(id string) *list {
	limit := l.maxAge()
	l.mu.Lock()
	defer l.mu.Unlock()
	li := l.inMemory(id)
	if li == nil || limit == 0 {
		return li
	}
	if age := l.clock().Sub(li.readAt); age < 0 || age >= limit {
		l.forget(id)
		return nil
	}
	return li
}

// loadEnds keeps what was loaded, and tells those who wait for it.
func (l *Lists) loadEnds(id string, this *loading) {
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

// read loads a list from the storage: two operations, three if it was settled. The revocations come first:
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
		m, err := parseMark(name)
		if err != nil {
			return nil, fmt.Errorf("%w: status list %s: %w", store.ErrUndecodable, id, err)
		}
		li.revoked.add(m, false)
		if m.unnamed {
			if err := l.readUnnamed(ctx, storage, id+"/"+name, li); err != nil {
				return nil, err
			}
		}
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if h := l.known[id]; h != nil {
		h.until = stored.Until
		h.settled = li.needsNoSettling()
	}
	return li, nil
}
