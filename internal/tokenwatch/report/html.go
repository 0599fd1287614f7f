package report

import (
	"crypto/sha256"
	_ "embed"
	"encoding/base64"
	"fmt"
	"html/template"
	"io"
	"unicode/utf8"

	"github.com/vault-tokens/vault-plugin-secrets-tokens/internal/tokenwatch"
	"github.com/vault-tokens/vault-plugin-secrets-tokens/internal/tokenwatch/sanitize"
	"github.com/vault-tokens/vault-plugin-secrets-tokens/internal/tokenwatch/web"
)

var (
	//go:embed report.html.tmpl
	pageText string
	//go:embed report.css
	ownStyle string
	style    = web.BaseStyle + ownStyle

	page = template.Must(template.New("report").Parse(pageText))
)

// htmlView is what the template shows. Every text in it is sanitized; the template
// escapes it for its context.
type htmlView struct {
	Policy    string
	Style     template.CSS
	Title     string
	Files     []string
	Generated string
	Period    string
	Log       string
	Tiles     []tile
	Alerts    []alertView
	AlertSum  string
	MoreAlert string
	Step      string
	Charts    []chart
	StepNames []string
	Steps     []stepView
	Sections  []sectionView
}

type tile struct {
	Name, Value, Class string
}

type alertView struct {
	Severity, Title string
	Details         []detail
}

type stepView struct {
	Start   string
	Figures []string
}

type sectionView struct {
	ID, Title, Empty string
	Columns          []cell
	Rows             []rowView
	Notes            []string
}

type rowView struct {
	Head  cellView
	Cells []cellView
}

type cellView struct {
	cell
	Class string
	Bar   string // length in percent; empty: none
}

// longText is the length in characters from which a cell wraps.
const longText = 40

// WriteHTML writes the report as one page that loads nothing and runs nothing:
// its content security policy allows only its own style sheet.
func (r *Report) WriteHTML(w io.Writer) error {
	sum := sha256.Sum256([]byte(style))
	v := htmlView{
		Policy:    "default-src 'none'; style-src 'sha256-" + base64.StdEncoding.EncodeToString(sum[:]) + "'; base-uri 'none'; form-action 'none'",
		Style:     template.CSS(style), // ours, not from the log
		Title:     "Token report",
		Generated: moment(r.Generated),
		Period:    r.period(),
		Log:       r.logLine(),
		Tiles:     r.tiles(),
		AlertSum:  r.Alerts.count(),
		Step:      stepName(r.Timeline.StepSeconds),
		Charts:    r.charts(),
		StepNames: []string{"issued", "active", "inactive", "check failed", "denied", "invalid", "renewed", "revoked"},
	}
	if !r.From.IsZero() {
		v.Title += ", " + r.From.UTC().Format("2006-01-02")
	}
	for _, f := range r.Files {
		v.Files = append(v.Files, sanitize.Text(f, htmlWidth))
	}
	for _, a := range r.Alerts.List {
		v.Alerts = append(v.Alerts, alertView{severity(a), sanitize.Text(a.Title, 2*htmlWidth), details(a)})
	}
	if more := r.Alerts.Total() - len(r.Alerts.List); more > 0 {
		v.MoreAlert = tokenwatch.Number(int64(more)) + " more are left out."
	}
	for i := range r.Timeline.Steps {
		v.Steps = append(v.Steps, stepFigures(&r.Timeline.Steps[i]))
	}
	for _, s := range r.sections() {
		v.Sections = append(v.Sections, viewOfSection(s))
	}
	return page.Execute(w, v)
}

// severity returns the severity as a class name.
func severity(a tokenwatch.Alert) string {
	if s, err := tokenwatch.ParseSeverity(string(a.Severity)); err == nil {
		return string(s)
	}
	return string(tokenwatch.SeverityInfo)
}

func (r *Report) tiles() []tile {
	t := &r.Totals
	list := []tile{
		{"Tokens issued", tokenwatch.Number(t.Issued), ""},
		{"Active tokens seen", tokenwatch.Number(t.Active), ""},
		{"Inactive tokens seen", tokenwatch.Number(t.Inactive), "amber"},
		{"Checks failed", tokenwatch.Number(t.CheckFailed), "amber"},
		{"Requests refused", tokenwatch.Number(t.Failed()), "red"},
		{"Renewals", tokenwatch.Number(t.Renewed), ""},
		{"Revocations", tokenwatch.Number(t.Revoked), ""},
	}
	for i := range list {
		if list[i].Value == "0" {
			list[i].Class = "" // nothing to highlight
		}
	}
	return list
}

func stepFigures(s *Step) stepView {
	v := stepView{Start: moment(s.Start)}
	for _, n := range []int64{s.Issued, s.Active, s.Inactive, s.CheckFailed, s.Denied, s.Invalid, s.Renewed, s.Revoked} {
		v.Figures = append(v.Figures, tokenwatch.Number(n))
	}
	return v
}

func viewOfSection(s section) sectionView {
	v := sectionView{ID: s.id, Title: s.title, Empty: s.empty, Columns: s.columns, Notes: s.notes}
	for _, row := range s.rows {
		var view rowView
		for i, c := range row {
			shown := viewOfCell(c)
			switch i {
			case 0:
				view.Head = shown
				continue
			case s.bar:
				shown.Bar = fmt.Sprintf("%.1f%%", 100*c.Share)
			}
			view.Cells = append(view.Cells, shown)
		}
		v.Rows = append(v.Rows, view)
	}
	return v
}

func viewOfCell(c cell) cellView {
	v := cellView{cell: c}
	switch {
	case c.Number && c.Text == nothing:
		v.Class, v.Text = "number zero", "0"
	case c.Number:
		v.Class = "number"
	case c.Text == "":
		v.Class, v.Text = "zero", "–"
	case utf8.RuneCountInString(c.Text) > longText:
		v.Class = "long"
	}
	return v
}
