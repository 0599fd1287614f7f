// Package lastseen keeps when tokens were last introspected. A write for each
// introspection would cost more than the introspection, so times are noted in
// memory and written once an hour, many tokens to an entry.
package lastseen

import (
	"cmp"
	"context"
	"errors"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/hashicorp/vault/sdk/logical"

	"github.com/vault-tokens/vault-plugin-secrets-tokens/backend/store"
	"github.com/vault-tokens/vault-plugin-secrets-tokens/verify/format"
)

// Interval is how often what was noted is written. A process that ends without
// warning loses what it noted since: so far can a time be behind.
const Interval = time.Hour

const (
	storagePrefix = "seen/"
	// bucketDigits of an id, its last ones, which are uniform, name the entry that
	// its time is in: one of 62² = 3,844.
	bucketDigits = 2
	// maxBucket bounds the tokens of an entry, 63 bytes each, to 256 KiB, since
	// storages refuse entries above 512 KiB (Consul) or 1 MiB (Raft). It is reached
	// by some 15 million tokens.
	maxBucket = 1 << 12
	// maxNoted bounds the tokens in memory, some 100 bytes each. When there are
	// three quarters of them, they are written before their time.
	maxNoted = 1 << 19
	// maxFailures end a run: the storage is then down.
	maxFailures = 10
)

// times is what is kept of a token, in seconds since 1970.
type times struct {
	Seen int64 `json:"seen"` // 0: not seen, but renewed
	Ends int64 `json:"ends"` // expiry, as of when the token was last seen or renewed
}

// bucket is the times of all tokens whose ids end in the same digits.
type bucket struct {
	Tokens map[string]times `json:"tokens"`
}

// Times is when the tokens of a mount were last seen.
type Times struct {
	entries   store.Entries[bucket]
	clock     func() time.Time
	writeSafe func() bool
	maxNoted  int

	flushing sync.Mutex // one run at a time
	// todo is the buckets that the flush under way has not written, and whether it
	// tried.
	todo map[string]bool

	mu    sync.Mutex
	noted map[string]map[string]times // not written yet; by bucket and id
	count int                         // of the tokens in noted
	due   time.Time                   // when the next flush begins
}

// New returns the times of a mount. Nothing is noted on a node that is not
// writeSafe, since it could not write it.
func New(clock func() time.Time, writeSafe func() bool) *Times {
	return &Times{
		entries:   store.Entries[bucket]{Prefix: storagePrefix, Format: 1},
		clock:     clock,
		writeSafe: writeSafe,
		maxNoted:  maxNoted,
		todo:      map[string]bool{},
		noted:     map[string]map[string]times{},
		due:       clock().Add(Interval),
	}
}

// bucketOf names the entry of a token.
func bucketOf(id string) string { return id[format.IDLength-bucketDigits:] }

// Note notes that a token was seen active now. It expires at the given time, after
// which nobody asks when it was seen.
func (t *Times) Note(id string, expiresAt time.Time) {
	t.note(id, times{Seen: t.clock().Unix(), Ends: expiresAt.Unix()})
}

// Renewed notes that a token expires later, so that its time is kept for as long.
func (t *Times) Renewed(id string, expiresAt time.Time) {
	t.note(id, times{Ends: expiresAt.Unix()})
}

func (t *Times) note(id string, now times) {
	if len(id) != format.IDLength || !t.writeSafe() {
		return
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	ids := t.noted[bucketOf(id)]
	before, ok := ids[id]
	switch {
	case ok:
		ids[id] = before.and(now)
		return
	case t.count >= t.maxNoted:
		return
	case ids == nil:
		ids = map[string]times{}
		t.noted[strings.Clone(bucketOf(id))] = ids
	}
	ids[strings.Clone(id)] = now // it may be a part of the token
	t.count++
}

// and is what is known of a token by both.
func (t times) and(other times) times {
	return times{Seen: max(t.Seen, other.Seen), Ends: max(t.Ends, other.Ends)}
}

// Last returns when a token was last seen, the zero time if it was not.
func (t *Times) Last(ctx context.Context, storage logical.Storage, id string) (time.Time, error) {
	if len(id) != format.IDLength {
		return time.Time{}, nil
	}
	t.mu.Lock()
	last := t.noted[bucketOf(id)][id]
	t.mu.Unlock()
	stored, err := t.entries.Read(ctx, storage, bucketOf(id))
	switch {
	case errors.Is(err, store.ErrUndecodable) && last.Seen > 0: // later than what is stored
	case err != nil:
		return time.Time{}, err
	case stored != nil:
		last = last.and(stored.Tokens[id])
	}
	if last.Seen == 0 {
		return time.Time{}, nil
	}
	return time.Unix(last.Seen, 0).UTC(), nil
}

// Flush writes what was noted, once in an Interval, until ctx ends; the next run
// goes on. What is not surely written stays noted. It drops the times of tokens
// that expired longer than margin ago, and believes none that is further in the
// future.
func (t *Times) Flush(ctx context.Context, storage logical.Storage, margin time.Duration) error {
	if !t.flushing.TryLock() {
		return nil
	}
	defer t.flushing.Unlock()
	t.beginIfDue()
	var failed []error
	for name := range t.todo {
		if ctx.Err() != nil || len(failed) >= maxFailures {
			break
		}
		err := t.flush(ctx, storage, name, margin)
		if err == nil {
			delete(t.todo, name)
			continue
		}
		t.todo[name] = true
		if ctx.Err() == nil { // else its time is over, and the next run does it
			failed = append(failed, err)
		}
	}
	return errors.Join(failed...)
}

// beginIfDue begins a flush of all that is noted. What one before has failed to
// write is still to do; only that is tried more often.
func (t *Times) beginIfDue() {
	t.mu.Lock()
	defer t.mu.Unlock()
	now := t.clock()
	wait := t.due.Sub(now)
	if wait > 0 && wait <= Interval && t.count < t.maxNoted/4*3 { // a due time beyond is of a clock that was ahead
		return
	}
	t.due = now.Add(Interval)
	for name := range t.noted {
		if _, ok := t.todo[name]; !ok {
			t.todo[name] = false
		}
	}
}

// flush writes what is noted of one bucket.
func (t *Times) flush(ctx context.Context, storage logical.Storage, name string, margin time.Duration) error {
	now := t.clock()
	batch := t.batch(name, now)
	if len(batch) == 0 {
		return nil
	}
	stored, err := t.entries.Read(ctx, storage, name)
	if err != nil && !store.Replaceable(err) {
		return err
	}
	if err != nil || stored == nil {
		stored = &bucket{}
	}
	before := maps.Clone(stored.Tokens)
	stored.add(batch, now.Add(margin))
	stored.drop(now.Add(-margin))
	if !maps.Equal(before, stored.Tokens) {
		if err := t.put(ctx, storage, name, stored); err != nil {
			return err
		}
	}
	// A write that failed may still take effect, after this one. So what it was to
	// write is written once more, with the next flush.
	if !t.todo[name] {
		t.forget(name, batch)
	}
	return nil
}

func (t *Times) put(ctx context.Context, storage logical.Storage, name string, b *bucket) error {
	if len(b.Tokens) == 0 {
		return t.entries.Delete(ctx, storage, name)
	}
	return t.entries.Put(ctx, storage, name, b)
}

// batch returns what is noted of a bucket, but for the tokens that have expired:
// nobody asks for their times.
func (t *Times) batch(name string, now time.Time) map[string]times {
	t.mu.Lock()
	defer t.mu.Unlock()
	for id, noted := range t.noted[name] {
		if noted.Ends <= now.Unix() {
			t.remove(name, id)
		}
	}
	return maps.Clone(t.noted[name])
}

// forget drops what was written, unless something was noted since.
func (t *Times) forget(name string, written map[string]times) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for id, w := range written {
		if t.noted[name][id] == w {
			t.remove(name, id)
		}
	}
}

// remove drops what is noted of a token; t.mu is held.
func (t *Times) remove(name, id string) {
	delete(t.noted[name], id)
	t.count--
	if len(t.noted[name]) == 0 {
		delete(t.noted, name)
	}
}

// add adds what was noted. A stored time after latest is of a clock that was ahead.
func (b *bucket) add(batch map[string]times, latest time.Time) {
	if b.Tokens == nil {
		b.Tokens = map[string]times{}
	}
	for id, noted := range batch {
		stored, ok := b.Tokens[id]
		if noted.Seen > 0 && stored.Seen > latest.Unix() {
			stored.Seen = 0
		}
		if ok || noted.Seen > 0 {
			b.Tokens[id] = stored.and(noted)
		}
	}
}

// drop drops tokens that had expired by then, and of too many those that were not
// seen for longest.
func (b *bucket) drop(expired time.Time) {
	maps.DeleteFunc(b.Tokens, func(_ string, t times) bool { return t.Ends <= expired.Unix() })
	if len(b.Tokens) <= maxBucket {
		return
	}
	byTime := slices.SortedFunc(maps.Keys(b.Tokens), func(x, y string) int {
		return cmp.Compare(b.Tokens[x].Seen, b.Tokens[y].Seen)
	})
	for _, id := range byTime[:len(byTime)-maxBucket] {
		delete(b.Tokens, id)
	}
}
