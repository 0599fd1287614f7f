package monitor

import (
	"context"
	"errors"
	"log/slog"
	"math/rand/v2"
	"slices"
	"sync"
	"time"

	"github.com/vault-tokens/vault-plugin-secrets-tokens/internal/tokenwatch"
	"github.com/vault-tokens/vault-plugin-secrets-tokens/internal/tokenwatch/sink"
)

// SinkOptions is a sink with its delivery settings.
type SinkOptions struct {
	tokenwatch.Sink
	MinSeverity tokenwatch.Severity
	// GiveUpAfter is how long to retry one alert; 0: 15m.
	GiveUpAfter time.Duration
	// FirstRetry is the wait before the first retry; it doubles up to a minute.
	// 0: 1s.
	FirstRetry time.Duration
}

// queue feeds one sink, so that a slow sink delays neither reading nor the other
// sinks. An alert stays in the queue until it is delivered.
type queue struct {
	SinkOptions
	log    *slog.Logger
	ctx    context.Context
	cancel context.CancelFunc
	done   chan struct{}
	wake   chan struct{}

	mu      sync.Mutex
	waiting []tokenwatch.Alert
	closing bool
	sent    int64
	failed  int64
}

const (
	maxWaiting = 1000
	mostRetry  = time.Minute
)

func newQueue(opts SinkOptions, log *slog.Logger) *queue {
	if opts.GiveUpAfter <= 0 {
		opts.GiveUpAfter = 15 * time.Minute
	}
	if opts.FirstRetry <= 0 {
		opts.FirstRetry = time.Second
	}
	q := &queue{SinkOptions: opts, log: log, done: make(chan struct{}), wake: make(chan struct{}, 1)}
	q.ctx, q.cancel = context.WithCancel(context.Background())
	return q
}

func (q *queue) start() { go q.run() }

// put adds an alert. If an older state of the same alert is waiting, it is
// replaced. If the queue is full, the oldest of the least severe is dropped.
func (q *queue) put(a tokenwatch.Alert) {
	if a.Severity.Level() < q.MinSeverity.Level() {
		return
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	if len(q.waiting) > 1 { // the first may be being sent
		for i := range q.waiting[1:] {
			if q.waiting[i+1].Fingerprint == a.Fingerprint {
				q.waiting[i+1] = a
				return
			}
		}
	}
	if len(q.waiting) >= maxWaiting {
		q.dropOne()
	}
	q.waiting = append(q.waiting, a)
	select {
	case q.wake <- struct{}{}:
	default:
	}
}

func (q *queue) dropOne() {
	drop := 1
	for i := range q.waiting[1:] {
		if q.waiting[i+1].Severity.Level() < q.waiting[drop].Severity.Level() {
			drop = i + 1
		}
	}
	q.waiting = slices.Delete(q.waiting, drop, drop+1)
	q.failed++
}

func (q *queue) run() {
	defer close(q.done)
	for {
		a, ok := q.next()
		if !ok {
			return
		}
		err := q.deliver(a)
		if q.ctx.Err() != nil && err != nil {
			return // it stays in the queue, and thus in the state
		}
		q.mu.Lock()
		q.waiting = slices.Delete(q.waiting, 0, 1)
		if err == nil {
			q.sent++
		} else {
			q.failed++
			q.log.Error("alert was not delivered", "sink", q.Name(), "rule", a.Rule, "fingerprint", a.Fingerprint, "error", err)
		}
		q.mu.Unlock()
	}
}

// next waits for an alert; it returns false when the queue is closed and empty.
func (q *queue) next() (tokenwatch.Alert, bool) {
	for {
		q.mu.Lock()
		if len(q.waiting) > 0 {
			a := q.waiting[0]
			q.mu.Unlock()
			return a, true
		}
		closing := q.closing
		q.mu.Unlock()
		if closing {
			return tokenwatch.Alert{}, false
		}
		select {
		case <-q.wake:
		case <-q.ctx.Done():
			return tokenwatch.Alert{}, false
		}
	}
}

// deliver tries until the sink accepts the alert, refuses it for good, or
// GiveUpAfter has passed.
func (q *queue) deliver(a tokenwatch.Alert) error {
	began, wait := time.Now(), q.FirstRetry
	for {
		err := q.Send(q.ctx, a)
		if err == nil || errors.Is(err, sink.ErrPermanent) || time.Since(began) >= q.GiveUpAfter {
			return err
		}
		q.log.Warn("sink did not accept an alert; trying again", "sink", q.Name(), "in", wait.Round(time.Millisecond), "error", err)
		pause := time.NewTimer(wait/2 + rand.N(wait/2+1)) // so that not all retry at once
		select {
		case <-q.ctx.Done():
			pause.Stop()
			return err
		case <-pause.C:
		}
		wait = min(2*wait, mostRetry)
	}
}

// close delivers what is waiting, until ctx ends.
func (q *queue) close(ctx context.Context) {
	q.mu.Lock()
	q.closing = true
	q.mu.Unlock()
	select {
	case q.wake <- struct{}{}:
	default:
	}
	select {
	case <-q.done:
	case <-ctx.Done():
	}
	q.cancel()
	<-q.done
}

// pending returns a copy of what has not been delivered.
func (q *queue) pending() []tokenwatch.Alert {
	q.mu.Lock()
	defer q.mu.Unlock()
	return slices.Clone(q.waiting)
}

func (q *queue) count() tokenwatch.SinkCount {
	q.mu.Lock()
	defer q.mu.Unlock()
	return tokenwatch.SinkCount{Sink: q.Name(), Sent: q.sent, Failed: q.failed, Queued: len(q.waiting)}
}
