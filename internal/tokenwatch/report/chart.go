package report

import (
	"fmt"
	"math"
	"strings"
	"time"

	"github.com/vault-tokens/vault-plugin-secrets-tokens/internal/tokenwatch"
)

// chart is a stacked bar chart over the timeline. The drawing has no text, so
// that the labels around it keep their size when it is stretched. Its units are
// percent of its height and chartStep for each bar.
type chart struct {
	ID, Title string
	Label     string // what the chart shows, for screen readers
	Layers    []layer
	Width     int // of the drawing, chartStep for each bar
	Bars      []bar
	Top       string // of the scale
	Middle    string
	Times     []string // along the time axis: start, middle, end
}

// layer is one series of a chart. Its class is its colour.
type layer struct {
	Name, Class string
	Sum         string
	of          func(*Totals) int64
}

type bar struct {
	X, Width  int
	Y, Height string
	Class     string
	Tip       string
}

const (
	chartStep = 10 // width of a step; barWidth of it is the bar
	barWidth  = 8
)

func (r *Report) charts() []chart {
	return []chart{
		r.chart("issued", "Tokens issued", layer{Name: "issued", Class: "blue", of: func(t *Totals) int64 { return t.Issued }}),
		r.chart("introspected", "Introspections",
			layer{Name: "active", Class: "green", of: func(t *Totals) int64 { return t.Active }},
			layer{Name: "check failed", Class: "blue", of: func(t *Totals) int64 { return t.CheckFailed }},
			layer{Name: "inactive", Class: "amber", of: func(t *Totals) int64 { return t.Inactive }}),
		r.chart("refused", "Requests refused",
			layer{Name: "denied", Class: "red", of: func(t *Totals) int64 { return t.Denied }},
			layer{Name: "invalid", Class: "amber", of: func(t *Totals) int64 { return t.Invalid }}),
		r.chart("ended", "Renewals and revocations",
			layer{Name: "renewed", Class: "green", of: func(t *Totals) int64 { return t.Renewed }},
			layer{Name: "revoked", Class: "grey", of: func(t *Totals) int64 { return t.Revoked }}),
	}
}

func (r *Report) chart(id, title string, layers ...layer) chart {
	steps := r.Timeline.Steps
	c := chart{ID: id, Title: title, Layers: layers, Width: chartStep * max(1, len(steps))}
	sums := make([]string, len(layers))
	for i, l := range layers {
		c.Layers[i].Sum = tokenwatch.Number(l.of(&r.Totals))
		sums[i] = l.Name + " " + c.Layers[i].Sum
	}
	var peak int64
	for i := range steps {
		var sum int64
		for _, l := range layers {
			sum += l.of(&steps[i].Totals)
		}
		peak = max(peak, sum)
	}
	c.Label = fmt.Sprintf("%s by %s: %s in total; at most %s", title, stepName(r.Timeline.StepSeconds), strings.Join(sums, ", "), tokenwatch.Number(peak))
	top := niceAbove(peak)
	c.Top, c.Middle = tokenwatch.Number(top), ""
	if top%2 == 0 {
		c.Middle = tokenwatch.Number(top / 2)
	}
	for i := range steps {
		c.Bars = append(c.Bars, stack(i, &steps[i], layers, top)...)
	}
	c.Times = r.timeLabels()
	return c
}

// stack returns the bars of one step. Anything above zero is at least two percent
// high, so that it is visible.
func stack(at int, s *Step, layers []layer, top int64) []bar {
	var bars []bar
	var tip []string
	for _, l := range layers {
		tip = append(tip, fmt.Sprintf("%s %s", l.Name, tokenwatch.Number(l.of(&s.Totals))))
	}
	y := 100.0
	for _, l := range layers {
		n := l.of(&s.Totals)
		if n == 0 {
			continue
		}
		height := math.Min(math.Max(2, 100*float64(n)/float64(top)), y)
		y -= height
		bars = append(bars, bar{
			X: at*chartStep + (chartStep-barWidth)/2, Width: barWidth, Y: fmt.Sprintf("%.1f", y), Height: fmt.Sprintf("%.1f", height),
			Class: l.Class, Tip: moment(s.Start) + ": " + strings.Join(tip, ", "),
		})
	}
	return bars
}

// niceAbove returns the smallest of 1, 2, 4, 6, 8, 10, 20, 40, … that is at least n.
func niceAbove(n int64) int64 {
	for size := int64(1); size <= math.MaxInt64/100; size *= 10 {
		for _, nice := range []int64{1, 2, 4, 6, 8} {
			if nice*size >= n {
				return nice * size
			}
		}
	}
	return n
}

// timeLabels returns the start, the middle and the end of the timeline.
func (r *Report) timeLabels() []string {
	steps := r.Timeline.Steps
	if len(steps) == 0 {
		return nil
	}
	size := time.Duration(r.Timeline.StepSeconds) * time.Second
	start, end := steps[0].Start, steps[len(steps)-1].Start.Add(size)
	form := "2006-01-02"
	switch length := end.Sub(start); {
	case start.Format(form) == end.Format(form) && size < time.Minute:
		form = "15:04:05"
	case start.Format(form) == end.Format(form):
		form = "15:04"
	case length < 10*24*time.Hour:
		form = "2 Jan 15:04"
	}
	labels := []string{start.Format(form)}
	if len(steps) > 2 {
		labels = append(labels, start.Add(end.Sub(start)/2).Format(form))
	}
	return append(labels, end.Format(form))
}

func stepName(seconds int64) string {
	switch {
	case seconds == 1:
		return "second"
	case seconds < 60:
		return fmt.Sprintf("%d seconds", seconds)
	case seconds == 60:
		return "minute"
	case seconds < 3600:
		return fmt.Sprintf("%d minutes", seconds/60)
	case seconds == 3600:
		return "hour"
	case seconds < 24*3600:
		return fmt.Sprintf("%d hours", seconds/3600)
	case seconds == 24*3600:
		return "day"
	}
	return fmt.Sprintf("%d days", seconds/(24*3600))
}
