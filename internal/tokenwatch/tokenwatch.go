// Package tokenwatch has the types that all parts of the monitor share, and the
// interfaces between them:
//
//	Source ──lines──▶ audit ──Event──▶ Rule… ──Alert──▶ Sink…
//
// An [Event] is what one entry of Vault's audit log says about the tokens
// engine, an [Alert] is what a rule found in events, and a [Snapshot] is what was
// counted. Package monitor connects the parts. This package imports none of the
// packages below it.
package tokenwatch

import (
	"context"
	"time"
)

// Source delivers the lines of an audit log.
type Source interface {
	// Run calls handle with whole lines, in order, until the source or ctx ends.
	// A batch is valid until handle returns.
	Run(ctx context.Context, handle func(Batch) error) error
}

// Batch is a run of whole lines, each with its newline except perhaps the last.
// It may have no lines and only a position.
type Batch struct {
	Lines []byte
	// Position is where to resume after these lines; nil if the source cannot
	// resume.
	Position *Position
	// Skipped counts lines before these that were too long.
	Skipped int
	// Dropped counts lines before these that were not read in time.
	Dropped int
}

// Position is a place in an audit log file.
type Position struct {
	Path     string `json:"path"`
	Device   uint64 `json:"device"`
	Inode    uint64 `json:"inode"`
	Offset   int64  `json:"offset"`    // of the first byte that was not consumed
	HeadSize int    `json:"head_size"` // bytes that HeadSum covers
	HeadSum  string `json:"head_sum"`  // SHA-256 of the file's beginning: identifies copies and replacements
}

// Rule turns events into alerts. It is called from one goroutine, with events
// in the order of the log, and uses their times, not the clock.
type Rule interface {
	Name() string
	Observe(e *Event, emit func(Alert))
	// Tick is called with the current time, so that rules notice silence.
	Tick(now time.Time, emit func(Alert))
	// Save and Restore keep what the rule knows across restarts.
	Save() ([]byte, error)
	Restore(state []byte) error
}

// EntryObserver is a rule that needs the time of every entry, including those
// that are not about the engine.
type EntryObserver interface {
	Entry(t time.Time, emit func(Alert))
}

// Sink delivers alerts. Send may be called again with the same alert after a
// failure or a restart; its fingerprint is then the same.
type Sink interface {
	Name() string
	Send(ctx context.Context, a Alert) error
}
