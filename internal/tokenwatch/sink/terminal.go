// Package sink delivers alerts: to a terminal, to files of JSON lines, to
// webhooks and to Alertmanager.
package sink

import (
	"context"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/vault-tokens/vault-plugin-secrets-tokens/internal/tokenwatch"
	"github.com/vault-tokens/vault-plugin-secrets-tokens/internal/tokenwatch/sanitize"
)

// maxField is the number of characters shown of a field: enough for any name or
// path that people choose, and too few to flood a screen.
const maxField = 400

// Terminal writes alerts for people.
type Terminal struct {
	W     io.Writer
	Color bool
}

// Colored reports whether to write to w in colour: to a terminal, unless its
// user does not want it (https://no-color.org), but not to files and pipes.
func Colored(w io.Writer) bool {
	f, ok := w.(*os.File)
	if !ok || os.Getenv("NO_COLOR") != "" || os.Getenv("TERM") == "dumb" {
		return false
	}
	info, err := f.Stat()
	return err == nil && info.Mode()&os.ModeCharDevice != 0
}

// Name implements tokenwatch.Sink.
func (t *Terminal) Name() string { return "terminal" }

// Send implements tokenwatch.Sink.
func (t *Terminal) Send(_ context.Context, a tokenwatch.Alert) error {
	before, after := "", ""
	if t.Color {
		before, after = "\x1b["+a.Severity.Color()+"m", "\x1b[0m"
	}
	var b strings.Builder
	fmt.Fprintf(&b, "%s  %s%-8s  %s%s  [%s]\n", a.Last.UTC().Format("2006-01-02 15:04:05Z"),
		before, strings.ToUpper(string(a.Severity)), sanitize.Text(a.Title, maxField), after, a.Rule)
	field := func(name, value string) {
		if value != "" {
			fmt.Fprintf(&b, "    %-6s %s\n", name, sanitize.Text(value, maxField))
		}
	}
	field("what", a.Detail)
	field("who", a.Who)
	field("where", a.Where)
	field("mount", strings.TrimPrefix(a.Namespace+"/"+a.Mount, "/"))
	field("role", a.Role)
	field("token", a.TokenID)
	field("lease", a.LeaseID)
	if a.Count > 1 {
		field("count", fmt.Sprintf("%d since %s", a.Count, a.First.UTC().Format("2006-01-02 15:04:05Z")))
	}
	field("entry", a.RequestID)
	field("do", a.Advice)
	_, err := io.WriteString(t.W, b.String())
	return err
}
