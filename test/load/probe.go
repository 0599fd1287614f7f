package main

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/vault-tokens/vault-plugin-secrets-tokens/test/report"
)

const (
	probeEvery = 10 * time.Millisecond
	// maxProbes bounds the introspections under way. At the bound, none begins; but
	// the last ones have waited for seconds then.
	maxProbes = 500
)

// latencies are of introspections, in milliseconds.
type latencies struct {
	Count  int     `json:"count"`
	P50    float64 `json:"p50_ms"`
	P99    float64 `json:"p99_ms"`
	Max    float64 `json:"max_ms"`
	Failed int     `json:"failed"`
	Error  string  `json:"error,omitempty"` // the last one
}

func (l *latencies) String() string {
	text := fmt.Sprintf("%d: p50 %.1f, p99 %.1f, max %.1f ms", l.Count, l.P50, l.P99, l.Max)
	if l.Failed > 0 {
		text += fmt.Sprintf(", %d FAILED: %s", l.Failed, l.Error)
	}
	return text
}

// prober introspects a token every 10 ms, whatever became of those before: what
// waits must not keep others from being seen to wait.
type prober struct {
	cancel  context.CancelFunc
	running sync.WaitGroup

	mu     sync.Mutex
	took   []time.Duration
	failed []error
}

// probe introspects the tokens in turn until stop.
func (v *vaults) probe(ctx context.Context, tokens []string) *prober {
	during, cancel := context.WithCancel(ctx)
	p := &prober{cancel: cancel}
	slots := make(chan struct{}, maxProbes)
	p.running.Go(func() {
		tick := time.NewTicker(probeEvery)
		defer tick.Stop()
		for i := 0; ; i++ {
			select {
			case <-during.Done():
				return
			case due := <-tick.C:
				slots <- struct{}{}
				p.running.Go(func() {
					p.add(due, v.introspect(ctx, tokens[i%len(tokens)]))
					<-slots
				})
			}
		}
	})
	return p
}

// add counts an introspection that was due to begin then.
func (p *prober) add(due time.Time, err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.took = append(p.took, time.Since(due))
	if err != nil {
		p.failed = append(p.failed, err)
	}
}

// stop waits for the introspections under way.
func (p *prober) stop() *latencies {
	p.cancel()
	p.running.Wait()
	slices.Sort(p.took)
	l := &latencies{
		Count:  len(p.took),
		P50:    report.Milliseconds(report.Quantile(p.took, 0.50)),
		P99:    report.Milliseconds(report.Quantile(p.took, 0.99)),
		Max:    report.Milliseconds(report.Quantile(p.took, 1)),
		Failed: len(p.failed),
	}
	if l.Failed > 0 {
		l.Error = p.failed[l.Failed-1].Error()
	}
	return l
}
