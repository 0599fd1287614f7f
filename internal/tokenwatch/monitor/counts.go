package monitor

import (
	"cmp"
	"slices"
	"time"

	"github.com/vault-tokens/vault-plugin-secrets-tokens/internal/tokenwatch"
)

// counts is what is counted. Its fields are exported for the checkpoint.
type counts struct {
	Lines, Malformed, Oversized, Dropped int64

	LastEntry time.Time
	Events    map[eventKey]int64
	Alerts    map[alertKey]int64
	Minutes   [shownMinutes]tokenwatch.Minute // by minute modulo shownMinutes
}

type eventKey struct {
	Kind    tokenwatch.Kind
	Outcome tokenwatch.Outcome
	Mount   string
}

type alertKey struct {
	Rule     string
	Severity tokenwatch.Severity
}

const (
	shownMinutes   = 60
	maxSeries      = 20_000 // kinds, outcomes and mounts: far more than there are
	seriesOverflow = "(others)"
)

func newCounts() counts {
	return counts{Events: make(map[eventKey]int64), Alerts: make(map[alertKey]int64)}
}

func (c *counts) entry(t time.Time) {
	if t.After(c.LastEntry) {
		c.LastEntry = t
	}
}

func (c *counts) event(e *tokenwatch.Event) {
	key := eventKey{e.Kind, e.Outcome(), e.Namespace + e.Mount}
	if e.Namespace != "" {
		key.Mount = e.Namespace + "/" + e.Mount
	}
	if _, ok := c.Events[key]; !ok && len(c.Events) >= maxSeries {
		key.Mount = seriesOverflow
	}
	c.Events[key]++
	c.minute(e, key.Outcome)
}

func (c *counts) minute(e *tokenwatch.Event, outcome tokenwatch.Outcome) {
	start := e.Time.Truncate(time.Minute)
	m := &c.Minutes[(start.Unix()/60%shownMinutes+shownMinutes)%shownMinutes]
	switch {
	case start.Before(m.Start):
		return // older than what is shown
	case start.After(m.Start):
		*m = tokenwatch.Minute{Start: start}
	}
	switch {
	case e.Failed():
		m.Failed++
	case e.Kind == tokenwatch.KindIssue:
		m.Issued++
	case e.Kind == tokenwatch.KindIntrospect && outcome == tokenwatch.OutcomeActive:
		m.Active++
	case e.Kind == tokenwatch.KindIntrospect:
		m.Inactive++
	case e.Kind == tokenwatch.KindRevoke || e.Kind == tokenwatch.KindLeaseRevoke:
		m.Revoked++
	}
}

func (c *counts) alert(a tokenwatch.Alert) { c.Alerts[alertKey{a.Rule, a.Severity}]++ }

// snapshot copies the counts; Minutes are the last ones before now.
func (c *counts) snapshot(now time.Time) tokenwatch.Snapshot {
	s := tokenwatch.Snapshot{
		Now: now, LastEntry: c.LastEntry,
		Lines: c.Lines, Malformed: c.Malformed, Oversized: c.Oversized, Dropped: c.Dropped,
	}
	for key, n := range c.Events {
		s.Events = append(s.Events, tokenwatch.EventCount{Kind: string(key.Kind), Outcome: string(key.Outcome), Mount: key.Mount, Count: n})
	}
	slices.SortFunc(s.Events, func(a, b tokenwatch.EventCount) int {
		return cmp.Or(cmp.Compare(a.Mount, b.Mount), cmp.Compare(a.Kind, b.Kind), cmp.Compare(a.Outcome, b.Outcome))
	})
	for key, n := range c.Alerts {
		s.Alerts = append(s.Alerts, tokenwatch.AlertCount{Rule: key.Rule, Severity: key.Severity, Count: n})
	}
	slices.SortFunc(s.Alerts, func(a, b tokenwatch.AlertCount) int {
		return cmp.Or(cmp.Compare(a.Rule, b.Rule), cmp.Compare(a.Severity, b.Severity))
	})
	first := now.Truncate(time.Minute).Add(-(shownMinutes - 1) * time.Minute)
	for i := range time.Duration(shownMinutes) {
		start := first.Add(i * time.Minute).UTC()
		m := c.Minutes[(start.Unix()/60%shownMinutes+shownMinutes)%shownMinutes]
		if !m.Start.Equal(start) {
			m = tokenwatch.Minute{Start: start}
		}
		s.Minutes = append(s.Minutes, m)
	}
	s.Rates = rates(s.Minutes)
	return s
}

// rates uses whole minutes only; the current one is not over.
func rates(minutes []tokenwatch.Minute) map[string]tokenwatch.Rate {
	whole := minutes[:len(minutes)-1]
	rate := func(get func(tokenwatch.Minute) int64) tokenwatch.Rate {
		var five int64
		for _, m := range whole[len(whole)-5:] {
			five += get(m)
		}
		return tokenwatch.Rate{PerSecond1m: float64(get(whole[len(whole)-1])) / 60, PerSecond5m: float64(five) / 300}
	}
	return map[string]tokenwatch.Rate{
		"issued":   rate(func(m tokenwatch.Minute) int64 { return m.Issued }),
		"active":   rate(func(m tokenwatch.Minute) int64 { return m.Active }),
		"inactive": rate(func(m tokenwatch.Minute) int64 { return m.Inactive }),
		"revoked":  rate(func(m tokenwatch.Minute) int64 { return m.Revoked }),
		"failed":   rate(func(m tokenwatch.Minute) int64 { return m.Failed }),
	}
}
