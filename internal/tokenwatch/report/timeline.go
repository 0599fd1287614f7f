package report

import (
	"math"
	"time"
)

// maxSteps is the number of bars that fit into a chart.
const maxSteps = 120

// stepSizes are in seconds; each is a multiple of the one before. Beyond the
// last, the size doubles.
var stepSizes = []int64{1, 10, 60, 300, 900, 1800, 3600, 3 * 3600, 6 * 3600, 12 * 3600, 24 * 3600, 7 * 24 * 3600}

// timeline counts by steps of time. Steps grow with the period, so that there are
// never more than maxSteps, in any order of times.
type timeline struct {
	size        int64 // seconds of a step; 0 before the first
	counts      map[int64]*Totals
	first, last int64 // steps, as multiples of size
}

func (t *timeline) add(at time.Time, one *Totals) {
	if t.size == 0 {
		t.size, t.counts = stepSizes[0], map[int64]*Totals{}
		t.first, t.last = math.MaxInt64, math.MinInt64
	}
	seconds := at.Unix()
	step := floorDiv(seconds, t.size)
	first, last := min(t.first, step), max(t.last, step)
	for last-first >= maxSteps {
		t.grow()
		step = floorDiv(seconds, t.size)
		first, last = min(t.first, step), max(t.last, step)
	}
	t.first, t.last = first, last
	if t.counts[step] == nil {
		t.counts[step] = &Totals{}
	}
	t.counts[step].add(one)
}

func (t *timeline) grow() {
	next := 2 * t.size
	for _, size := range stepSizes {
		if size > t.size {
			next = size
			break
		}
	}
	factor := next / t.size
	merged := map[int64]*Totals{}
	for step, counts := range t.counts {
		into := floorDiv(step, factor)
		if merged[into] == nil {
			merged[into] = &Totals{}
		}
		merged[into].add(counts)
	}
	t.size, t.counts = next, merged
	if t.first <= t.last {
		t.first, t.last = floorDiv(t.first, factor), floorDiv(t.last, factor)
	}
}

func (t *timeline) steps() Timeline {
	line := Timeline{StepSeconds: t.size, Steps: []Step{}}
	if t.size == 0 {
		return line
	}
	for step := t.first; step <= t.last; step++ {
		s := Step{Start: time.Unix(step*t.size, 0).UTC()}
		if counts := t.counts[step]; counts != nil {
			s.Totals = *counts
		}
		line.Steps = append(line.Steps, s)
	}
	return line
}

func floorDiv(a, b int64) int64 {
	q := a / b
	if a%b < 0 {
		q--
	}
	return q
}
