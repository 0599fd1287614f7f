// Package statuslist gives every JWT a bit in a Token Status List
// (draft-ietf-oauth-status-list) and remembers which of them are revoked.
package statuslist

import (
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/vault/sdk/logical"

	"github.com/vault-tokens/vault-plugin-secrets-tokens/backend/store"
	"github.com/vault-tokens/vault-plugin-secrets-tokens/verify/format"
)

const (
	listPrefix    = "list/"
	revokedPrefix = "revoked/"

	// listSize is how many tokens share a list: 16 KiB before compression.
	listSize = 1 << 17
	// blockSize is how many indexes one write reserves.
	blockSize = 1 << 12
	// reserveAhead is how far beyond the need a list's Until is written.
	reserveAhead = 10 * time.Minute
)

// entry is one status list as stored. All its tokens are of one role, name one
// issuer and are signed with one key, which signs the list as well.
type entry struct {
	ID string `json:"id"`
	Owner
	CreatedAt time.Time `json:"created_at"`
	// Reserved indexes, from zero, may be in use; the rest are not.
	Reserved int `json:"reserved"`
	// Until bounds the tokens on the list: none of them expires later.
	Until time.Time `json:"until"`
}

// Owner is what the tokens of a list have in common.
type Owner struct {
	Role   string `json:"role"`
	Key    string `json:"key"`
	Issuer string `json:"issuer"`
}

// Revocation is the entry of one revoked JWT.
type Revocation struct {
	TokenID   string    `json:"token_id"`
	RevokedAt time.Time `json:"revoked_at"`
}

// Ref refers to a token's bit: an index in a list.
type Ref struct {
	List  string
	Index int
}

// Lists is all status lists of a mount, held in memory once loaded.
type Lists struct {
	entries     store.Entries[entry]
	revocations store.Entries[Revocation] // named by revocationName
	clock       func() time.Time
	random      io.Reader

	stale atomic.Bool // what is in memory may be older than the storage

	mu      sync.Mutex
	byID    map[string]*list
	current map[Owner]*list // the list that new tokens join
}

// list is one status list in memory.
type list struct {
	entry
	free      []int // reserved and not given out, in random order
	statuses  *format.StatusList
	version   int        // of the statuses; counts changes
	published *published // nil before the first time
	building  sync.Mutex // held while the list is signed
}

func newList(stored entry) *list {
	return &list{entry: stored, statuses: format.NewStatusList(listSize, 1)}
}

// New returns the lists of a mount; they are loaded on first use.
func New(clock func() time.Time, random io.Reader) *Lists {
	l := &Lists{
		entries:     store.Entries[entry]{Prefix: listPrefix},
		revocations: store.Entries[Revocation]{Prefix: revokedPrefix},
		clock:       clock,
		random:      random,
	}
	l.stale.Store(true)
	return l
}

// Invalidate drops what is in memory when a storage key changed elsewhere.
func (l *Lists) Invalidate(key string) bool {
	ours := strings.HasPrefix(key, listPrefix) || strings.HasPrefix(key, revokedPrefix)
	if ours {
		l.stale.Store(true)
	}
	return ours
}

// Reserve returns an unused bit for a token that lives until expires. It writes the
// storage once per block of indexes, not once per token.
func (l *Lists) Reserve(ctx context.Context, storage logical.Storage, owner Owner, expires time.Time) (Ref, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if err := l.load(ctx, storage); err != nil {
		return Ref{}, err
	}
	current := l.current[owner]
	if current == nil || len(current.free) == 0 || expires.After(current.Until) {
		var err error
		if current, err = l.extend(ctx, storage, owner, current, expires); err != nil {
			return Ref{}, err
		}
	}
	last := len(current.free) - 1
	index := current.free[last]
	current.free = current.free[:last]
	return Ref{List: current.ID, Index: index}, nil
}

// extend makes room on the current list, or starts a new one, and persists
// that before anything is given out. l.mu is held.
func (l *Lists) extend(ctx context.Context, storage logical.Storage, owner Owner, current *list, expires time.Time) (*list, error) {
	if current == nil || len(current.free) == 0 && current.Reserved >= listSize {
		id, err := format.NewID(l.random)
		if err != nil {
			return nil, err
		}
		current = newList(entry{ID: id, Owner: owner, CreatedAt: l.clock()})
	}
	next := current.entry
	var block []int
	if len(current.free) == 0 {
		// In random order, so that an index does not show when its token was
		// issued.
		block = rand.Perm(min(blockSize, listSize-next.Reserved))
		for i := range block {
			block[i] += next.Reserved
		}
		next.Reserved += len(block)
	}
	if expires.After(next.Until) {
		next.Until = expires.Add(reserveAhead)
	}
	if err := l.entries.Put(ctx, storage, next.ID, &next); err != nil {
		return nil, err
	}
	current.entry = next
	current.free = append(current.free, block...)
	l.byID[current.ID] = current
	l.current[owner] = current
	return current, nil
}

// Revoke marks a token as revoked, with one entry, and reports whether there
// was anything to do: not if it is revoked already, or on a list that is gone,
// on which all tokens have expired.
//
// An index that was never reserved is revoked too: after a snapshot was restored,
// the storage does not know what was given out since.
func (l *Lists) Revoke(ctx context.Context, storage logical.Storage, ref Ref, tokenID string) (bool, error) {
	if todo, err := l.revocable(ctx, storage, ref); err != nil || !todo {
		return false, err
	}
	err := l.revocations.Put(ctx, storage, revocationName(ref), &Revocation{TokenID: tokenID, RevokedAt: l.clock()})
	if err != nil {
		return false, err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if known := l.byID[ref.List]; known != nil {
		known.markRevoked(ref.Index)
	}
	return true, nil
}

func (l *Lists) revocable(ctx context.Context, storage logical.Storage, ref Ref) (bool, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if err := l.load(ctx, storage); err != nil {
		return false, err
	}
	known := l.byID[ref.List]
	if known == nil {
		return false, nil
	}
	status, ok := known.statuses.Get(ref.Index)
	return ok && status == format.StatusValid, nil
}

// markRevoked sets the status of an index, and keeps it from being given out.
func (of *list) markRevoked(index int) bool {
	if !of.statuses.Set(index, format.StatusInvalid) {
		return false
	}
	of.version++
	if index >= of.Reserved {
		of.Reserved = index + 1
	}
	return true
}

// Status returns the token's role and whether it is revoked.
// An index that was not given out counts as revoked, as does one on a list that
// is gone: lists outlive their tokens.
func (l *Lists) Status(ctx context.Context, storage logical.Storage, ref Ref) (role string, revoked bool, err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if err := l.load(ctx, storage); err != nil {
		return "", true, err
	}
	known := l.byID[ref.List]
	if known == nil || ref.Index >= known.Reserved {
		return "", true, nil
	}
	status, ok := known.statuses.Get(ref.Index)
	return known.Role, !ok || status != format.StatusValid, nil
}

// load reads all lists and revocations, unless memory is current. l.mu is held.
func (l *Lists) load(ctx context.Context, storage logical.Storage) error {
	if !l.stale.Swap(false) {
		return nil
	}
	byID, current, err := l.read(ctx, storage)
	if err != nil {
		l.stale.Store(true)
		return err
	}
	l.byID, l.current = byID, current
	return nil
}

func (l *Lists) read(ctx context.Context, storage logical.Storage) (byID map[string]*list, current map[Owner]*list, err error) {
	ids, err := l.entries.List(ctx, storage, "")
	if err != nil {
		return nil, nil, err
	}
	byID, current = map[string]*list{}, map[Owner]*list{}
	for _, id := range ids {
		read, err := l.readList(ctx, storage, id)
		if err != nil {
			return nil, nil, err
		}
		if read == nil {
			continue // removed since it was listed
		}
		byID[id] = read
		// What was reserved before and not given out is lost, on purpose: nothing
		// distinguishes it from what was given out.
		if newest := current[read.Owner]; read.Reserved < listSize && (newest == nil || read.CreatedAt.After(newest.CreatedAt)) {
			current[read.Owner] = read
		}
	}
	return byID, current, nil
}

func (l *Lists) readList(ctx context.Context, storage logical.Storage, id string) (*list, error) {
	stored, err := l.entries.Read(ctx, storage, id)
	if err != nil || stored == nil {
		return nil, err
	}
	read := newList(*stored)
	indexes, err := l.revocations.List(ctx, storage, id+"/")
	if err != nil {
		return nil, err
	}
	for _, s := range indexes {
		index, err := strconv.Atoi(s)
		if err != nil || !read.markRevoked(index) {
			return nil, fmt.Errorf("status list %s has a revocation at %q", id, s)
		}
	}
	return read, nil
}

func revocationName(ref Ref) string { return ref.List + "/" + strconv.Itoa(ref.Index) }
