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

// Owner is what the tokens of a list have in common: JWTs the key that signed them
// and the issuer that they name, of which their list is too; opaque tokens, which
// name neither, how long they can live.
type Owner struct {
	Key      string   `json:"key,omitempty"`
	Issuer   string   `json:"issuer,omitempty"`
	Lifetime Lifetime `json:"lifetime,omitempty"` // of opaque tokens
}

// Lifetime is how long opaque tokens can live, over all renewals. They share lists
// with such of a like lifetime: else a few that live for years would keep the lists
// of many short ones.
type Lifetime string

// The lifetimes of opaque tokens.
const (
	Day   Lifetime = "day"   // at most 24 hours
	Month Lifetime = "month" // at most 32 days, which is Vault's default maximum
	Long  Lifetime = "long"
)

// LifetimeOf returns the lifetime of a token that can live for so long.
func LifetimeOf(longest time.Duration) Lifetime {
	switch {
	case longest <= 24*time.Hour:
		return Day
	case longest <= 32*24*time.Hour:
		return Month
	}
	return Long
}

// Ref refers to a token's bit: an index in a list. The zero Ref refers to none.
type Ref struct {
	List  string `json:"list"`
	Index int    `json:"index"`
}

// Status is what is known of a token's bit.
type Status int

// The statuses of a bit.
const (
	Valid Status = iota
	Revoked
	NotGiven // the index was never given out, or its list is gone
)

// Lists is all status lists of a mount. Each is loaded when it is asked for.
type Lists struct {
	entries     store.Entries[entry]
	revocations store.Entries[Revocation] // named list/mark
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
	// settled: it needs no settling, as far as is known.
	settled bool
}

// instance is the stored id of the engine that makes lists now.
type instance struct {
	ID        string    `json:"id"`
	StartedAt time.Time `json:"started_at"`
}

// list is one status list in memory.
type list struct {
	entry     *entry    // replaced as a whole; see setEntry
	readAt    time.Time // zero if it was made here
	size      int       // of the entry in memory, in bytes
	revoked   revoked
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
	stored.index()
	li.size = listOverhead + 20*len(stored.Blocks)
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
		m, err := parseMark(name)
		l.mu.Lock()
		defer l.mu.Unlock()
		if err != nil || m.unnamed { // what it says is not in its name
			l.forget(id)
			return true
		}
		l.mark(id, m, false)
		return true
	}
	return false
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
