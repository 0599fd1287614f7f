// Package source delivers the lines of an audit log: from a file that is being
// written and rotated, from a socket that Vault connects to, or from a finite
// stream.
package source

import (
	"bytes"
)

const (
	// DefaultMaxLine is far above what requests to the engine need: introspections
	// of a thousand tokens in one batch take about 1 MB. A list of a million token
	// ids is longer, and not worth keeping.
	DefaultMaxLine = 4 << 20
	chunk          = 1 << 20
)

// splitter cuts a stream of chunks into runs of whole lines.
type splitter struct {
	maxLine int
	buf     []byte
	rest    int  // bytes at the beginning of buf that are part of an unfinished line
	giant   bool // inside a line that is longer than maxLine
	skipped int
	// consumed counts bytes up to the last whole line, including skipped ones;
	// beyond counts those after it that are no longer in buf.
	consumed, beyond int64
}

func newSplitter(maxLine int) *splitter {
	if maxLine <= 0 {
		maxLine = DefaultMaxLine
	}
	return &splitter{maxLine: maxLine, buf: make([]byte, chunk)}
}

// space returns the buffer for the next bytes.
func (s *splitter) space() []byte {
	if len(s.buf)-s.rest < chunk/2 {
		s.buf = append(s.buf[:s.rest], make([]byte, chunk)...)
	}
	return s.buf[s.rest:]
}

// position returns how far the stream has been read.
func (s *splitter) position() int64 { return s.consumed + s.beyond + int64(s.rest) }

// advance takes the n bytes that were read into space, and calls deliver with the
// whole lines and the number of skipped ones. The lines are valid until the next
// call.
func (s *splitter) advance(n int, deliver func(lines []byte, skipped int) error) error {
	data := s.buf[:s.rest+n]
	if s.giant {
		end := bytes.IndexByte(data, '\n')
		if end < 0 {
			s.beyond += int64(len(data))
			s.rest = 0
			return nil
		}
		s.giant = false
		s.consumed += s.beyond + int64(end) + 1
		s.beyond = 0
		s.skipped++
		data = data[end+1:]
	}
	whole := bytes.LastIndexByte(data, '\n') + 1
	s.consumed += int64(whole)
	if whole > 0 || s.skipped > 0 {
		skipped := s.skipped
		s.skipped = 0
		if err := deliver(data[:whole], skipped); err != nil {
			return err
		}
	}
	s.rest = copy(s.buf, data[whole:])
	if s.rest > s.maxLine {
		s.giant = true
		s.beyond += int64(s.rest)
		s.rest = 0
	}
	return nil
}

// finish delivers what is left after the last newline when the stream ends.
func (s *splitter) finish(deliver func(lines []byte, skipped int) error) error {
	if s.giant {
		s.skipped++
	}
	lines, skipped := s.buf[:s.rest], s.skipped
	s.consumed += s.beyond + int64(s.rest)
	s.rest, s.beyond, s.giant, s.skipped = 0, 0, false, 0
	if len(lines) == 0 && skipped == 0 {
		return nil
	}
	return deliver(lines, skipped)
}
