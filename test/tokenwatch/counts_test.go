package tokenwatch

import (
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/vault-tokens/vault-plugin-secrets-tokens/test/suite"
)

// auditWriter writes entries as Vault wrote them, each with a request id of its
// own, and rotates the log.
type auditWriter struct {
	t         *testing.T
	path      string
	f         *os.File
	templates []auditTemplate
	random    *rand.Rand
	requests  int
	lines     int
	rotations int
	want      map[string]int // requests by series of tokenwatch_events_total
}

// auditTemplate is what one request leaves in the log.
type auditTemplate struct {
	series string
	lines  []string
}

var (
	requestID = regexp.MustCompile(`"id":"[0-9a-f]{8}-[0-9a-f-]{27}"`)
	entryTime = regexp.MustCompile(`"time":"[^"]*","type"`)
)

// newAuditWriter takes its templates from the log of a real Vault.
func newAuditWriter(t *testing.T, recorded []byte) *auditWriter {
	t.Helper()
	w := &auditWriter{t: t, path: filepath.Join(t.TempDir(), "audit.log"), random: rand.New(rand.NewPCG(5, 6)), want: map[string]int{}}
	series := []struct{ series, contains string }{
		{`kind="introspect",outcome="active"`, `"active":true`},
		{`kind="introspect",outcome="inactive"`, `"data":{"active":false}`},
		{`kind="issue",outcome="ok"`, `"lease_id":"tokens/creds/`},
		{`kind="issue",outcome="denied"`, `permission denied`},
	}
	byID := map[string][]string{}
	for line := range strings.Lines(string(recorded)) {
		id := requestID.FindString(line)
		byID[id] = append(byID[id], line)
	}
	for _, s := range series {
		for _, lines := range byID {
			if len(lines) == 2 && strings.Contains(lines[1], s.contains) && strings.Contains(lines[1], `"mount_type":"vault-plugin-secrets-tokens"`) {
				w.templates = append(w.templates, auditTemplate{s.series, lines})
				break
			}
		}
	}
	if len(w.templates) != len(series) {
		t.Fatalf("%d of %d kinds of entry were recorded", len(w.templates), len(series))
	}
	w.open()
	return w
}

func (w *auditWriter) open() {
	w.t.Helper()
	var err error
	if w.f, err = os.OpenFile(w.path, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600); err != nil {
		w.t.Fatal(err)
	}
}

func (w *auditWriter) must(err error) {
	w.t.Helper()
	if err != nil {
		w.t.Fatal(err)
	}
}

// write writes both lines of some requests, at times in two steps, so that a
// reader sees half of a line.
func (w *auditWriter) write(requests int) {
	w.t.Helper()
	for range requests {
		w.requests++
		template := w.templates[w.random.IntN(len(w.templates))]
		w.want[template.series]++
		for _, line := range template.lines {
			line = requestID.ReplaceAllString(line, fmt.Sprintf(`"id":"00000000-0000-0000-0000-%012d"`, w.requests))
			line = entryTime.ReplaceAllString(line, `"time":"`+time.Now().UTC().Format(time.RFC3339Nano)+`","type"`)
			half := w.random.IntN(len(line))
			_, err := io.WriteString(w.f, line[:half])
			w.must(err)
			_, err = io.WriteString(w.f, line[half:])
			w.must(err)
			w.lines++
		}
	}
}

// rotate is a step of logrotate, in one of its ways.
func (w *auditWriter) rotate() {
	w.t.Helper()
	w.rotations++
	to := fmt.Sprintf("%s-20260101-%06d", w.path, w.rotations)
	if w.rotations%2 == 0 {
		w.must(os.Rename(w.path, to))
		w.write(3) // until Vault has had its SIGHUP
		w.must(w.f.Close())
		w.open()
		return
	}
	raw, err := os.ReadFile(w.path)
	w.must(err)
	w.must(os.WriteFile(to, raw, 0o600))
	w.must(w.f.Truncate(0))
}

// start follows what is written, with its place kept in a file.
func (w *auditWriter) start(ctx context.Context, state string) *follower {
	w.t.Helper()
	return follow(w.t, ctx, "-json", "-file", w.path, "-state", state, "-metrics", "127.0.0.1:0")
}

// TestCountsOnce kills tokenwatch at 50 random moments while entries are
// written and the log is rotated: each is counted once, none is lost.
func TestCountsOnce(t *testing.T) {
	w := newAuditWriter(t, recordedLog(t))
	ctx := suite.Deadline(t, 5*time.Minute)
	state := filepath.Join(t.TempDir(), "state")
	w.write(1)
	const kills = 50
	for round := range kills {
		c := w.start(ctx, state)
		if round == 0 { // the very beginning of the log has to be seen, before it is rotated away
			w.until(ctx, c, func(m map[string]string) bool { return m["tokenwatch_lines_total"] != "0" && stateExists(state) })
		}
		end := time.After(time.Duration(50+w.random.IntN(1500)) * time.Millisecond)
		tick := time.NewTicker(10 * time.Millisecond)
		for running := true; running; {
			select {
			case <-end:
				running = false
			case <-tick.C:
				w.write(1 + w.random.IntN(8))
				if w.random.IntN(60) == 0 {
					w.rotate()
				}
			}
		}
		tick.Stop()
		c.kill()
		w.write(w.random.IntN(30))
	}
	c := w.start(ctx, state)
	want := fmt.Sprint(w.lines)
	samples := w.until(ctx, c, func(m map[string]string) bool {
		return len(m["tokenwatch_lines_total"]) >= len(want) && m["tokenwatch_lines_total"] >= want
	})
	if got := samples["tokenwatch_lines_total"]; got != want {
		t.Errorf("%s lines are counted, %s were written", got, want)
	}
	if n := samples["tokenwatch_malformed_lines_total"]; n != "0" {
		t.Errorf("%s lines are malformed", n)
	}
	for series, n := range w.want {
		name := "tokenwatch_events_total{" + series + `,mount="tokens/"}`
		if samples[name] != fmt.Sprint(n) {
			t.Errorf("%s is %s, want %d", name, samples[name], n)
		}
	}
	c.stop()
	t.Logf("%d kills, %d rotations, %d requests in %d lines, each counted once", kills, w.rotations, w.requests, w.lines)
}

func stateExists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}

func (w *auditWriter) until(ctx context.Context, c *follower, done func(map[string]string) bool) map[string]string {
	w.t.Helper()
	var last map[string]string
	if err := suite.Poll(ctx, time.Minute, func() (bool, error) {
		last = c.samples()
		return last != nil && done(last), nil
	}); err != nil {
		w.t.Errorf("%v: %d lines were written, %s are counted", err, w.lines, last["tokenwatch_lines_total"])
	}
	return last
}

// recordedLog has a real Vault write entries of several kinds.
func recordedLog(t *testing.T) []byte {
	t.Helper()
	w := watch(t)
	return w.segment(func() {
		token := w.Issue("watched-api_key", nil)
		w.WantActive(token)
		w.Introspect("vtk_nonsense", nil)
		w.attempt(w.Client(w.outsider), "GET", "tokens/creds/watched-api_key", nil)
	})
}
