package report

import (
	"bufio"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/vault-tokens/vault-plugin-secrets-tokens/internal/tokenwatch"
	"github.com/vault-tokens/vault-plugin-secrets-tokens/internal/tokenwatch/sanitize"
)

const (
	textWidth = 44  // of a cell in the text report
	htmlWidth = 200 // of a text in the HTML report, in characters
)

// WriteText writes the report for a terminal, with ANSI colours if colors is set.
func (r *Report) WriteText(w io.Writer, colors bool) error {
	out := bufio.NewWriter(w)
	p := painter(colors)
	fmt.Fprintf(out, "%s\n%s\n", p.bold("Token report"), r.period())
	fmt.Fprintln(out, r.logLine())
	for _, section := range r.sections() {
		fmt.Fprintf(out, "\n%s\n", p.bold(section.title))
		if len(section.rows) == 0 {
			fmt.Fprintf(out, "  %s\n", section.empty)
			continue
		}
		writeColumns(out, section, p)
		for _, note := range section.notes {
			fmt.Fprintf(out, "  %s\n", note)
		}
	}
	fmt.Fprintf(out, "\n%s\n", p.bold("Alerts: "+r.Alerts.count()))
	for _, a := range r.Alerts.List {
		writeAlert(out, a, p)
	}
	if more := r.Alerts.Total() - len(r.Alerts.List); more > 0 {
		fmt.Fprintf(out, "  %s more\n", tokenwatch.Number(int64(more)))
	}
	return out.Flush()
}

func writeAlert(out io.Writer, a tokenwatch.Alert, p painter) {
	fmt.Fprintf(out, "\n  %s  %s\n", p.severity(a.Severity), sanitize.Text(a.Title, htmlWidth))
	for _, d := range details(a) {
		fmt.Fprintf(out, "    %-9s %s\n", d.Name, d.Value)
	}
}

// writeColumns aligns names to the left and numbers to the right.
func writeColumns(out io.Writer, s section, p painter) {
	widths := make([]int, len(s.columns))
	rows := append([][]cell{s.columns}, s.rows...)
	for _, row := range rows {
		for i, c := range row {
			widths[i] = max(widths[i], utf8.RuneCountInString(c.short()))
		}
	}
	for at, row := range rows {
		var line strings.Builder
		for i, c := range row {
			text := c.short()
			pad := strings.Repeat(" ", widths[i]-utf8.RuneCountInString(text))
			if s.columns[i].Number {
				text = pad + text
			} else {
				text += pad
			}
			line.WriteString("  " + text)
		}
		text := strings.TrimRight(line.String(), " ")
		if at == 0 {
			text = p.dim(text)
		}
		fmt.Fprintln(out, text)
	}
}

// section is a table as the report shows it.
type section struct {
	id, title string
	empty     string // shown when there are no rows
	columns   []cell
	rows      [][]cell
	notes     []string
	bar       int // the column with a bar in the HTML report; 0: none
}

// cell is sanitized text, or a number.
type cell struct {
	Text   string
	Number bool
	Share  float64 // of the largest value in its column, for the bar
}

func (c cell) short() string {
	if utf8.RuneCountInString(c.Text) <= textWidth {
		return c.Text
	}
	return string([]rune(c.Text)[:textWidth-1]) + "…"
}

func text(s string) cell { return cell{Text: sanitize.Text(s, htmlWidth)} }

// nothing is written for zero, so that other numbers stand out.
const nothing = "·"

func figure(n int64) cell {
	c := cell{Text: tokenwatch.Number(n), Number: true}
	if n == 0 {
		c.Text = nothing
	}
	return c
}

func figures(label string) cell { return cell{Text: label, Number: true} }

// column is one column of a section: its heading, and its cell for a row.
type column struct {
	heading cell
	show    func(*Row) cell
}

func name(heading string, of func(*Row) string) column {
	return column{text(heading), func(r *Row) cell { return text(tokenwatch.ShortHash(of(r))) }}
}

func count(heading string, of func(*Row) int64) column {
	return column{figures(heading), func(r *Row) cell { return figure(of(r)) }}
}

func (r *Report) sections() []section {
	var (
		issued   = count("issued", func(r *Row) int64 { return r.Issued })
		active   = count("active", func(r *Row) int64 { return r.Active })
		inactive = count("inactive", func(r *Row) int64 { return r.Inactive })
		checks   = count("check failed", func(r *Row) int64 { return r.CheckFailed })
		refused  = count("refused", func(r *Row) int64 { return r.Failed() })
		requests = count("requests", func(r *Row) int64 { return r.Requests })
		who      = name("name", func(r *Row) string { return r.Name })
		last     = name("last", func(r *Row) string { return moment(r.Last) })
		mount    = name("mount", func(r *Row) string { return strings.TrimPrefix(r.Namespace+"/"+r.Mount, "/") })
	)
	return []section{
		tableSection("roles", "By role", "No request named a role.", r.Roles, func(r *Row) int64 { return r.Issued },
			name("role", func(r *Row) string { return r.Role }), issued, active, checks, refused,
			name("type", func(r *Row) string { return r.TokenType }), mount, last),
		tableSection("types", "By token type", "No token was issued or introspected.", r.Types, func(r *Row) int64 { return r.Issued },
			name("type", func(r *Row) string { return r.TokenType }), issued, active, checks, last),
		tableSection("entities", "Who asked for tokens", "Nobody asked for a token.", r.Entities, func(r *Row) int64 { return r.Issued },
			who, issued, refused, name("entity", func(r *Row) string { return r.Entity }), last),
		tableSection("failures", "What failed", "Nothing failed.", r.Failures, func(r *Row) int64 { return r.Requests },
			name("request", func(r *Row) string { return kindName(tokenwatch.Kind(r.Kind)) }), requests,
			name("outcome", func(r *Row) string { return r.Outcome }),
			name("error", func(r *Row) string { return words(r.Error) }), last),
		tableSection("clients", "Top clients", "No request had an address.", r.Clients, func(r *Row) int64 { return r.Requests },
			name("address", func(r *Row) string { return r.Address }), requests, issued, inactive, checks, refused, who, last),
	}
}

// tableSection returns the section of a table. bar is the figure of the second
// column, which the HTML report also draws.
func tableSection(id, title, empty string, t Table, bar func(*Row) int64, columns ...column) section {
	s := section{id: id, title: title, empty: empty, bar: 1}
	for _, c := range columns {
		s.columns = append(s.columns, c.heading)
	}
	var most int64
	for i := range t.Rows {
		most = max(most, bar(&t.Rows[i]))
	}
	for i := range t.Rows {
		var cells []cell
		for _, c := range columns {
			cells = append(cells, c.show(&t.Rows[i]))
		}
		if most > 0 {
			cells[s.bar].Share = float64(bar(&t.Rows[i])) / float64(most)
		}
		s.rows = append(s.rows, cells)
	}
	if slices.ContainsFunc(t.Rows, func(r Row) bool { return strings.HasPrefix(r.TokenType, tokenwatch.HashPrefix) }) {
		s.notes = append(s.notes, "Vault hashed the token types; scripts/setup-audit.sh makes the mount write them in clear.")
	}
	if t.More > 0 {
		s.notes = append(s.notes, fmt.Sprintf("%s more, with fewer requests", tokenwatch.Number(int64(t.More))))
	}
	if t.Missed > 0 {
		s.notes = append(s.notes, fmt.Sprintf("There are too many to keep them all: a row may lack up to %s requests.", tokenwatch.Number(t.Missed)))
	}
	return s
}

// detail is one fact about an alert.
type detail struct {
	Name, Value string
	Wide        bool // a sentence: has its own line in the HTML report
}

func details(a tokenwatch.Alert) []detail {
	var list []detail
	for _, d := range []struct{ name, value string }{
		{"what", a.Detail},
		{"who", a.Who},
		{"where", a.Where},
		{"path", strings.TrimPrefix(a.Namespace+"/"+a.Path, "/")},
		{"role", a.Role},
		{"token", a.TokenID},
		{"lease", a.LeaseID},
		{"when", when(a)},
		{"rule", a.Rule},
		{"request", a.RequestID},
		{"do first", a.Advice},
	} {
		if d.value != "" {
			sentence := d.name == "what" || d.name == "do first"
			list = append(list, detail{d.name, sanitize.Text(d.value, 2*htmlWidth), sentence})
		}
	}
	return list
}

func when(a tokenwatch.Alert) string {
	first, last := moment(a.First), moment(a.Last)
	switch {
	case a.Count <= 1:
		return last
	case first == last:
		return fmt.Sprintf("%s, %s times", last, tokenwatch.Number(a.Count))
	}
	if day := len("2006-01-02 "); first[:day] == last[:day] {
		last = last[day:]
	}
	return fmt.Sprintf("%s to %s, %s times", first, last, tokenwatch.Number(a.Count))
}

func (a *Alerts) count() string {
	if a.Total() == 0 {
		return "none"
	}
	var parts []string
	for _, p := range []struct {
		n    int
		word tokenwatch.Severity
	}{{a.Critical, tokenwatch.SeverityCritical}, {a.Warning, tokenwatch.SeverityWarning}, {a.Info, tokenwatch.SeverityInfo}} {
		if p.n > 0 {
			parts = append(parts, fmt.Sprintf("%s %s", tokenwatch.Number(int64(p.n)), p.word))
		}
	}
	return strings.Join(parts, ", ")
}

// period returns the time that the report covers.
func (r *Report) period() string {
	if r.From.IsZero() {
		return "There are no requests about the engine."
	}
	return fmt.Sprintf("%s to %s (%s)", moment(r.From), moment(r.To), r.To.Sub(r.From).Round(time.Second))
}

func (r *Report) logLine() string {
	line := fmt.Sprintf("%s lines; %s requests about the engine", tokenwatch.Number(r.Log.Lines), tokenwatch.Number(r.Totals.Requests))
	if r.Log.Malformed > 0 {
		line += fmt.Sprintf("; %s lines that are not audit entries", tokenwatch.Number(r.Log.Malformed))
	}
	if r.Log.Oversized > 0 {
		line += fmt.Sprintf("; %s lines too long", tokenwatch.Number(r.Log.Oversized))
	}
	return line
}

func moment(t time.Time) string {
	if t.IsZero() {
		return "never"
	}
	return t.UTC().Format("2006-01-02 15:04:05Z")
}

// kindName returns a kind of request in words.
func kindName(k tokenwatch.Kind) string {
	if name, ok := map[tokenwatch.Kind]string{
		tokenwatch.KindIssue:        "issue a token",
		tokenwatch.KindIntrospect:   "introspect",
		tokenwatch.KindRevoke:       "revoke a token",
		tokenwatch.KindTokenRead:    "look up a token",
		tokenwatch.KindRoleWrite:    "write a role",
		tokenwatch.KindRoleRead:     "read a role",
		tokenwatch.KindRoleDelete:   "delete a role",
		tokenwatch.KindRoleRevoke:   "revoke a role's tokens",
		tokenwatch.KindEntityRevoke: "revoke an entity's tokens",
		tokenwatch.KindTidy:         "tidy",
		tokenwatch.KindTidyCancel:   "cancel tidying",
		tokenwatch.KindConfigWrite:  "write config",
		tokenwatch.KindConfigRead:   "read config",
		tokenwatch.KindKeyWrite:     "create a key",
		tokenwatch.KindKeyRead:      "read a key",
		tokenwatch.KindKeyRotate:    "rotate a key",
		tokenwatch.KindKeyEmergency: "drop a key",
		tokenwatch.KindKeyDelete:    "delete a key",
		tokenwatch.KindPublicRead:   "public keys, status",
		tokenwatch.KindOther:        "another request",
		tokenwatch.KindLeaseRenew:   "renew a lease",
		tokenwatch.KindLeaseRevoke:  "revoke a lease",
		tokenwatch.KindLeasePrefix:  "revoke leases by prefix",
		tokenwatch.KindAuditDisable: "disable an audit device",
		tokenwatch.KindAuditEnable:  "enable an audit device",
		tokenwatch.KindMountTune:    "tune the mount",
		tokenwatch.KindMountDisable: "disable the mount",
	}[k]; ok {
		return name
	}
	return string(k)
}

// words returns an error text in one line. Vault hashes the engine's own errors.
func words(s string) string {
	s = strings.TrimSpace(s)
	if strings.HasPrefix(s, tokenwatch.HashPrefix) {
		return "hashed: " + tokenwatch.ShortHash(s)
	}
	lines := strings.FieldsFunc(s, func(r rune) bool { return r == '\n' || r == '\t' || r == '*' })
	for i := range lines {
		lines[i] = strings.TrimSpace(lines[i])
	}
	if len(lines) > 1 && strings.HasSuffix(lines[0], "occurred:") {
		lines = lines[1:] // "1 error occurred:" adds nothing
	}
	return strings.Join(lines, " ")
}

// painter colours text if it is true.
type painter bool

func (p painter) paint(code, s string) string {
	if !p {
		return s
	}
	return "\x1b[" + code + "m" + s + "\x1b[0m"
}

func (p painter) bold(s string) string { return p.paint("1", s) }
func (p painter) dim(s string) string  { return p.paint("2", s) }

func (p painter) severity(s tokenwatch.Severity) string {
	word := fmt.Sprintf("%-8s", strings.ToUpper(sanitize.Text(string(s), textWidth)))
	return p.paint(s.Color(), word)
}
