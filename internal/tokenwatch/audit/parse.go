// Package audit reads entries of Vault's audit log, as the file and socket
// devices write them (format json), one per line.
package audit

import (
	"bytes"
	"errors"
	"strings"
	"time"

	"github.com/vault-tokens/vault-plugin-secrets-tokens/internal/tokenwatch"
)

// DefaultMountType is the name under which the plugin is registered, unless an
// operator chose another one.
const DefaultMountType = "vault-plugin-secrets-tokens"

// Parser reads entries. It is not safe for use by several goroutines.
type Parser struct {
	mountTypes map[string]bool
	strings    interner

	// The parts of the entry at hand, as spans of the line.
	entry struct {
		kind, mountType, requestData, responseData []byte
		batchInput, batchResults                   []byte // of an introspection
	}
}

// NewParser reads what concerns mounts of the given types.
func NewParser(mountTypes ...string) *Parser {
	if len(mountTypes) == 0 {
		mountTypes = []string{DefaultMountType}
	}
	p := &Parser{mountTypes: make(map[string]bool)}
	for _, t := range mountTypes {
		p.mountTypes[t] = true
	}
	return p
}

// Append reads one entry and appends its events: one, or, of a batch that was
// answered, one for each item. After an error events is as before.
func (p *Parser) Append(events []tokenwatch.Event, line []byte) ([]tokenwatch.Event, error) {
	n := len(events)
	events = append(events, tokenwatch.Event{})
	if err := p.Parse(line, &events[n]); err != nil {
		return events[:n], err
	}
	if p.entry.batchResults == nil {
		return events, nil
	}
	return p.appendItems(events[:n], events[n])
}

// Parse reads one entry into e; of a batch, what its items have in common. The event's Kind is [tokenwatch.KindOtherMounts]
// when the entry is valid and of no concern: another mount, or the request half
// of something whose response half will follow. An error says that the line is
// no audit entry.
func (p *Parser) Parse(line []byte, e *tokenwatch.Event) error {
	*e = tokenwatch.Event{Kind: tokenwatch.KindOtherMounts}
	p.entry.kind, p.entry.mountType, p.entry.requestData, p.entry.responseData = nil, nil, nil, nil
	p.entry.batchInput, p.entry.batchResults = nil, nil
	line = bytes.TrimSpace(line)
	if t, ok := plainRequest(line); ok {
		e.Phase, e.Time = tokenwatch.PhaseRequest, t
		return nil
	}
	s := scanner{b: line}
	p.walk(&s, e)
	if s.err != nil {
		return s.err
	}
	if s.peek() != 0 {
		return errNoEntry
	}
	switch e.Phase = tokenwatch.Phase(p.strings.get(p.entry.kind)); e.Phase {
	case tokenwatch.PhaseRequest, tokenwatch.PhaseResponse:
	default:
		return errNoEntry
	}
	if e.Time.IsZero() {
		return errNoEntry
	}
	if kind := p.classify(e); kind != tokenwatch.KindOtherMounts && p.authoritative(e, kind) {
		e.Kind = kind
		return p.details(e)
	}
	return nil
}

var errNoEntry = errors.New("not an entry of an audit log")

// plainRequest recognises a request half that adds nothing to its response half:
// no error, no audit device. These are half of all entries. It checks the whole
// line but reads only its end: Vault writes the members of an object in
// alphabetical order, so time and type are last, and a request's path is near
// its end. What looks like a member there is one, as quotes in strings are
// escaped.
func plainRequest(line []byte) (time.Time, bool) {
	before, ok := bytes.CutSuffix(line, []byte(`","type":"request"}`))
	if !ok {
		return time.Time{}, false
	}
	at := bytes.LastIndexByte(before, '"') + 1
	if !bytes.HasSuffix(before[:at], []byte(`,"time":"`)) {
		return time.Time{}, false
	}
	const key = `"path":"`
	path := bytes.LastIndex(before[:at], []byte(key))
	if path < 0 || bytes.HasPrefix(before[path+len(key):], []byte("sys/audit/")) {
		return time.Time{}, false
	}
	s, refused := scanner{b: line}, false
	s.members(func(key []byte) { refused = refused || string(key) == "error" })
	if refused || s.err != nil || s.i != len(line) {
		return time.Time{}, false
	}
	t := parseTime(before[at:])
	return t, !t.IsZero()
}

// authoritative reports whether this half of the request counts. That is the
// response; but a refused request has its error on both halves, and the log of an
// audit device that is being disabled ends with the request.
func (p *Parser) authoritative(e *tokenwatch.Event, kind tokenwatch.Kind) bool {
	return e.Phase == tokenwatch.PhaseResponse || e.Error != "" || kind == tokenwatch.KindAuditDisable
}

func (p *Parser) walk(s *scanner, e *tokenwatch.Event) {
	s.members(func(key []byte) {
		switch string(key) {
		case "auth":
			p.auth(s, e)
		case "error":
			e.Error = string(s.text())
		case "forwarded_from":
			e.ForwardedFrom = p.strings.get(s.text())
		case "request":
			p.request(s, e)
		case "response":
			p.response(s, e)
		case "time":
			e.Time = parseTime(s.text())
		case "type":
			p.entry.kind = s.text()
		}
	})
}

func (p *Parser) auth(s *scanner, e *tokenwatch.Event) {
	if s.peek() != '{' {
		return
	}
	s.members(func(key []byte) {
		switch string(key) {
		case "accessor":
			e.Accessor = p.strings.get(s.text())
		case "display_name":
			e.DisplayName = p.strings.get(s.text())
		case "entity_id":
			e.EntityID = p.strings.get(s.text())
		case "policies":
			if s.peek() != '[' {
				return
			}
			s.elements(func() {
				if string(s.text()) == "root" {
					e.Root = true
				}
			})
		}
	})
}

func (p *Parser) request(s *scanner, e *tokenwatch.Event) {
	if s.peek() != '{' {
		return
	}
	s.members(func(key []byte) {
		switch string(key) {
		case "client_token_accessor":
			if e.Accessor == "" {
				e.Accessor = p.strings.get(s.text())
			}
		case "data":
			p.entry.requestData = s.value()
		case "id":
			e.RequestID = string(s.text())
		case "mount_point":
			e.Mount = p.strings.get(s.text())
		case "mount_type":
			p.entry.mountType = s.text()
		case "namespace":
			e.Namespace = p.namespace(s)
		case "operation":
			e.Operation = p.strings.get(s.text())
		case "path":
			e.Path = p.strings.get(s.text())
		case "remote_address":
			e.RemoteAddress = p.strings.get(s.text())
		}
	})
}

func (p *Parser) namespace(s *scanner) string {
	if s.peek() != '{' {
		return ""
	}
	var path []byte
	s.members(func(key []byte) {
		if string(key) == "path" {
			path = s.text()
		}
	})
	return p.strings.get(bytes.TrimSuffix(path, []byte("/")))
}

func (p *Parser) response(s *scanner, e *tokenwatch.Event) {
	if s.peek() != '{' {
		return
	}
	s.members(func(key []byte) {
		switch string(key) {
		case "data":
			p.entry.responseData = s.value()
		case "secret":
			if s.peek() != '{' {
				return
			}
			s.members(func(key []byte) {
				if string(key) == "lease_id" {
					e.LeaseID = string(s.text())
				}
			})
		}
	})
}

// parseTime reads the form that Vault writes, UTC with up to nine decimals, with
// its own fast code, and any other RFC 3339 time with package time.
func parseTime(b []byte) time.Time {
	const form = "2006-01-02T15:04:05"
	if len(b) > len(form) && b[len(b)-1] == 'Z' && b[10] == 'T' {
		year, ok1 := digits(b[0:4])
		month, ok2 := digits(b[5:7])
		day, ok3 := digits(b[8:10])
		hour, ok4 := digits(b[11:13])
		minute, ok5 := digits(b[14:16])
		second, ok6 := digits(b[17:19])
		nanos, ok7 := decimals(b[19 : len(b)-1])
		inRange := month >= 1 && month <= 12 && day >= 1 && day <= 28 && hour < 24 && minute < 60 && second < 60
		if ok1 && ok2 && ok3 && ok4 && ok5 && ok6 && ok7 && inRange {
			return time.Date(year, time.Month(month), day, hour, minute, second, nanos, time.UTC)
		}
	}
	t, err := time.Parse(time.RFC3339Nano, string(b))
	if err != nil {
		return time.Time{}
	}
	return t.UTC()
}

func digits(b []byte) (n int, ok bool) {
	for _, c := range b {
		if c < '0' || c > '9' {
			return 0, false
		}
		n = n*10 + int(c-'0')
	}
	return n, true
}

// decimals reads .123456789 as nanoseconds; an empty b is 0.
func decimals(b []byte) (int, bool) {
	if len(b) == 0 {
		return 0, true
	}
	if b[0] != '.' || len(b) < 2 || len(b) > 10 {
		return 0, false
	}
	n, ok := digits(b[1:])
	for range 10 - len(b) {
		n *= 10
	}
	return n, ok
}

// interner makes equal strings share memory: the same mounts, roles, entities and
// addresses appear over and over. Each string has one slot, and the next string
// with the same slot replaces it.
type interner [4096]string

const maxInternedLength = 128

func (in *interner) get(b []byte) string {
	if len(b) == 0 {
		return ""
	}
	if len(b) > maxInternedLength {
		return string(b)
	}
	slot := &in[slotOf(b)%uint64(len(in))]
	if *slot != string(b) {
		*slot = string(b)
	}
	return *slot
}

// slotOf hashes the length and the last bytes, in which names and ids differ.
func slotOf(b []byte) uint64 {
	const odd = 0x9e3779b97f4a7c15
	h := uint64(len(b))
	for _, c := range b[max(0, len(b)-12):] {
		h = (h ^ uint64(c)) * odd
	}
	return h >> 32
}

// hashed reports whether Vault replaced a value by its HMAC.
func hashed(s string) bool { return strings.HasPrefix(s, tokenwatch.HashPrefix) }
