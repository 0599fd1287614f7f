package monitor

import (
	"cmp"
	"fmt"
	"slices"
	"time"

	"github.com/hashicorp/golang-lru/v2/simplelru"

	"github.com/vault-tokens/vault-plugin-secrets-tokens/internal/tokenwatch"
)

// folder makes one alert of what a rule finds again and again: it is passed on
// at once, and then at most once in each interval of repeat, with the sum.
type folder struct {
	repeat, openFor time.Duration
	pass            func(a tokenwatch.Alert, repeated bool)
	findings        *simplelru.LRU[findingKey, *finding]
	floods          map[string]*flood // by rule
}

type findingKey struct{ Rule, Key string }

// finding is an alert that is open. Fields are exported for the checkpoint.
type finding struct {
	Alert  tokenwatch.Alert
	Passed int64     // count when it was passed on last; 0: held back
	At     time.Time // when that was, by the log
}

// flood bounds what one rule may say: an attacker who can make many different
// findings could otherwise bury the one that counts.
type flood struct {
	Minute time.Time
	Passed int
	Held   int64
	Last   tokenwatch.Alert // one of those that were held back
}

const (
	maxOpen      = 5000
	maxPerMinute = 30 // new findings of one rule
)

func newFolder(repeat, openFor time.Duration, pass func(tokenwatch.Alert, bool)) *folder {
	f := &folder{repeat: repeat, openFor: openFor, pass: pass, floods: make(map[string]*flood)}
	f.findings, _ = simplelru.NewLRU(maxOpen, func(_ findingKey, found *finding) { f.passRest(found) })
	return f
}

func (f *folder) add(a tokenwatch.Alert) {
	key := findingKey{a.Rule, a.Key}
	found, ok := f.findings.Get(key)
	if ok && a.Last.Sub(found.Alert.Last) > f.openFor {
		f.findings.Remove(key) // passes on the rest
		ok = false
	}
	if !ok {
		a.Fingerprint = tokenwatch.FingerprintOf(a.Rule, a.Key, a.First.UTC().Format(time.RFC3339Nano))
		found = &finding{Alert: a, At: a.Last}
		f.findings.Add(key, found)
		if f.admit(a) {
			f.passOn(found, a.Last)
		}
		return
	}
	first, sum, fingerprint := found.Alert.First, found.Alert.Count+a.Count, found.Alert.Fingerprint
	if a.Last.Before(found.Alert.Last) {
		a.Last = found.Alert.Last
	}
	found.Alert = a
	found.Alert.First, found.Alert.Count, found.Alert.Fingerprint = first, sum, fingerprint
	if found.Passed > 0 && a.Last.Sub(found.At) >= f.repeat {
		f.passOn(found, a.Last)
	}
}

func (f *folder) passOn(found *finding, now time.Time) {
	repeated := found.Passed > 0
	found.Passed, found.At = found.Alert.Count, now
	f.pass(found.Alert, repeated)
}

// passRest passes on what has come since, when a finding is done with.
func (f *folder) passRest(found *finding) {
	if found.Passed > 0 && found.Alert.Count > found.Passed {
		f.passOn(found, found.Alert.Last)
	}
}

// admit reports whether a rule may pass on one more new finding in this minute.
func (f *folder) admit(a tokenwatch.Alert) bool {
	minute := a.Last.Truncate(time.Minute)
	fl := f.floods[a.Rule]
	if fl == nil {
		fl = &flood{Minute: minute}
		f.floods[a.Rule] = fl
	}
	if minute.After(fl.Minute) {
		f.endFlood(fl)
		*fl = flood{Minute: minute}
	}
	if fl.Passed++; fl.Passed <= maxPerMinute {
		return true
	}
	fl.Held++
	fl.Last = a
	return false
}

// endFlood says how many findings were held back.
func (f *folder) endFlood(fl *flood) {
	if fl.Held == 0 {
		return
	}
	a := tokenwatch.Alert{
		Rule: fl.Last.Rule, Severity: fl.Last.Severity, Title: "Many more findings of one rule",
		Detail: fmt.Sprintf("%d more in one minute, of which this is the last: %s.", fl.Held, fl.Last.Title),
		Who:    fl.Last.Who, Where: fl.Last.Where, Namespace: fl.Last.Namespace, Mount: fl.Last.Mount, RequestID: fl.Last.RequestID,
		First: fl.Minute, Last: fl.Last.Last, Count: fl.Held, Advice: fl.Last.Advice,
	}
	a.Fingerprint = tokenwatch.FingerprintOf(a.Rule, "flood", fl.Minute.UTC().Format(time.RFC3339))
	fl.Held = 0
	f.pass(a, false)
}

// flush passes on what has waited for long enough by now.
func (f *folder) flush(now time.Time) {
	for _, key := range f.findings.Keys() {
		found, _ := f.findings.Peek(key)
		if found.Passed > 0 && found.Alert.Count > found.Passed && now.Sub(found.At) >= f.repeat {
			f.passOn(found, now)
		}
	}
	for _, fl := range f.floods {
		if now.Sub(fl.Minute) >= time.Minute {
			f.endFlood(fl)
		}
	}
}

// flushAll passes on everything, at the end.
func (f *folder) flushAll() {
	for _, found := range f.findings.Values() {
		f.passRest(found)
	}
	for _, fl := range f.floods {
		f.endFlood(fl)
	}
}

// open lists alerts that are open at now, the most severe first, then the
// latest.
func (f *folder) open(now time.Time) []tokenwatch.Alert {
	var open []tokenwatch.Alert
	for _, found := range f.findings.Values() {
		if now.Sub(found.Alert.Last) <= f.openFor {
			open = append(open, found.Alert)
		}
	}
	slices.SortFunc(open, func(a, b tokenwatch.Alert) int {
		return cmp.Or(cmp.Compare(b.Severity.Level(), a.Severity.Level()), b.Last.Compare(a.Last), cmp.Compare(a.Fingerprint, b.Fingerprint))
	})
	return open
}
