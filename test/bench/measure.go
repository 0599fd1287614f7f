package main

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net/http"
	"slices"
	"sync"
	"time"

	"github.com/vault-tokens/vault-plugin-secrets-tokens/test/report"
	"github.com/vault-tokens/vault-plugin-secrets-tokens/test/vaulttest"
)

// slice is what one turn of an operation gave.
type slice struct {
	perSecond float64
	latencies []time.Duration
}

// result is all turns of an operation; those of one round have one index.
type result struct {
	operation operation
	perSecond []float64
	latencies []time.Duration
}

func (r *result) add(s slice) {
	r.perSecond = append(r.perSecond, s.perSecond)
	r.latencies = append(r.latencies, s.latencies...)
}

// turn runs an operation from several clients for a while.
// It ends early when interrupted is done, which is no error.
func turn(interrupted context.Context, server *vaulttest.Server, op operation, clients int, d time.Duration) (slice, error) {
	ctx, cancel := context.WithCancelCause(interrupted)
	defer cancel(nil)
	began := time.Now()
	ends := began.Add(d)
	latencies := make([][]time.Duration, clients)
	var running sync.WaitGroup
	for i := range clients {
		running.Go(func() {
			for before := time.Now(); before.Before(ends) && ctx.Err() == nil; {
				if err := op.call(ctx, server); err != nil {
					cancel(err)
					return
				}
				after := time.Now()
				latencies[i] = append(latencies[i], after.Sub(before))
				before = after
			}
		})
	}
	running.Wait()
	took := time.Since(began)
	if err := context.Cause(ctx); err != nil && interrupted.Err() == nil {
		return slice{}, err
	}
	all := slices.Concat(latencies...)
	return slice{perSecond: float64(len(all)) / took.Seconds(), latencies: all}, nil
}

// call makes one request and reads the answer to its end, so that the
// connection is kept.
func (op operation) call(ctx context.Context, server *vaulttest.Server) error {
	var body io.Reader
	if op.body != nil {
		body = bytes.NewReader(op.body())
	}
	req, err := http.NewRequestWithContext(ctx, op.method, server.Addr+"/v1/"+op.path, body)
	if err != nil {
		return err
	}
	if op.token != "" {
		req.Header.Set("X-Vault-Token", op.token)
	}
	resp, err := server.Anonymous().HTTP.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode != op.want {
		text, _ := io.ReadAll(io.LimitReader(resp.Body, 500))
		return fmt.Errorf("%s: %d, want %d: %s", op.name, resp.StatusCode, op.want, text)
	}
	_, err = io.Copy(io.Discard, resp.Body)
	return err
}

// comparisonReport is what is printed.
type comparisonReport struct {
	Clients     int          `json:"clients"`
	Rounds      int          `json:"rounds"`
	Turn        string       `json:"turn"`
	Operations  []summary    `json:"operations"`
	Comparisons []comparison `json:"comparisons"`
	Against     string       `json:"against,omitempty"` // the other build
	Builds      []versus     `json:"builds,omitempty"`
}

type summary struct {
	Name      string  `json:"name"`
	PerSecond float64 `json:"requests_per_second"` // median over the rounds
	P50       float64 `json:"p50_ms"`
	P99       float64 `json:"p99_ms"`
}

type comparison struct {
	Operation string  `json:"operation"`
	Peer      string  `json:"peer"`
	Ratio     float64 `json:"ratio"` // median of the rounds' ratios, by token
	Goal      float64 `json:"goal,omitempty"`
	Met       bool    `json:"met"`
}

// versus is an operation by this build, compared with the other one.
type versus struct {
	Operation string  `json:"operation"`
	Ratio     float64 `json:"ratio"` // median of the rounds' ratios; above 1, this build is faster
	Low       float64 `json:"low"`   // a quarter of the rounds' ratios is below
	High      float64 `json:"high"`  // a quarter is above
}

func summarize(s settings, results []result) comparisonReport {
	r := comparisonReport{Clients: s.clients, Rounds: len(results[0].perSecond), Turn: s.duration.String(), Against: s.against}
	for _, result := range results {
		slices.Sort(result.latencies)
		r.Operations = append(r.Operations, summary{
			Name:      result.operation.name,
			PerSecond: median(result.perSecond),
			P50:       report.Milliseconds(report.Quantile(result.latencies, 0.50)),
			P99:       report.Milliseconds(report.Quantile(result.latencies, 0.99)),
		})
	}
	for _, result := range results {
		for _, peer := range results { // in the order of the table
			if goal, compared := result.operation.peers[peer.operation.name]; compared {
				ratio := median(ratios(result.perSecond, peer.perSecond)) * float64(max(1, result.operation.tokens))
				r.Comparisons = append(r.Comparisons, comparison{
					Operation: result.operation.name, Peer: peer.operation.name,
					Ratio: ratio, Goal: float64(goal), Met: ratio >= float64(goal),
				})
			}
		}
	}
	for i, old := range results {
		if old.operation.old {
			of := results[i-1]
			all := ratios(of.perSecond, old.perSecond)
			r.Builds = append(r.Builds, versus{of.operation.name, median(all), between(all, 0.25), between(all, 0.75)})
		}
	}
	return r
}

func (r comparisonReport) goalsMet() bool {
	return !slices.ContainsFunc(r.Comparisons, func(c comparison) bool { return !c.Met })
}

func ratios(a, b []float64) []float64 {
	out := make([]float64, len(a))
	for i := range a {
		out[i] = a[i] / b[i]
	}
	return out
}

func median(values []float64) float64 { return between(values, 0.5) }

// between returns a quantile, interpolated between the two values next to it.
func between(values []float64, q float64) float64 {
	sorted := slices.Sorted(slices.Values(values))
	at := q * float64(len(sorted)-1)
	below := int(at)
	above := min(below+1, len(sorted)-1)
	return sorted[below] + (at-float64(below))*(sorted[above]-sorted[below])
}
