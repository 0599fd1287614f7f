package report

import (
	"cmp"
	"slices"
	"time"

	"github.com/vault-tokens/vault-plugin-secrets-tokens/internal/tokenwatch"
)

// Bounds of what a Builder keeps, whatever is in the log.
const (
	maxKeys   = 10_000 // of each table
	maxAlerts = 1_000
	maxName   = 512 // bytes of a name or error text
)

// DefaultRows is how many rows of a table a report shows.
const DefaultRows = 20

// Options of a report.
type Options struct {
	Files    []string  // names to show
	From, To time.Time // counts requests in [From, To); zero: no bound
	Rows     int       // of each table; 0: DefaultRows
}

// Builder adds up events. It is not safe for concurrent use.
type Builder struct {
	options Options
	log     Log
	totals  Totals
	times   timeline
	from    time.Time
	to      time.Time

	roles, types, entities, clients, failures counter

	alerts  map[string]tokenwatch.Alert
	dropped [3]int // number of alerts that were not kept, by level
}

// New starts a report.
func New(options Options) *Builder {
	if options.Rows <= 0 {
		options.Rows = DefaultRows
	}
	return &Builder{options: options, alerts: map[string]tokenwatch.Alert{}}
}

// AddLog adds to the counts of lines.
func (b *Builder) AddLog(more Log) {
	b.log.Lines += more.Lines
	b.log.Malformed += more.Malformed
	b.log.Oversized += more.Oversized
}

// Observe counts one request. It must be called once for each, as the monitor
// calls its OnEvent.
func (b *Builder) Observe(e *tokenwatch.Event) {
	if e.Kind == tokenwatch.KindOtherMounts || e.Kind == "" || b.outside(e.Time) {
		return
	}
	one := totalsOf(e)
	b.totals.add(&one)
	b.times.add(e.Time, &one)
	if b.from.IsZero() || e.Time.Before(b.from) {
		b.from = e.Time
	}
	if e.Time.After(b.to) {
		b.to = e.Time
	}
	b.addToTables(e, &one)
}

func (b *Builder) outside(at time.Time) bool {
	return at.Before(b.options.From) || !b.options.To.IsZero() && !at.Before(b.options.To)
}

// totalsOf is what one request adds to the totals.
func totalsOf(e *tokenwatch.Event) Totals {
	t := Totals{Requests: 1}
	switch e.Outcome() {
	case tokenwatch.OutcomeDenied:
		t.Denied = 1
	case tokenwatch.OutcomeInvalid:
		t.Invalid = 1
	case tokenwatch.OutcomeActive:
		t.Active = 1
	case tokenwatch.OutcomeInactive:
		t.Inactive = 1
	case tokenwatch.OutcomeCheckFailed:
		t.CheckFailed = 1
	case tokenwatch.OutcomeOK:
		t.countDone(e.Kind)
	}
	return t
}

// countDone counts what a successful request did.
func (t *Totals) countDone(kind tokenwatch.Kind) {
	switch kind {
	case tokenwatch.KindIssue:
		t.Issued = 1
	case tokenwatch.KindLeaseRenew:
		t.Renewed = 1
	case tokenwatch.KindRevoke, tokenwatch.KindRoleRevoke, tokenwatch.KindEntityRevoke, tokenwatch.KindLeaseRevoke, tokenwatch.KindLeasePrefix:
		t.Revoked = 1
	}
}

func (t *Totals) add(o *Totals) {
	t.Requests += o.Requests
	t.Issued += o.Issued
	t.Active += o.Active
	t.Inactive += o.Inactive
	t.CheckFailed += o.CheckFailed
	t.Renewed += o.Renewed
	t.Revoked += o.Revoked
	t.Denied += o.Denied
	t.Invalid += o.Invalid
}

func (b *Builder) addToTables(e *tokenwatch.Event, one *Totals) {
	if e.Role != "" {
		row := b.roles.row(key{clip(e.Role), clip(e.Mount), clip(e.Namespace)}, e, one)
		row.Role, row.Mount, row.Namespace = clip(e.Role), clip(e.Mount), clip(e.Namespace)
		if e.TokenType != "" {
			row.TokenType = clip(e.TokenType)
		}
	}
	if e.TokenType != "" {
		b.types.row(key{clip(e.TokenType)}, e, one).TokenType = clip(e.TokenType)
	}
	if e.Kind == tokenwatch.KindIssue && e.Client() != "" {
		row := b.entities.row(key{clip(e.Client())}, e, one)
		row.Entity, row.Name = clip(e.Client()), clip(e.DisplayName)
	}
	if e.RemoteAddress != "" {
		row := b.clients.row(key{clip(e.RemoteAddress)}, e, one)
		row.Address, row.Name = clip(e.RemoteAddress), clip(e.DisplayName)
	}
	if outcome := failure(e); outcome != "" {
		row := b.failures.row(key{string(e.Kind), outcome, clip(e.Error)}, e, one)
		row.Kind, row.Outcome, row.Error = string(e.Kind), outcome, clip(e.Error)
	}
}

// failure returns how a request failed, as the report writes it; empty if it did
// not fail.
func failure(e *tokenwatch.Event) string {
	switch outcome := e.Outcome(); outcome {
	case tokenwatch.OutcomeOK, tokenwatch.OutcomeActive:
		return ""
	case tokenwatch.OutcomeCheckFailed:
		return "check failed"
	default:
		return string(outcome)
	}
}

// Alert adds an alert, or replaces it if its count has grown.
func (b *Builder) Alert(a tokenwatch.Alert) {
	if b.outside(a.Last) {
		return
	}
	b.alerts[a.Fingerprint] = a
	if len(b.alerts) >= 2*maxAlerts {
		list := b.sortedAlerts()
		for _, a := range list[maxAlerts:] {
			b.dropped[a.Severity.Level()]++
			delete(b.alerts, a.Fingerprint)
		}
	}
}

func (b *Builder) sortedAlerts() []tokenwatch.Alert {
	list := make([]tokenwatch.Alert, 0, len(b.alerts))
	for _, a := range b.alerts {
		list = append(list, a)
	}
	slices.SortFunc(list, func(x, y tokenwatch.Alert) int {
		return cmp.Or(cmp.Compare(y.Severity.Level(), x.Severity.Level()), y.Last.Compare(x.Last), cmp.Compare(x.Fingerprint, y.Fingerprint))
	})
	return list
}

// Report returns what has been counted.
func (b *Builder) Report(now time.Time) *Report {
	issued := func(t *Totals) int64 { return t.Issued }
	requests := func(t *Totals) int64 { return t.Requests }
	r := &Report{
		Files: append([]string{}, b.options.Files...), Generated: now.UTC(), From: b.from, To: b.to,
		Log: b.log, Totals: b.totals, Timeline: b.times.steps(),
		Roles:    b.roles.table(b.options.Rows, issued),
		Types:    b.types.table(b.options.Rows, issued),
		Entities: b.entities.table(b.options.Rows, issued),
		Clients:  b.clients.table(b.options.Rows, requests),
		Failures: b.failures.table(b.options.Rows, requests),
	}
	found := b.dropped
	list := b.sortedAlerts()
	for _, a := range list {
		found[a.Severity.Level()]++
	}
	r.Alerts = Alerts{
		Critical: found[tokenwatch.SeverityCritical.Level()], Warning: found[tokenwatch.SeverityWarning.Level()], Info: found[tokenwatch.SeverityInfo.Level()],
		List: list[:min(len(list), maxAlerts)],
	}
	return r
}

// clip bounds the length of a name.
func clip(s string) string {
	if len(s) <= maxName {
		return s
	}
	return s[:maxName] + "…"
}
