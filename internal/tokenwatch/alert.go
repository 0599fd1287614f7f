package tokenwatch

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"strings"
	"time"
)

// Severity is how urgent an alert is.
type Severity string

const (
	SeverityInfo     Severity = "info"     // worth knowing
	SeverityWarning  Severity = "warning"  // look today
	SeverityCritical Severity = "critical" // look now
)

// ParseSeverity accepts the three severities in any case.
func ParseSeverity(s string) (Severity, error) {
	switch sev := Severity(strings.ToLower(s)); sev {
	case SeverityInfo, SeverityWarning, SeverityCritical:
		return sev, nil
	}
	return "", fmt.Errorf("%q is not info, warning or critical", s)
}

// Level orders severities: the higher, the more urgent.
func (s Severity) Level() int {
	switch s {
	case SeverityCritical:
		return 2
	case SeverityWarning:
		return 1
	}
	return 0
}

// Color is the severity's colour on a terminal, as an ANSI code.
func (s Severity) Color() string {
	switch s {
	case SeverityCritical:
		return "1;31" // bold red
	case SeverityWarning:
		return "33" // yellow
	}
	return "36" // cyan
}

// Alert is one finding of a rule. A rule emits it again, with the same Key and
// the number of events since, for as long as it goes on; the monitor adds these
// up, and sinks get the sum under one Fingerprint.
//
// Any string may hold what an attacker chose. Sinks must escape it for their
// output.
type Alert struct {
	Fingerprint string    `json:"fingerprint"`
	Rule        string    `json:"rule"`
	Severity    Severity  `json:"severity"`
	Key         string    `json:"-"`                   // distinguishes the findings of one rule
	Title       string    `json:"title"`               // one sentence: what happened
	Detail      string    `json:"detail,omitempty"`    // one sentence: numbers, what changed, and the like
	Who         string    `json:"who,omitempty"`       // display name and entity, or accessor, or address
	EntityID    string    `json:"entity_id,omitempty"` // of Who, or of the token's owner
	Where       string    `json:"where,omitempty"`     // address or network that it came from
	Namespace   string    `json:"namespace,omitempty"`
	Mount       string    `json:"mount,omitempty"`
	Path        string    `json:"path,omitempty"`
	Role        string    `json:"role,omitempty"`
	TokenID     string    `json:"token_id,omitempty"`
	LeaseID     string    `json:"lease_id,omitempty"`
	RequestID   string    `json:"request_id,omitempty"` // the last request; find it in the audit log
	First       time.Time `json:"first"`                // first event that counts
	Last        time.Time `json:"last"`
	Count       int64     `json:"count"` // events that count
	Advice      string    `json:"advice"`
}

// FingerprintOf identifies a finding by its rule and by what distinguishes it
// from other findings of that rule.
func FingerprintOf(rule string, parts ...string) string {
	h := sha256.New()
	for _, p := range append([]string{rule}, parts...) {
		fmt.Fprintf(h, "%d:%s", len(p), p)
	}
	return hex.EncodeToString(h.Sum(nil)[:8])
}
