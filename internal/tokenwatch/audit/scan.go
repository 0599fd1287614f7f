package audit

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"errors"
	"math/bits"
	"strconv"
)

// scanner walks one JSON text without building values. It checks only as much of
// the grammar as it needs to stay in step: Vault's JSON encoder writes the
// entries, so a broken one is cut off or overwritten, not subtly wrong.
//
// encoding/json decodes about 40,000 entries a second on one core, into a
// struct; most of that time is spent on values that are not needed.
type scanner struct {
	b   []byte
	i   int
	err error
}

var (
	errNoJSON  = errors.New("not a JSON object")
	errCutOff  = errors.New("cut off")
	errTooDeep = errors.New("nested too deeply")
)

// maxDepth is far more than Vault itself nests; callers choose their values.
const maxDepth = 128

func (s *scanner) fail(err error) {
	if s.err == nil {
		s.err = err
	}
	s.i = len(s.b)
}

func (s *scanner) space() {
	for s.i < len(s.b) && s.b[s.i] <= ' ' {
		s.i++
	}
}

// peek returns the first byte of the next value, or 0 at the end.
func (s *scanner) peek() byte {
	s.space()
	if s.i < len(s.b) {
		return s.b[s.i]
	}
	return 0
}

// members calls visit for each member of the object that begins here, with the
// key as written. A value that visit does not read is skipped.
func (s *scanner) members(visit func(key []byte)) {
	if s.peek() != '{' {
		s.fail(errNoJSON)
		return
	}
	s.i++
	if s.peek() == '}' {
		s.i++
		return
	}
	for s.err == nil {
		key := s.raw()
		if s.peek() != ':' {
			s.fail(errCutOff)
			return
		}
		s.i++
		s.space()
		at := s.i
		visit(key)
		if s.i == at {
			s.skip()
		}
		if s.end('}') {
			return
		}
	}
}

// elements calls visit for each element of the array that begins here.
func (s *scanner) elements(visit func()) {
	if s.peek() != '[' {
		s.fail(errNoJSON)
		return
	}
	s.i++
	if s.peek() == ']' {
		s.i++
		return
	}
	for s.err == nil {
		s.space()
		at := s.i
		visit()
		if s.i == at {
			s.skip()
		}
		if s.end(']') {
			return
		}
	}
}

// end steps over the comma or the bracket after a member or an element.
func (s *scanner) end(closing byte) bool {
	switch s.peek() {
	case ',':
		s.i++
		return false
	case closing:
		s.i++
		return true
	}
	s.fail(errCutOff)
	return true
}

// raw returns the bytes between the quotes of the string that begins here.
func (s *scanner) raw() []byte {
	if s.peek() != '"' {
		s.fail(errCutOff)
		return nil
	}
	start := s.i + 1
	end := closingQuote(s.b, start)
	if end < 0 {
		s.fail(errCutOff)
		return nil
	}
	s.i = end + 1
	return s.b[start:end]
}

// closingQuote returns the end of a string whose content begins at i, or -1. It
// searches eight bytes at a time for the first " or \: subtracting 1 from each
// byte borrows from the sign bit of those that are 0.
func closingQuote(b []byte, i int) int {
	const ones, signs = 0x0101010101010101, 0x8080808080808080
	for i+8 <= len(b) {
		word := binary.LittleEndian.Uint64(b[i:])
		quote, backslash := word^('"'*ones), word^('\\'*ones)
		found := ((quote-ones)&^quote | (backslash-ones)&^backslash) & signs
		if found == 0 {
			i += 8
			continue
		}
		if i += bits.TrailingZeros64(found) / 8; b[i] == '"' {
			return i
		}
		i += 2 // the escaped character
	}
	for ; i < len(b); i++ {
		switch b[i] {
		case '"':
			return i
		case '\\':
			i++
		}
	}
	return -1
}

// skip steps over the value that begins here.
func (s *scanner) skip() {
	switch s.peek() {
	case '"':
		s.raw()
	case '{', '[':
		s.skipNested()
	case 0:
		s.fail(errCutOff)
	default:
		s.literal()
	}
}

func (s *scanner) skipNested() {
	var closing [maxDepth]byte
	depth := 0
	b := s.b
	for i := s.i; i < len(b); i++ {
		switch c := b[i]; c {
		case '"':
			if i = closingQuote(b, i+1); i < 0 {
				s.fail(errCutOff)
				return
			}
		case '{', '[':
			if depth == maxDepth {
				s.fail(errTooDeep)
				return
			}
			closing[depth] = c + 2 // ASCII: {…} and […] are two apart
			depth++
		case '}', ']':
			if depth--; closing[depth] != c {
				s.fail(errCutOff)
				return
			}
			if depth == 0 {
				s.i = i + 1
				return
			}
		}
	}
	s.fail(errCutOff)
}

// literal reads a number, true, false or null.
func (s *scanner) literal() []byte {
	start := s.i
	for s.i < len(s.b) {
		switch c := s.b[s.i]; {
		case c >= '0' && c <= '9', c >= 'a' && c <= 'z', c == '-', c == '+', c == '.', c == 'E':
			s.i++
			continue
		}
		break
	}
	if s.i == start {
		s.fail(errCutOff)
	}
	return s.b[start:s.i]
}

// value returns the bytes of the value that begins here.
func (s *scanner) value() []byte {
	s.space()
	start := s.i
	s.skip()
	if s.err != nil {
		return nil
	}
	return s.b[start:s.i]
}

// text returns the string that begins here, or nil if it is another value. The
// result may be a part of the line.
func (s *scanner) text() []byte {
	if s.peek() != '"' {
		s.skip()
		return nil
	}
	raw := s.raw()
	if bytes.IndexByte(raw, '\\') < 0 {
		return raw
	}
	var plain string
	if err := json.Unmarshal(s.b[s.i-len(raw)-2:s.i], &plain); err != nil {
		s.fail(err)
		return nil
	}
	return []byte(plain)
}

// number returns the integer that begins here.
func (s *scanner) number() (int64, bool) {
	if c := s.peek(); c != '-' && (c < '0' || c > '9') {
		s.skip()
		return 0, false
	}
	digits := s.literal()
	if n, err := strconv.ParseInt(string(digits), 10, 64); err == nil {
		return n, true
	}
	f, err := strconv.ParseFloat(string(digits), 64)
	if err != nil || f < -1<<62 || f > 1<<62 {
		return 0, false
	}
	return int64(f), true
}

// boolean returns true or false; ok is false for any other value.
func (s *scanner) boolean() (is, ok bool) {
	switch s.peek() {
	case 't', 'f':
		word := s.literal()
		return string(word) == "true", string(word) == "true" || string(word) == "false"
	}
	s.skip()
	return false, false
}
