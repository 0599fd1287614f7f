package tokenwatch

import "time"

// Snapshotter gives the page and the metrics what they show. It is safe for
// concurrent use.
type Snapshotter interface {
	Snapshot() Snapshot
}

// Snapshot is everything that tokenwatch counts, at one moment.
type Snapshot struct {
	Now       time.Time `json:"now"`
	Started   time.Time `json:"started"`    // of this process
	LastEntry time.Time `json:"last_entry"` // time of the latest entry of any kind; zero if there was none

	// Since counting began, restarts included.
	Lines     int64           `json:"lines"`
	Malformed int64           `json:"malformed"` // lines that are not audit entries
	Oversized int64           `json:"oversized"` // lines longer than the limit
	Dropped   int64           `json:"dropped"`   // lines from a socket that arrived too fast
	Events    []EventCount    `json:"events"`    // sorted
	Alerts    []AlertCount    `json:"alerts"`    // sorted
	Sinks     []SinkCount     `json:"sinks"`
	Minutes   []Minute        `json:"minutes"` // the last 60 minutes by the log's time, oldest first, none missing
	Open      []Alert         `json:"open"`    // most severe first, then the latest
	Rates     map[string]Rate `json:"rates"`   // by series name: issued, active, inactive, failed
}

// EventCount counts requests of one kind and outcome.
type EventCount struct {
	Kind    string `json:"kind"`
	Outcome string `json:"outcome"` // ok, denied, invalid; of introspections: active, inactive, check_failed
	Mount   string `json:"mount"`
	Count   int64  `json:"count"`
}

// AlertCount counts the alerts of one rule: new findings, not repetitions.
type AlertCount struct {
	Rule     string   `json:"rule"`
	Severity Severity `json:"severity"`
	Count    int64    `json:"count"`
}

// SinkCount counts the alerts for one sink.
type SinkCount struct {
	Sink   string `json:"sink"`
	Sent   int64  `json:"sent"`
	Failed int64  `json:"failed"` // given up after all retries
	Queued int    `json:"queued"`
}

// Minute is what happened in one minute of the log's time.
type Minute struct {
	Start    time.Time `json:"start"`
	Issued   int64     `json:"issued"`
	Active   int64     `json:"active"`   // introspections of good tokens
	Inactive int64     `json:"inactive"` // introspections of unknown, expired or revoked tokens, or with a failed check
	Revoked  int64     `json:"revoked"`
	Failed   int64     `json:"failed"` // refused requests
}

// Rate is events per second over the last whole minute and the last five.
type Rate struct {
	PerSecond1m float64 `json:"per_second_1m"`
	PerSecond5m float64 `json:"per_second_5m"`
}
