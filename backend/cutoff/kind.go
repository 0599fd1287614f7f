package cutoff

import (
	"context"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/hashicorp/vault/sdk/logical"

	"github.com/vault-tokens/vault-plugin-secrets-tokens/backend/store"
)

// kind is the cut-offs of one kind of owner, by id.
type kind struct {
	entries store.Entries[Entry] // named by nameOf
	clock   func() time.Time
	maxAge  func() time.Duration
	listing chan struct{} // held by who lists the entries

	mu     sync.Mutex // never held during I/O
	known  map[string]int64
	listed time.Time // zero before the first listing
	// since is, while the entries are listed, what became known meanwhile: the
	// listing may lack it. Nil otherwise.
	since map[string]int64
}

func newKind(prefix string, clock func() time.Time, maxAge func() time.Duration) *kind {
	return &kind{entries: entriesBelow(prefix), clock: clock, maxAge: maxAge, listing: make(chan struct{}, 1), known: map[string]int64{}}
}

// nameOf is the name of an entry: the id, and the cut-off in Unix seconds.
func nameOf(id string, seconds int64) string { return id + "." + strconv.FormatInt(seconds, 10) }

func parseName(name string) (id string, seconds int64, ok bool) {
	dot := strings.LastIndexByte(name, '.')
	if dot < 1 {
		return "", 0, false
	}
	seconds, err := strconv.ParseInt(name[dot+1:], 10, 64)
	return name[:dot], seconds, err == nil
}

func (k *kind) get(ctx context.Context, storage logical.Storage, id string) (time.Time, error) {
	if err := k.load(ctx, storage); err != nil {
		return time.Time{}, err
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	return timeOf(k.known[id]), nil
}

func (k *kind) latest(ctx context.Context, storage logical.Storage) (time.Time, error) {
	if err := k.load(ctx, storage); err != nil {
		return time.Time{}, err
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	var newest int64
	for _, seconds := range k.known {
		newest = max(newest, seconds)
	}
	return timeOf(newest), nil
}

func timeOf(seconds int64) time.Time {
	if seconds == 0 {
		return time.Time{}
	}
	return time.Unix(seconds, 0).UTC()
}

// end stores a cut-off of now. It needs nothing to be known of earlier ones: if one
// is later, that one counts.
func (k *kind) end(ctx context.Context, storage logical.Storage, id string) (time.Time, error) {
	k.mu.Lock()
	now := k.clock().UTC()
	before := k.known[id]
	seconds := max(before, now.Unix())
	k.learn(id, seconds)
	k.mu.Unlock()
	entry := &Entry{At: now}
	if seconds > now.Unix() {
		entry.At = timeOf(seconds) // the clock is behind
	}
	if err := k.entries.Put(ctx, storage, nameOf(id, seconds), entry); err != nil {
		return time.Time{}, err
	}
	if before != 0 && before != seconds {
		// If it stays, tidying removes it.
		_ = k.entries.Delete(ctx, storage, nameOf(id, before))
	}
	return timeOf(seconds), nil
}

// learn takes note of a cut-off, if it is later than what is known; k.mu is held.
func (k *kind) learn(id string, seconds int64) {
	k.known[id] = max(k.known[id], seconds)
	if k.since != nil {
		k.since[id] = k.known[id]
	}
}

// invalidate learns of an entry that was written elsewhere, or removed: then no
// token needed it, or there is a later one, and what is known does no harm.
func (k *kind) invalidate(key string) bool {
	name, ours := strings.CutPrefix(key, k.entries.Prefix)
	if !ours {
		return false
	}
	if id, seconds, ok := parseName(name); ok {
		k.mu.Lock()
		defer k.mu.Unlock()
		k.learn(id, seconds)
	}
	return true
}

// load lists the entries, unless they are known. All who ask at the time share one
// listing.
func (k *kind) load(ctx context.Context, storage logical.Storage) error {
	if k.fresh() {
		return nil
	}
	select {
	case k.listing <- struct{}{}:
	case <-ctx.Done():
		return ctx.Err()
	}
	defer func() { <-k.listing }()
	if k.fresh() {
		return nil // by who was before
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	k.mu.Lock()
	k.since = map[string]int64{}
	k.mu.Unlock()
	began := k.clock()
	ctx, cancel := store.Detach(ctx) // others wait for it
	defer cancel()
	names, err := k.entries.List(ctx, storage, "")
	k.mu.Lock()
	defer k.mu.Unlock()
	if err == nil {
		k.replace(names, began)
	}
	k.since = nil
	return err
}

func (k *kind) fresh() bool {
	limit := k.maxAge()
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.listed.IsZero() || limit == 0 {
		return !k.listed.IsZero()
	}
	age := k.clock().Sub(k.listed)
	return age >= 0 && age < limit
}

// replace takes over what was listed. The first listing adds to what is known: a
// cut-off whose write was not confirmed may not be stored. A later one is made by a
// node that follows another: what is not listed any more goes. k.mu is held.
func (k *kind) replace(names []string, at time.Time) {
	if !k.listed.IsZero() {
		k.known = k.since
	}
	k.listed = at
	for _, name := range names {
		if id, seconds, ok := parseName(name); ok { // others are of a later version
			k.known[id] = max(k.known[id], seconds)
		}
	}
}

// forget drops a cut-off that was removed, unless there is a later one.
func (k *kind) forget(id string, seconds int64) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.known[id] == seconds {
		delete(k.known, id)
	}
}
