// Package tokenwatch has the types that all parts of the monitor share, and the
// interfaces between them:
//
//	Source ──lines──▶ audit ──Event──▶ Rule… ──Alert──▶ Sink…
//
// An [Event] is what one entry of Vault's audit log says about the tokens
// engine, an [Alert] what a rule found in events, and a [Snapshot] what was
// counted on the way. Package monitor connects the parts. This package imports
// none of those below it.
package tokenwatch

import (
	"context"
	"time"
)

// Source delivers the lines of an audit log.
type Source interface {
	// Run calls handle with whole lines, in order, until the source ends or ctx
	// does. A batch belongs to handle until it returns, and no longer.
	Run(ctx context.Context, handle func(Batch) error) error
}

// Batch is a run of whole lines, each with its newline but perhaps the last. It
// may have none, and tell a position only.
type Batch struct {
	Lines []byte
	// Position is where the source stands behind these lines, to resume from;
	// nil if the source cannot.
	Position *Position
	// Skipped counts lines before these that were too long to be kept.
	Skipped int
	// Dropped counts lines before these that nobody read in time.
	Dropped int
}

// Position is a place in an audit log file.
type Position struct {
	Path     string `json:"path"`
	Device   uint64 `json:"device"`
	Inode    uint64 `json:"inode"`
	Offset   int64  `json:"offset"`    // of the first byte that was not consumed
	HeadSize int    `json:"head_size"` // bytes that HeadSum is of
	HeadSum  string `json:"head_sum"`  // SHA-256 of the file's beginning: tells a copy, and what replaced it
}

// Rule turns events into alerts. It is called from one goroutine, with events
// in the order of the log, and goes by the time in them.
type Rule interface {
	Name() string
	Observe(e *Event, emit func(Alert))
	// Tick tells the time when there are no events.
	Tick(now time.Time, emit func(Alert))
	// Save and Restore keep what the rule knows over a restart.
	Save() ([]byte, error)
	Restore(state []byte) error
}

// EntryObserver is a rule that wants the time of every entry, also of those that
// are not about the engine.
type EntryObserver interface {
	Entry(t time.Time, emit func(Alert))
}

// Sink passes alerts on. Send may be called again with the same alert after a
// failure or a restart; the fingerprint tells that it is the same.
type Sink interface {
	Name() string
	Send(ctx context.Context, a Alert) error
}
