package keyring

import (
	"context"
	"sync"
)

// locks are one lock per name, so that changes of one key do not wait for those of
// another. Waiting for one ends with the context.
type locks struct {
	mu     sync.Mutex
	byName map[string]*nameLock
}

type nameLock struct {
	held  chan struct{}
	users int // that hold it or wait for it
}

func newLocks() *locks { return &locks{byName: map[string]*nameLock{}} }

// lock takes the lock of a name and returns what releases it. It fails if the
// context has ended, so that nothing is changed for a caller who has gone.
func (l *locks) lock(ctx context.Context, name string) (unlock func(), err error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	l.mu.Lock()
	n := l.byName[name]
	if n == nil {
		n = &nameLock{held: make(chan struct{}, 1)}
		l.byName[name] = n
	}
	n.users++
	l.mu.Unlock()

	select {
	case n.held <- struct{}{}:
		return func() { <-n.held; l.leave(name, n) }, nil
	case <-ctx.Done():
		l.leave(name, n)
		return nil, ctx.Err()
	}
}

func (l *locks) leave(name string, n *nameLock) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if n.users--; n.users == 0 {
		delete(l.byName, name)
	}
}
