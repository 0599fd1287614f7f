// Package report sums up what an audit log says about a period, as text, JSON
// or one HTML page that needs nothing else.
package report

import (
	"encoding/json"
	"io"
	"time"

	"github.com/vault-tokens/vault-plugin-secrets-tokens/internal/tokenwatch"
)

// Report is what happened in a period. Strings are as they stand in the log:
// whoever writes them somewhere has to escape them for there.
type Report struct {
	Files     []string  `json:"files"`
	Generated time.Time `json:"generated"`
	From      time.Time `json:"from,omitzero"` // first request that counts; zero if there is none
	To        time.Time `json:"to,omitzero"`   // last one
	Log       Log       `json:"log"`
	Totals    Totals    `json:"totals"`
	Timeline  Timeline  `json:"timeline"`
	Roles     Table     `json:"roles"`
	Types     Table     `json:"token_types"`
	Entities  Table     `json:"entities"` // who asked for tokens
	Clients   Table     `json:"clients"`  // addresses that requests came from
	Failures  Table     `json:"failures"` // by kind of request, outcome and Vault's words
	Alerts    Alerts    `json:"alerts"`
}

// Log says how much of the log could be read.
type Log struct {
	Lines     int64 `json:"lines"`
	Malformed int64 `json:"malformed"` // no audit entries
	Oversized int64 `json:"oversized"` // longer than is read
}

// Totals counts requests that concern the engine.
type Totals struct {
	Requests    int64 `json:"requests"`
	Issued      int64 `json:"issued"`
	Active      int64 `json:"active"`       // introspections of good tokens
	Inactive    int64 `json:"inactive"`     // introspections of unknown, expired or revoked tokens
	CheckFailed int64 `json:"check_failed"` // introspections of live tokens with a wrong scope, audience or address
	Renewed     int64 `json:"renewed"`
	Revoked     int64 `json:"revoked"` // requests to revoke; one can end many tokens
	Denied      int64 `json:"denied"`  // refused by Vault
	Invalid     int64 `json:"invalid"` // refused for what they asked
}

// Failed is the number of refused requests.
func (t *Totals) Failed() int64 { return t.Denied + t.Invalid }

// Timeline is the totals by time. Every step from the first to the last
// request is there.
type Timeline struct {
	StepSeconds int64  `json:"step_seconds"`
	Steps       []Step `json:"steps"`
}

// Step is one stretch of time.
type Step struct {
	Start time.Time `json:"start"`
	Totals
}

// Table has the totals by something: those with the most issued tokens first,
// or in Clients and Failures the most requests.
type Table struct {
	Rows []Row `json:"rows"`
	// More counts the rows that were left out.
	More int `json:"more"`
	// Missed is how many requests a row can lack at most: with very many
	// different ones, those that are seen seldom are forgotten in between.
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
	Critical int                `json:"critical"` // findings, whatever their counts
	Warning  int                `json:"warning"`
	Info     int                `json:"info"`
	List     []tokenwatch.Alert `json:"list"` // bounded; the least severe are left out first
}

// Total is the number of findings.
func (a *Alerts) Total() int { return a.Critical + a.Warning + a.Info }

// WriteJSON writes the report as one indented JSON object.
func (r *Report) WriteJSON(w io.Writer) error {
	encoder := json.NewEncoder(w)
	encoder.SetIndent("", "  ")
	return encoder.Encode(r)
}
