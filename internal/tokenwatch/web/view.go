package web

import (
	"fmt"
	"time"

	"github.com/vault-tokens/vault-plugin-secrets-tokens/internal/tokenwatch"
	"github.com/vault-tokens/vault-plugin-secrets-tokens/internal/tokenwatch/sanitize"
)

// Limits of one response: a page is for reading.
const (
	maxAlerts = 200
	maxText   = 300
)

// view is the body of state.json: what the page shows, in the same order. All
// strings are sanitized; the page shows them as text.
type view struct {
	Time       time.Time   `json:"time"`
	Started    time.Time   `json:"started"`
	LastEntry  *time.Time  `json:"last_entry"`
	Notes      []string    `json:"notes"`
	Rates      []rateView  `json:"rates"`
	Alerts     []alertView `json:"alerts"`
	AlertsOpen int         `json:"alerts_open"` // may be more than len(Alerts)
	Facts      []fact      `json:"facts"`
}

type rateView struct {
	Name    string      `json:"name"`
	Title   string      `json:"title"`
	Starts  []time.Time `json:"starts"`
	Minutes []int64     `json:"minutes"`
}

type alertView struct {
	ID       string    `json:"id"`
	Severity string    `json:"severity"`
	Rule     string    `json:"rule"`
	Title    string    `json:"title"`
	Detail   string    `json:"detail"`
	Source   string    `json:"source"` // who and where, in one line
	Advice   string    `json:"advice"`
	First    time.Time `json:"first"`
	Last     time.Time `json:"last"`
	Count    int64     `json:"count"`
	Details  []fact    `json:"details"`
}

type fact struct {
	Name  string `json:"name"`
	Value string `json:"value"`
	Bad   bool   `json:"bad,omitempty"`
}

func viewOf(s tokenwatch.Snapshot) view {
	v := view{
		Time: s.Now, Started: s.Started,
		Notes: notes(s), Rates: rates(s.Minutes), Facts: facts(s),
		Alerts: []alertView{}, AlertsOpen: len(s.Open),
	}
	if !s.LastEntry.IsZero() {
		v.LastEntry = &s.LastEntry
	}
	for _, a := range s.Open[:min(len(s.Open), maxAlerts)] {
		v.Alerts = append(v.Alerts, viewOfAlert(a))
	}
	return v
}

func viewOfAlert(a tokenwatch.Alert) alertView {
	severity := a.Severity
	if _, err := tokenwatch.ParseSeverity(string(severity)); err != nil {
		severity = tokenwatch.SeverityInfo // it is used as a class name
	}
	v := alertView{
		ID: text(a.Fingerprint), Severity: string(severity), Rule: text(a.Rule), Title: text(a.Title), Detail: text(a.Detail), Advice: text(a.Advice),
		First: a.First, Last: a.Last, Count: a.Count, Details: []fact{},
	}
	switch {
	case a.Who != "" && a.Where != "":
		v.Source = text(a.Who) + ", from " + text(a.Where)
	case a.Where != "":
		v.Source = "from " + text(a.Where)
	default:
		v.Source = text(a.Who)
	}
	for _, f := range []fact{
		{Name: "Entity", Value: a.EntityID},
		{Name: "Namespace", Value: a.Namespace},
		{Name: "Mount", Value: a.Mount},
		{Name: "Path", Value: a.Path},
		{Name: "Role", Value: a.Role},
		{Name: "Token id", Value: a.TokenID},
		{Name: "Lease", Value: a.LeaseID},
		{Name: "Last request", Value: a.RequestID},
		{Name: "Fingerprint", Value: a.Fingerprint},
	} {
		if f.Value != "" {
			v.Details = append(v.Details, fact{Name: f.Name, Value: text(f.Value)})
		}
	}
	return v
}

func rates(minutes []tokenwatch.Minute) []rateView {
	series := []rateView{
		{Name: "issued", Title: "Tokens issued"},
		{Name: "active", Title: "Active tokens seen"},
		{Name: "inactive", Title: "Inactive tokens seen"},
		{Name: "failed", Title: "Requests refused"},
		{Name: "revoked", Title: "Revocations"},
	}
	for i := range series {
		series[i].Starts, series[i].Minutes = []time.Time{}, []int64{}
	}
	for _, m := range minutes {
		for i, count := range []int64{m.Issued, m.Active, m.Inactive, m.Failed, m.Revoked} {
			series[i].Starts = append(series[i].Starts, m.Start)
			series[i].Minutes = append(series[i].Minutes, count)
		}
	}
	return series
}

// notes lists what makes the numbers on the page incomplete.
func notes(s tokenwatch.Snapshot) []string {
	list := []string{}
	add := func(count int64, one, many string) {
		switch {
		case count == 1:
			list = append(list, "1 "+one)
		case count > 1:
			list = append(list, fmt.Sprintf("%d %s", count, many))
		}
	}
	add(s.Malformed, "line was not an audit entry and was skipped.", "lines were not audit entries and were skipped.")
	add(s.Oversized, "line was too long and was skipped.", "lines were too long and were skipped.")
	add(s.Dropped, "line from a socket arrived too fast and was lost.", "lines from a socket arrived too fast and were lost.")
	for _, sink := range s.Sinks {
		if sink.Failed > 0 {
			list = append(list, fmt.Sprintf("%d alerts were not delivered to %s.", sink.Failed, text(sink.Sink)))
		}
	}
	return list
}

func facts(s tokenwatch.Snapshot) []fact {
	list := []fact{
		{Name: "Lines read", Value: tokenwatch.Number(s.Lines)},
		{Name: "Malformed", Value: tokenwatch.Number(s.Malformed), Bad: s.Malformed > 0},
		{Name: "Too long", Value: tokenwatch.Number(s.Oversized), Bad: s.Oversized > 0},
		{Name: "Lost", Value: tokenwatch.Number(s.Dropped), Bad: s.Dropped > 0},
	}
	for _, sink := range s.Sinks {
		value := tokenwatch.Number(sink.Sent) + " sent"
		if sink.Queued > 0 {
			value += ", " + tokenwatch.Number(int64(sink.Queued)) + " waiting"
		}
		if sink.Failed > 0 {
			value += ", " + tokenwatch.Number(sink.Failed) + " given up"
		}
		list = append(list, fact{Name: "Alerts to " + text(sink.Sink), Value: value, Bad: sink.Failed > 0})
	}
	return list
}

func text(s string) string { return sanitize.Text(s, maxText) }
