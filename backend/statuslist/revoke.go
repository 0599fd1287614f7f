package statuslist

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/hashicorp/vault/sdk/logical"

	"github.com/vault-tokens/vault-plugin-secrets-tokens/backend/store"
	"github.com/vault-tokens/vault-plugin-secrets-tokens/verify/format"
)

// revoked is what is revoked on one list.
type revoked struct {
	bits bits
	// unsure are revoked indexes of which the storage may or may not know: the
	// write failed, perhaps after it took effect.
	unsure map[int]bool
	roles  map[string]ending // whose tokens in the first blocks are revoked
	// settled: no index is valid any more that no record named at some time, since
	// the list belongs to an instance of before. See Settle.
	settled bool
}

// ending is how many of a list's first blocks have no valid token of a role.
type ending struct {
	blocks int
	unsure bool
}

// add takes over what an entry says, and reports whether a bit has changed. An
// entry that is unsure changes what it says, and not that it may be missing.
func (r *revoked) add(m mark, unsure bool) (changed bool) {
	switch {
	case m.role != "":
		before, known := r.roles[m.role]
		if known && before.blocks > m.blocks || known && before.blocks == m.blocks && unsure {
			return false
		}
		if r.roles == nil {
			r.roles = map[string]ending{}
		}
		r.roles[m.role] = ending{m.blocks, unsure}
		return before.blocks < m.blocks
	case m.index >= 0:
		changed = r.bits.add(m.index)
		switch {
		case !unsure:
			delete(r.unsure, m.index)
		case r.unsure == nil:
			r.unsure = map[int]bool{m.index: true}
		default:
			r.unsure[m.index] = true
		}
	}
	return changed
}

// sure reports whether the storage is known to have the index as revoked.
func (r *revoked) sure(index int) bool { return r.bits.has(index) && !r.unsure[index] }

// clone returns a copy of what is published.
func (r *revoked) clone() revoked {
	return revoked{bits: r.bits.clone(), roles: maps.Clone(r.roles)}
}

// bytes is about what it takes in memory.
func (r *revoked) bytes() int {
	n := r.bits.bytes()
	for role := range r.roles {
		n += 64 + len(role)
	}
	return n
}

// mark takes over a revocation in memory, if the list is there; a load that is
// under way may have missed it, and is not joined any more. l.mu is held.
func (l *Lists) mark(id string, m mark, unsure bool) {
	delete(l.loading, id)
	li := l.inMemory(id)
	if li == nil {
		return
	}
	l.change(li, func() {
		if li.revoked.add(m, unsure) {
			li.version++
		}
	})
}

// Revoke marks a token that lives until expires as revoked, with one entry, and
// reports whether there was anything to do: not if it has its entry already.
//
// It needs nothing to be loaded, nor the list to be known: after a failover or a
// restored snapshot this node may not know it yet.
func (l *Lists) Revoke(ctx context.Context, storage logical.Storage, ref Ref, tokenID string, expires time.Time) (bool, error) {
	if !ref.valid() {
		return false, fmt.Errorf("status list %q has no index %d", ref.List, ref.Index)
	}
	l.mu.Lock()
	li := l.inMemory(ref.List)
	done := li != nil && li.surelyRevoked(ref.Index)
	l.mu.Unlock()
	if done {
		return false, nil
	}
	m := mark{index: ref.Index, expires: expires}
	err := l.revocations.Put(ctx, storage, ref.List+"/"+m.name(), &Revocation{TokenID: tokenID, RevokedAt: l.clock()})
	l.mu.Lock()
	defer l.mu.Unlock()
	l.mark(ref.List, m, err != nil)
	return err == nil, err
}

// surelyRevoked reports whether the storage is known to have the index as revoked, by
// itself or with all that its role had. The lock of the lists is held.
func (li *list) surelyRevoked(index int) bool {
	role, at := li.entry.blockOf(index)
	ended := li.revoked.roles[role]
	return li.revoked.sure(index) || at >= 0 && at < ended.blocks && !ended.unsure
}

// RoleEnded is what EndRole did.
type RoleEnded struct {
	Lists int // on which the role had blocks that were not ended before
	// Unreadable are lists that cannot be decoded. No token on them is active.
	Unreadable []string
}

// EndRole marks every index that the role has reserved until now as revoked, with
// one entry per list, and drops what it has not given out. The caller sees to it
// that none is given out to the role meanwhile. After an error some lists may be
// done, and the next call does the others.
func (l *Lists) EndRole(ctx context.Context, storage logical.Storage, role string) (*RoleEnded, error) {
	l.closeBlocks(role)
	ids, err := l.all(ctx, storage)
	if err != nil {
		return nil, err
	}
	done := &RoleEnded{}
	var failed []error
	for _, id := range ids {
		if ctx.Err() != nil || len(failed) >= maxFailures {
			break
		}
		if err := l.endRoleOn(ctx, storage, id, role, done); err != nil {
			failed = append(failed, err) // what is wrong with one list keeps no other from it
		}
	}
	return done, errors.Join(append(failed, ctx.Err())...)
}

func (l *Lists) endRoleOn(ctx context.Context, storage logical.Storage, id, role string, done *RoleEnded) error {
	li, err := l.get(ctx, storage, id)
	if errors.Is(err, store.ErrUndecodable) {
		done.Unreadable = append(done.Unreadable, id)
		return l.endUnreadable(ctx, storage, id, role)
	}
	if err != nil || li == nil { // nil: removed meanwhile
		return err
	}
	ended, err := l.endRole(ctx, storage, li, role)
	if ended {
		done.Lists++
	}
	return err
}

// all returns the ids of all lists that there are.
func (l *Lists) all(ctx context.Context, storage logical.Storage) ([]string, error) {
	l.mu.Lock()
	complete := !l.knownAt.IsZero() && l.maxAge() == 0 // where this node writes, it knows of each
	l.mu.Unlock()
	if !complete {
		if err := l.listIDs(ctx, storage); err != nil {
			return nil, err
		}
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	return slices.Sorted(maps.Keys(l.known)), nil
}

func (l *Lists) closeBlocks(role string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, w := range l.writers {
		w.closeBlock(role)
	}
}

func (l *Lists) endRole(ctx context.Context, storage logical.Storage, li *list, role string) (bool, error) {
	l.mu.Lock()
	m := mark{index: -1, role: role, blocks: li.entry.blocksUntil(role), expires: li.entry.Until}
	before := li.revoked.roles[role]
	id := li.entry.ID
	l.mu.Unlock()
	if m.blocks == 0 || before.blocks >= m.blocks && !before.unsure {
		return false, nil
	}
	err := l.revocations.Put(ctx, storage, id+"/"+m.name(), &Revocation{RevokedAt: l.clock()})
	l.mu.Lock()
	defer l.mu.Unlock()
	l.mark(id, m, err != nil)
	return err == nil, err
}

// endUnreadable marks all that a role can have on a list that cannot be decoded, since
// it may be readable again, with a later version or a repaired entry. Nothing is given
// out on it any more.
func (l *Lists) endUnreadable(ctx context.Context, storage logical.Storage, id, role string) error {
	m := mark{index: -1, role: role, blocks: listSize, expires: l.clock().Add(undatedMargin)}
	err := l.revocations.Put(ctx, storage, id+"/"+m.name(), &Revocation{RevokedAt: l.clock()})
	l.mu.Lock()
	defer l.mu.Unlock()
	l.mark(id, m, err != nil)
	return err
}

// Status returns the role that reserved a token's bit, "" if none did, and what
// is known of the bit. Its list is loaded if it is not in memory.
func (l *Lists) Status(ctx context.Context, storage logical.Storage, ref Ref) (role string, status Status, err error) {
	if !ref.valid() {
		return "", NotGiven, nil
	}
	li, err := l.get(ctx, storage, ref.List)
	if err != nil || li == nil {
		return "", NotGiven, err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	role, at := li.entry.blockOf(ref.Index)
	switch {
	case li.revoked.bits.has(ref.Index):
		return role, Revoked, nil
	case role == "":
		return "", NotGiven, nil
	case at < li.revoked.roles[role].blocks:
		return role, Revoked, nil
	}
	return role, Valid, nil
}

func (r Ref) valid() bool { return format.ValidID(r.List) && r.Index >= 0 && r.Index < listSize }
