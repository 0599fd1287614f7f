// Package monitor feeds the lines of an audit log to the rules, and their alerts
// to the sinks. It counts, and keeps its state across restarts.
package monitor

import (
	"bytes"
	"context"
	"log/slog"
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/golang-lru/v2/simplelru"

	"github.com/vault-tokens/vault-plugin-secrets-tokens/internal/tokenwatch"
	"github.com/vault-tokens/vault-plugin-secrets-tokens/internal/tokenwatch/audit"
)

// Options configure a Monitor.
type Options struct {
	MountTypes []string // empty: audit.DefaultMountType
	Rules      []tokenwatch.Rule
	Sinks      []SinkOptions
	// RepeatInterval is how long to wait before notifying again of an alert
	// that goes on.
	RepeatInterval time.Duration
	// ResolveTimeout is how long an alert stays open without happening again.
	ResolveTimeout time.Duration
	// Live means that entries arrive as they are written, so that the clock
	// shows silence. Otherwise the time is that of the entries.
	Live bool
	// StateFile keeps the state across restarts; empty: it is not kept.
	StateFile string
	Log       *slog.Logger
	// OnEvent is called once for each request about the engine, and for each item
	// of a batch, OnAlert for
	// each alert and its repetitions, for reports. An event is valid during
	// the call only.
	OnEvent func(*tokenwatch.Event)
	OnAlert func(tokenwatch.Alert)
}

// Monitor connects a source, rules and sinks. It is safe for concurrent use.
type Monitor struct {
	opts    Options
	started time.Time

	mu       sync.Mutex
	parsers  []*audit.Parser
	parts    []*part // reused for every batch
	entries  []tokenwatch.EntryObserver
	counts   counts
	mounts   *mountTable
	refused  *simplelru.LRU[string, struct{}] // ids of requests that may be counted from either of their two lines
	deduper  *deduper
	position *tokenwatch.Position
	store    *store
	dirty    bool

	queues []*queue
}

// maxRefused is how many refused requests may come between the two lines of
// another one, which follow each other closely.
const maxRefused = 4096

// New returns a monitor with its state restored, if it has one. The caller must
// close it.
func New(opts Options) (*Monitor, error) {
	m := &Monitor{opts: opts, started: time.Now(), counts: newCounts(), mounts: newMountTable()}
	m.refused, _ = simplelru.NewLRU[string, struct{}](maxRefused, nil)
	m.deduper = newDeduper(opts.RepeatInterval, opts.ResolveTimeout, m.notify)
	for range runtime.GOMAXPROCS(0) {
		m.parsers = append(m.parsers, audit.NewParser(opts.MountTypes...))
	}
	for _, r := range opts.Rules {
		if observer, ok := r.(tokenwatch.EntryObserver); ok {
			m.entries = append(m.entries, observer)
		}
	}
	for _, s := range opts.Sinks {
		m.queues = append(m.queues, newQueue(s, opts.Log))
	}
	if opts.StateFile != "" {
		var err error
		if m.store, err = openStore(opts.StateFile); err != nil {
			return nil, err
		}
		if err := m.restore(); err != nil {
			m.store.close()
			return nil, err
		}
	}
	for _, q := range m.queues {
		q.start()
	}
	return m, nil
}

// Position returns where to resume reading; nil if there is no state.
func (m *Monitor) Position() *tokenwatch.Position {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.position
}

// Run reads source until the source or ctx ends.
func (m *Monitor) Run(ctx context.Context, source tokenwatch.Source) error {
	var ticking sync.WaitGroup
	if m.opts.Live {
		stop := make(chan struct{})
		ticking.Go(func() { m.tickUntil(stop) })
		defer ticking.Wait()
		defer close(stop)
	}
	return source.Run(ctx, m.Handle)
}

func (m *Monitor) tickUntil(stop <-chan struct{}) {
	ticker := time.NewTicker(time.Second)
	defer ticker.Stop()
	for {
		select {
		case <-stop:
			return
		case now := <-ticker.C:
			m.Tick(now)
		}
	}
}

// Tick does what depends on the clock.
func (m *Monitor) Tick(now time.Time) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, r := range m.opts.Rules {
		r.Tick(now, m.emit)
	}
	m.deduper.flush(now)
	m.saveIfDue(now)
}

// Close delivers pending alerts, for as long as ctx allows, and keeps the rest in
// the state for the next start.
func (m *Monitor) Close(ctx context.Context) error {
	m.mu.Lock()
	m.deduper.flushAll()
	m.mu.Unlock()
	var closing sync.WaitGroup
	for _, q := range m.queues {
		closing.Go(func() { q.close(ctx) })
	}
	closing.Wait()
	if m.store == nil {
		return nil
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	err := m.save()
	m.store.close()
	return err
}

// part is a run of lines of a batch, with their events.
type part struct {
	lines     []byte
	events    []tokenwatch.Event
	read      int64 // lines, malformed ones included
	malformed int64
	parsed    chan struct{}
}

func (p *part) parse(parser *audit.Parser) {
	p.events, p.read, p.malformed = p.events[:0], 0, 0
	for line := range bytes.Lines(p.lines) {
		line = bytes.TrimSpace(line)
		if len(line) == 0 {
			continue
		}
		var err error
		p.read++
		if p.events, err = parser.Append(p.events, line); err != nil {
			p.malformed++
		}
	}
	p.parsed <- struct{}{}
}

// partSize is how much is parsed at a time: small, so that parsing overlaps with
// the rules.
const partSize = 64 << 10

// split makes parts of whole lines.
func (m *Monitor) split(lines []byte) []*part {
	n := 0
	for ; len(lines) > 0; n++ {
		end := min(partSize, len(lines))
		if more := bytes.IndexByte(lines[end-1:], '\n'); more >= 0 {
			end += more
		} else {
			end = len(lines)
		}
		if n == len(m.parts) {
			m.parts = append(m.parts, &part{parsed: make(chan struct{}, 1)})
		}
		m.parts[n].lines, lines = lines[:end], lines[end:]
	}
	return m.parts[:n]
}

// parse has all parsers at work on the parts, in order.
func (m *Monitor) parse(parts []*part) {
	var next atomic.Int64
	for _, parser := range m.parsers[:min(len(m.parsers), len(parts))] {
		go func() {
			for i := next.Add(1) - 1; i < int64(len(parts)); i = next.Add(1) - 1 {
				parts[i].parse(parser)
			}
		}()
	}
}

// Handle takes a batch of lines. All of it counts, with its position, or, when
// the process ends before the next checkpoint, none of it.
func (m *Monitor) Handle(b tokenwatch.Batch) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	parts := m.split(b.Lines)
	m.parse(parts)
	for _, p := range parts {
		<-p.parsed
		m.counts.Lines += p.read
		m.counts.Malformed += p.malformed
		for i := range p.events {
			m.observe(&p.events[i])
		}
	}
	m.counts.Lines += int64(b.Skipped + b.Dropped)
	m.counts.Oversized += int64(b.Skipped)
	m.counts.Dropped += int64(b.Dropped)
	if b.Position != nil {
		position := *b.Position
		m.position = &position
	}
	m.dirty = true
	m.saveIfDue(time.Now())
	return nil
}

// observe takes one event.
func (m *Monitor) observe(e *tokenwatch.Event) {
	m.counts.entry(e.Time)
	for _, r := range m.entries {
		r.Entry(e.Time, m.emit)
	}
	if e.Kind == tokenwatch.KindOtherMounts || m.duplicate(e) || !m.mounts.resolve(e) {
		return
	}
	m.counts.event(e)
	if m.opts.OnEvent != nil {
		m.opts.OnEvent(e)
	}
	for _, r := range m.opts.Rules {
		r.Observe(e, m.emit)
	}
}

// duplicate reports whether the other line of the same request has already been
// counted. The parser drops the request line of a request that succeeds; one that
// is refused has its error on both lines. The items of a batch are on one only.
func (m *Monitor) duplicate(e *tokenwatch.Event) bool {
	if e.RequestID == "" || e.Item > 0 || (!e.Failed() && e.Kind != tokenwatch.KindAuditDisable) {
		return false
	}
	if m.refused.Contains(e.RequestID) {
		return true
	}
	m.refused.Add(e.RequestID, struct{}{})
	return false
}

func (m *Monitor) emit(a tokenwatch.Alert) { m.deduper.add(a) }

// notify hands an alert to the sinks. repeated says that they had it before.
func (m *Monitor) notify(a tokenwatch.Alert, repeated bool) {
	if !repeated {
		m.counts.alert(a)
	}
	if m.opts.OnAlert != nil {
		m.opts.OnAlert(a)
	}
	for _, q := range m.queues {
		q.put(a)
	}
	m.dirty = true
}

// Snapshot implements tokenwatch.Snapshotter.
func (m *Monitor) Snapshot() tokenwatch.Snapshot {
	m.mu.Lock()
	defer m.mu.Unlock()
	now := time.Now()
	if !m.opts.Live {
		now = m.counts.LastEntry
	}
	s := m.counts.snapshot(now)
	s.Started = m.started
	s.Open = m.deduper.open(now)
	for _, q := range m.queues {
		s.Sinks = append(s.Sinks, q.count())
	}
	return s
}
