package monitor

import (
	"cmp"
	"fmt"
	"slices"
	"time"

	"github.com/hashicorp/golang-lru/v2/simplelru"

	"github.com/vault-tokens/vault-plugin-secrets-tokens/internal/tokenwatch"
)

// deduper merges repeated findings into one alert. It notifies of it at once, and
// then at most once in each repeat interval, with the sum.
type deduper struct {
	repeatInterval, resolveTimeout time.Duration
	notify                         func(a tokenwatch.Alert, repeated bool)
	findings                       *simplelru.LRU[findingKey, *finding]
	limits                         map[string]*rateLimit // by rule
}

type findingKey struct{ Rule, Key string }

// finding is an alert that is open.
type finding struct {
	Alert    tokenwatch.Alert
	Notified int64     // count at the last notification; 0: held back
	At       time.Time // of the last notification, by the log
}

// rateLimit bounds the notifications of one rule: otherwise an attacker who can
// cause many different findings could bury the important one.
type rateLimit struct {
	Minute   time.Time
	Notified int
	Held     int64
	Last     tokenwatch.Alert // one of those that were held back
}

const (
	maxOpen      = 5000
	maxPerMinute = 30 // new findings of one rule
)

func newDeduper(repeatInterval, resolveTimeout time.Duration, notify func(tokenwatch.Alert, bool)) *deduper {
	d := &deduper{repeatInterval: repeatInterval, resolveTimeout: resolveTimeout, notify: notify, limits: make(map[string]*rateLimit)}
	d.findings, _ = simplelru.NewLRU(maxOpen, func(_ findingKey, f *finding) { d.notifyRest(f) })
	return d
}

func (d *deduper) add(a tokenwatch.Alert) {
	key := findingKey{a.Rule, a.Key}
	f, ok := d.findings.Get(key)
	if ok && a.Last.Sub(f.Alert.Last) > d.resolveTimeout {
		d.findings.Remove(key) // notifies of the rest
		ok = false
	}
	if !ok {
		a.Fingerprint = tokenwatch.FingerprintOf(a.Rule, a.Key, a.First.UTC().Format(time.RFC3339Nano))
		f = &finding{Alert: a, At: a.Last}
		d.findings.Add(key, f)
		if d.admit(a) {
			d.notifyOf(f, a.Last)
		}
		return
	}
	first, sum, fingerprint := f.Alert.First, f.Alert.Count+a.Count, f.Alert.Fingerprint
	if a.Last.Before(f.Alert.Last) {
		a.Last = f.Alert.Last
	}
	f.Alert = a
	f.Alert.First, f.Alert.Count, f.Alert.Fingerprint = first, sum, fingerprint
	if f.Notified > 0 && a.Last.Sub(f.At) >= d.repeatInterval {
		d.notifyOf(f, a.Last)
	}
}

func (d *deduper) notifyOf(f *finding, now time.Time) {
	repeated := f.Notified > 0
	f.Notified, f.At = f.Alert.Count, now
	d.notify(f.Alert, repeated)
}

// notifyRest notifies of the events since the last notification, when a finding
// ends.
func (d *deduper) notifyRest(f *finding) {
	if f.Notified > 0 && f.Alert.Count > f.Notified {
		d.notifyOf(f, f.Alert.Last)
	}
}

// admit reports whether a rule may notify of one more new finding in this
// minute.
func (d *deduper) admit(a tokenwatch.Alert) bool {
	minute := a.Last.Truncate(time.Minute)
	l := d.limits[a.Rule]
	if l == nil {
		l = &rateLimit{Minute: minute}
		d.limits[a.Rule] = l
	}
	if minute.After(l.Minute) {
		d.notifyHeld(l)
		*l = rateLimit{Minute: minute}
	}
	if l.Notified++; l.Notified <= maxPerMinute {
		return true
	}
	l.Held++
	l.Last = a
	return false
}

// notifyHeld notifies of the number of findings that were held back.
func (d *deduper) notifyHeld(l *rateLimit) {
	if l.Held == 0 {
		return
	}
	a := tokenwatch.Alert{
		Rule: l.Last.Rule, Severity: l.Last.Severity, Title: "Rule found more than it may send",
		Detail: fmt.Sprintf("%d more alerts in one minute were held back. The last: %s.", l.Held, l.Last.Title),
		Who:    l.Last.Who, Where: l.Last.Where, Namespace: l.Last.Namespace, Mount: l.Last.Mount, RequestID: l.Last.RequestID,
		First: l.Minute, Last: l.Last.Last, Count: l.Held, Advice: l.Last.Advice,
	}
	a.Fingerprint = tokenwatch.FingerprintOf(a.Rule, "flood", l.Minute.UTC().Format(time.RFC3339))
	l.Held = 0
	d.notify(a, false)
}

// flush notifies of everything that is due at now.
func (d *deduper) flush(now time.Time) {
	for _, key := range d.findings.Keys() {
		f, _ := d.findings.Peek(key)
		if f.Notified > 0 && f.Alert.Count > f.Notified && now.Sub(f.At) >= d.repeatInterval {
			d.notifyOf(f, now)
		}
	}
	for _, l := range d.limits {
		if now.Sub(l.Minute) >= time.Minute {
			d.notifyHeld(l)
		}
	}
}

// flushAll notifies of everything that is left.
func (d *deduper) flushAll() {
	for _, f := range d.findings.Values() {
		d.notifyRest(f)
	}
	for _, l := range d.limits {
		d.notifyHeld(l)
	}
}

// open returns the alerts that are open at now, the most severe first, then the
// latest.
func (d *deduper) open(now time.Time) []tokenwatch.Alert {
	var open []tokenwatch.Alert
	for _, f := range d.findings.Values() {
		if now.Sub(f.Alert.Last) <= d.resolveTimeout {
			open = append(open, f.Alert)
		}
	}
	slices.SortFunc(open, func(a, b tokenwatch.Alert) int {
		return cmp.Or(cmp.Compare(b.Severity.Level(), a.Severity.Level()), b.Last.Compare(a.Last), cmp.Compare(a.Fingerprint, b.Fingerprint))
	})
	return open
}
