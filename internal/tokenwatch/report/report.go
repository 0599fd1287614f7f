// Package report summarizes the audit log of a period as text, JSON or one
// self-contained HTML page.
package report

import (
	"encoding/json"
	"io"
	"time"

	"github.com/vault-tokens/vault-plugin-secrets-tokens/internal/tokenwatch"
)

// Report is what happened in a period. Strings are as in the log: whoever writes
// them must escape them for the output.
type Report struct {
	Files     []string  `json:"files"`
	Generated time.Time `json:"generated"`
	From      time.Time `json:"from,omitzero"` // time of the first request; zero if there is none
	To        time.Time `json:"to,omitzero"`   // time of the last one
	Log       Log       `json:"log"`
	Totals    Totals    `json:"totals"`
	Timeline  Timeline  `json:"timeline"`
	Roles     Table     `json:"roles"`
	Types     Table     `json:"token_types"`
	Entities  Table     `json:"entities"` // who asked for tokens
	Clients   Table     `json:"clients"`  // addresses of callers
	Failures  Table     `json:"failures"` // by kind of request, outcome and error
	Alerts    Alerts    `json:"alerts"`
}

// Log counts the lines of the log.
type Log struct {
	Lines     int64 `json:"lines"`
	Malformed int64 `json:"malformed"` // not audit entries
	Oversized int64 `json:"oversized"` // longer than the limit
}

// Totals counts requests about the engine.
type Totals struct {
	Requests    int64 `json:"requests"`
	Issued      int64 `json:"issued"`
	Active      int64 `json:"active"`       // introspections of good tokens
	Inactive    int64 `json:"inactive"`     // introspections of unknown, expired or revoked tokens
	CheckFailed int64 `json:"check_failed"` // introspections of live tokens with the wrong scope, audience or address
	Renewed     int64 `json:"renewed"`
	Revoked     int64 `json:"revoked"` // requests to revoke; one can end many tokens
	Denied      int64 `json:"denied"`  // refused by Vault
	Invalid     int64 `json:"invalid"` // refused for what they asked for
}

// Failed is the number of refused requests.
func (t *Totals) Failed() int64 { return t.Denied + t.Invalid }

// Timeline is the totals by time. No step between the first and the last request
// is missing.
type Timeline struct {
	StepSeconds int64  `json:"step_seconds"`
	Steps       []Step `json:"steps"`
}

// Step is one interval of time.
type Step struct {
	Start time.Time `json:"start"`
	Totals
}

// Table is the totals by role, type and so on: the most issued tokens first, in
// Clients and Failures the most requests.
type Table struct {
	Rows []Row `json:"rows"`
	// More is the number of rows that are left out.
	More int `json:"more"`
	// Missed bounds how many requests a row may lack: when there are too many
	// rows, rare ones are dropped and may start again from zero.
	Missed int64 `json:"missed"`
}

// Row is one line of a table. Which of the names are set depends on the table.
type Row struct {
	Role      string    `json:"role,omitempty"`
	Mount     string    `json:"mount,omitempty"`
	Namespace string    `json:"namespace,omitempty"`
	TokenType string    `json:"token_type,omitempty"`
	Entity    string    `json:"entity,omitempty"` // entity id, else hashed accessor, else address
	Name      string    `json:"name,omitempty"`   // display name of the last request
	Address   string    `json:"address,omitempty"`
	Kind      string    `json:"kind,omitempty"`
	Outcome   string    `json:"outcome,omitempty"`
	Error     string    `json:"error,omitempty"`
	Last      time.Time `json:"last"`
	Totals
}

// Alerts are the findings of the rules, most severe first, then the latest.
type Alerts struct {
	Critical int                `json:"critical"` // findings, not events
	Warning  int                `json:"warning"`
	Info     int                `json:"info"`
	List     []tokenwatch.Alert `json:"list"` // bounded; the least severe are left out first
}

// Total returns the number of findings.
func (a *Alerts) Total() int { return a.Critical + a.Warning + a.Info }

// WriteJSON writes the report as one indented JSON object.
func (r *Report) WriteJSON(w io.Writer) error {
	encoder := json.NewEncoder(w)
	encoder.SetIndent("", "  ")
	return encoder.Encode(r)
}
