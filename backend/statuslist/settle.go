package statuslist

import (
	"context"
	"fmt"

	"github.com/hashicorp/vault/sdk/logical"

	"github.com/vault-tokens/vault-plugin-secrets-tokens/backend/store"
	"github.com/vault-tokens/vault-plugin-secrets-tokens/verify/format"
)

// maxSettling bounds the lists that are settled at once, and so the memory it takes:
// 16 KiB each.
const maxSettling = 64

// Settling finds the indexes of opaque tokens that no record names. A restored
// snapshot knows nothing of a token that was issued after it was taken, though
// perhaps of the block that its index is in: nobody could revoke such a token for
// the verifiers that still remember it. Lists of this instance need no settling:
// each index that it has given out has its record.
type Settling struct {
	lists *Lists
	named map[string]*format.StatusList // by list
}

// BeginSettling returns what is to be settled: lists of opaque tokens that an
// instance of before has made. Every record that is stored now must be passed to
// Name before End.
func (l *Lists) BeginSettling(ctx context.Context, storage logical.Storage) (*Settling, error) {
	s := &Settling{lists: l, named: map[string]*format.StatusList{}}
	ids, err := l.all(ctx, storage)
	if err != nil {
		return nil, err
	}
	for _, id := range ids {
		if len(s.named) == maxSettling {
			break
		}
		if l.isSettled(id) {
			continue
		}
		li, err := l.get(ctx, storage, id)
		if err != nil || li == nil {
			continue // what cannot be read is not active anyway
		}
		l.mu.Lock()
		if !li.needsNoSettling() && li.entry.Instance != l.instance {
			s.named[id] = format.NewStatusList(listSize, 1)
		}
		l.mu.Unlock()
	}
	return s, nil
}

// needsNoSettling reports whether the list is settled, or of tokens without records.
func (li *list) needsNoSettling() bool {
	return li.revoked.settled || li.entry.Lifetime == ""
}

func (l *Lists) isSettled(id string) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	h := l.known[id]
	return h != nil && h.settled
}

// Lists returns how many lists are to be settled.
func (s *Settling) Lists() int { return len(s.named) }

// Name says that a record refers to an index.
func (s *Settling) Name(ref Ref) {
	if named := s.named[ref.List]; named != nil && ref.valid() {
		named.Set(ref.Index, format.StatusInvalid)
	}
}

// End marks the indexes that no record names as revoked, with one entry per list,
// and returns how many lists it has settled.
func (s *Settling) End(ctx context.Context, storage logical.Storage) (int, error) {
	done := 0
	for id, named := range s.named {
		li, err := s.lists.get(ctx, storage, id)
		if err != nil {
			return done, err
		}
		if li == nil {
			continue
		}
		if err := s.lists.settle(ctx, storage, li, named); err != nil {
			return done, err
		}
		done++
	}
	return done, nil
}

func (l *Lists) settle(ctx context.Context, storage logical.Storage, li *list, named *format.StatusList) error {
	l.mu.Lock()
	m := mark{index: -1, unnamed: true, expires: li.entry.Until}
	id, reserved := li.entry.ID, li.entry.reserved()
	l.mu.Unlock()
	unnamed := format.NewStatusList(listSize, 1)
	for i := range reserved {
		if status, _ := named.Get(i); status == format.StatusValid {
			unnamed.Set(i, format.StatusInvalid)
		}
	}
	places, err := unnamed.Encode()
	if err != nil {
		return fmt.Errorf("settle status list %s: %w", id, err)
	}
	err = l.revocations.Put(ctx, storage, id+"/"+m.name(), &Revocation{RevokedAt: l.clock(), Places: places})
	if err != nil {
		return err // it may be there or not: all of it is right
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.loading, id)
	l.change(li, func() { li.addUnnamed(unnamed) })
	return nil
}

// addUnnamed takes over what a list was settled with; the lock of the lists is held.
func (li *list) addUnnamed(unnamed *format.StatusList) {
	li.revoked.settled = true
	for i := range listSize {
		if status, _ := unnamed.Get(i); status != format.StatusValid && li.revoked.bits.add(i) {
			li.version++
		}
	}
}

// readUnnamed reads what a list was settled with.
func (l *Lists) readUnnamed(ctx context.Context, storage logical.Storage, name string, li *list) error {
	stored, err := l.revocations.Read(ctx, storage, name)
	if err != nil || stored == nil {
		return err
	}
	unnamed, err := format.DecodeStatusList(1, stored.Places, listSize/8)
	if err != nil {
		return fmt.Errorf("%w: %s%s: %w", store.ErrUndecodable, revokedPrefix, name, err)
	}
	li.addUnnamed(unnamed)
	return nil
}
