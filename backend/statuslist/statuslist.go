// Package statuslist gives every JWT its place in a Token Status List
// (draft-ietf-oauth-status-list) and remembers which of them are revoked.
package statuslist

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/vault/sdk/logical"

	"github.com/vault-tokens/vault-plugin-secrets-tokens/wire"
)

const (
	listPrefix    = "list/"
	revokedPrefix = "revoked/"

	// listSize is how many tokens share a list: 16 KiB before compression.
	listSize = 1 << 17
	// blockSize is how many indexes one write reserves.
	blockSize = 1 << 12
	// horizonStep is how far ahead of need a list's Until is written.
	horizonStep = 10 * time.Minute
)

// List is one status list as stored.
type List struct {
	ID        string    `json:"id"`
	Role      string    `json:"role"`
	Key       string    `json:"key"` // signs the list; the role's, which signs its tokens
	CreatedAt time.Time `json:"created_at"`
	// Reserved indexes, from zero, may be in use; the rest are not.
	Reserved int `json:"reserved"`
	// Until bounds the tokens on the list: none of them expires later.
	Until time.Time `json:"until"`
}

// Revocation is the entry of one revoked JWT.
type Revocation struct {
	TokenID   string    `json:"token_id"`
	RevokedAt time.Time `json:"revoked_at"`
}

// Place is where a token stands.
type Place struct {
	List  string
	Index int
}

// Lists is all status lists of a mount, held in memory once loaded.
type Lists struct {
	clock  func() time.Time
	random io.Reader

	stale atomic.Bool // what is in memory may be older than the storage

	mu      sync.Mutex
	byID    map[string]*list
	current map[string]*list // by role: the list that new tokens join
}

type list struct {
	List
	free      []int // reserved and not given out, in random order
	statuses  *wire.StatusList
	version   int        // of the statuses; counts changes
	published *published // nil before the first time
	building  sync.Mutex // held while the list is signed
}

func newList(stored List) *list {
	return &list{List: stored, statuses: wire.NewStatusList(listSize, 1)}
}

// New returns the lists of a mount; they are loaded on first use.
func New(clock func() time.Time, random io.Reader) *Lists {
	l := &Lists{clock: clock, random: random}
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

// Reserve finds a place for a token of a role, signed with key, that lives
// until expires. It writes the storage once per block of indexes, not once per
// token.
func (l *Lists) Reserve(ctx context.Context, storage logical.Storage, role, key string, expires time.Time) (Place, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if err := l.load(ctx, storage); err != nil {
		return Place{}, err
	}
	current := l.current[role]
	if current == nil || len(current.free) == 0 || expires.After(current.Until) || key != current.Key {
		var err error
		if current, err = l.extend(ctx, storage, role, key, current, expires); err != nil {
			return Place{}, err
		}
	}
	last := len(current.free) - 1
	index := current.free[last]
	current.free = current.free[:last]
	return Place{List: current.ID, Index: index}, nil
}

// extend makes room on a role's list, or starts a new one, and persists that
// before anything is given out. l.mu is held.
func (l *Lists) extend(ctx context.Context, storage logical.Storage, role, key string, current *list, expires time.Time) (*list, error) {
	if current != nil && len(current.free) == 0 && current.Reserved >= listSize {
		current = nil
	}
	if current == nil {
		id, err := wire.NewID(l.random)
		if err != nil {
			return nil, err
		}
		current = newList(List{ID: id, Role: role, CreatedAt: l.clock()})
	}
	next := current.List
	next.Key = key
	var block []int
	if len(current.free) == 0 {
		// In random order, so that an index says nothing about when its token
		// was issued.
		block = rand.Perm(min(blockSize, listSize-next.Reserved))
		for i := range block {
			block[i] += next.Reserved
		}
		next.Reserved += len(block)
	}
	if expires.After(next.Until) {
		next.Until = expires.Add(horizonStep)
	}
	if err := putJSON(ctx, storage, listPrefix+next.ID, next); err != nil {
		return nil, err
	}
	current.List = next
	current.free = append(current.free, block...)
	l.byID[current.ID] = current
	l.current[role] = current
	return current, nil
}

// Revoke marks a token as revoked, with one entry. On a list that is gone all
// tokens have expired, and there is nothing to do.
func (l *Lists) Revoke(ctx context.Context, storage logical.Storage, place Place, tokenID string) error {
	l.mu.Lock()
	list, err := l.find(ctx, storage, place)
	l.mu.Unlock()
	if err != nil || list == nil {
		return err
	}
	revocation := Revocation{TokenID: tokenID, RevokedAt: l.clock()}
	if err := putJSON(ctx, storage, revokedKey(place), revocation); err != nil {
		return err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if list = l.byID[place.List]; list != nil {
		list.statuses.Set(place.Index, wire.StatusInvalid)
		list.version++
	}
	return nil
}

// Look tells of which role the token at a place is, and whether it is revoked.
// A place on no known list counts as revoked: lists outlive their tokens.
func (l *Lists) Look(ctx context.Context, storage logical.Storage, place Place) (role string, revoked bool, err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	list, err := l.find(ctx, storage, place)
	if err != nil || list == nil {
		return "", true, err
	}
	status, _ := list.statuses.Get(place.Index)
	return list.Role, status != wire.StatusValid, nil
}

// find returns the list that a place is on, or nil. l.mu is held.
func (l *Lists) find(ctx context.Context, storage logical.Storage, place Place) (*list, error) {
	if err := l.load(ctx, storage); err != nil {
		return nil, err
	}
	list := l.byID[place.List]
	if list == nil || place.Index < 0 || place.Index >= list.Reserved {
		return nil, nil
	}
	return list, nil
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

func (l *Lists) read(ctx context.Context, storage logical.Storage) (byID, current map[string]*list, err error) {
	ids, err := storage.List(ctx, listPrefix)
	if err != nil {
		return nil, nil, fmt.Errorf("list status lists: %w", err)
	}
	byID, current = map[string]*list{}, map[string]*list{}
	for _, id := range ids {
		read, err := readList(ctx, storage, id)
		if err != nil {
			return nil, nil, err
		}
		if read == nil {
			continue // removed since it was listed
		}
		byID[id] = read
		// What was reserved before and not given out is lost, on purpose: it
		// cannot be told from what was.
		if newest := current[read.Role]; read.Reserved < listSize && (newest == nil || read.CreatedAt.After(newest.CreatedAt)) {
			current[read.Role] = read
		}
	}
	return byID, current, nil
}

func readList(ctx context.Context, storage logical.Storage, id string) (*list, error) {
	entry, err := storage.Get(ctx, listPrefix+id)
	if err != nil || entry == nil {
		return nil, err
	}
	var stored List
	if err := json.Unmarshal(entry.Value, &stored); err != nil {
		return nil, fmt.Errorf("decode status list %s: %w", id, err)
	}
	read := newList(stored)
	indexes, err := storage.List(ctx, revokedPrefix+id+"/")
	if err != nil {
		return nil, fmt.Errorf("list revocations of %s: %w", id, err)
	}
	for _, s := range indexes {
		index, err := strconv.Atoi(s)
		if err != nil || !read.statuses.Set(index, wire.StatusInvalid) {
			return nil, fmt.Errorf("status list %s has a revocation at %q", id, s)
		}
	}
	return read, nil
}

func revokedKey(place Place) string {
	return revokedPrefix + place.List + "/" + strconv.Itoa(place.Index)
}

func putJSON(ctx context.Context, storage logical.Storage, key string, value any) error {
	entry, err := logical.StorageEntryJSON(key, value)
	if err != nil {
		return fmt.Errorf("encode %s: %w", key, err)
	}
	if err := storage.Put(ctx, entry); err != nil {
		return fmt.Errorf("write %s: %w", key, err)
	}
	return nil
}
