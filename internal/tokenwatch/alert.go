package tokenwatch

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"strings"
	"time"
)

// Severity says how soon somebody has to look.
type Severity string

const (
	SeverityInfo     Severity = "info"     // worth knowing
	SeverityWarning  Severity = "warning"  // look today
	SeverityCritical Severity = "critical" // look now
)

// ParseSeverity accepts the three words in any case.
func ParseSeverity(s string) (Severity, error) {
	switch sev := Severity(strings.ToLower(s)); sev {
	case SeverityInfo, SeverityWarning, SeverityCritical:
		return sev, nil
	}
	return "", fmt.Errorf("%q is none of info, warning, critical", s)
}

// Level orders severities: the higher, the sooner.
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

// Alert is one finding of a rule. A rule says it again whenever it goes on, with
// the same Key and the number of events since; these are folded into one, and
// sinks get the sum under one Fingerprint.
//
// Any string may hold what an attacker chose. Sinks have to escape for where
// they write to.
type Alert struct {
	Fingerprint string    `json:"fingerprint"`
	Rule        string    `json:"rule"`
	Severity    Severity  `json:"severity"`
	Key         string    `json:"-"`                   // tells findings of one rule apart
	Title       string    `json:"title"`               // one sentence: what happened
	Detail      string    `json:"detail,omitempty"`    // one sentence: figures, what changed, and the like
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

// FingerprintOf names a finding by its rule and by what tells it apart from
// other findings of that rule.
func FingerprintOf(rule string, parts ...string) string {
	h := sha256.New()
	for _, p := range append([]string{rule}, parts...) {
		fmt.Fprintf(h, "%d:%s", len(p), p)
	}
	return hex.EncodeToString(h.Sum(nil)[:8])
}
