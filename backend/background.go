package backend

import (
	"context"
	"errors"
	"runtime/debug"
	"sync"
	"time"
)

// job is work that is done in the background.
type job int

const (
	passJob   job = iota // what is due of a pass over all records
	dryRunJob            // a count of what a pass would remove
	jobs
)

// background does work that a request asks for and does not wait for, in one
// goroutine at a time, which exists as long as there is work.
type background struct {
	do     func(context.Context, job)
	failed func(error) // told of a panic

	mu      sync.Mutex
	asked   [jobs]bool
	doing   job
	cancel  context.CancelFunc // ends what is being done; nil if there is no goroutine
	done    chan struct{}      // closed when the goroutine has ended
	stopped bool
}

// ask has a job done, after the same job if that is being done, since it may be
// past what it is to do now. Whoever counts only has to wait for who removes.
func (b *background) ask(j job) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.stopped {
		return
	}
	b.asked[j] = true
	switch {
	case b.cancel == nil:
		b.done = make(chan struct{})
		b.cancel = func() {}
		go b.run(b.done)
	case j == passJob && b.doing == dryRunJob:
		b.cancel()
	}
}

// busy reports whether there is work, and of which kind that is which is done now.
func (b *background) busy() (doing job, busy bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.doing, b.cancel != nil
}

func (b *background) run(done chan struct{}) {
	defer close(done)
	for {
		ctx, j, ok := b.next()
		if !ok {
			return
		}
		b.guarded(ctx, j)
	}
}

// next takes the job to do now.
func (b *background) next() (context.Context, job, bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.cancel() // release what the last one had
	for j := range jobs {
		if !b.asked[j] {
			continue
		}
		b.asked[j] = false
		ctx, cancel := context.WithCancel(context.Background())
		b.doing, b.cancel = j, cancel
		return ctx, j, true
	}
	b.cancel = nil
	return nil, 0, false
}

// guarded keeps a panic from ending the process, which serves other mounts as well.
func (b *background) guarded(ctx context.Context, j job) {
	defer func() {
		if recover() != nil {
			// The value may hold stored data; the stack holds none.
			b.failed(errors.New("tidying in the background panicked\n" + string(debug.Stack())))
		}
	}()
	b.do(ctx, j)
}

// cancelAll ends what is being done, and drops what was asked for.
func (b *background) cancelAll() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.asked = [jobs]bool{}
	if b.cancel != nil {
		b.cancel()
	}
}

// stopWait bounds how long the end of the work is waited for: a storage that hangs
// must not keep Vault from going on.
const stopWait = 5 * time.Second

// stop ends the work for good.
func (b *background) stop(ctx context.Context) {
	b.mu.Lock()
	b.stopped = true
	done := b.done
	b.mu.Unlock()
	b.cancelAll()
	if done == nil {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, stopWait)
	defer cancel()
	select {
	case <-done:
	case <-ctx.Done():
	}
}
