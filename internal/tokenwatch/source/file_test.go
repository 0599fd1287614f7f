package source

import (
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/vault-tokens/vault-plugin-secrets-tokens/internal/tokenwatch"
)

// logWriter writes numbered lines to a log as Vault does, and rotates it.
type logWriter struct {
	t    *testing.T
	path string
	f    *os.File
	next int
	turn int // rotations so far
}

func newLogWriter(t *testing.T) *logWriter {
	t.Helper()
	w := &logWriter{t: t, path: filepath.Join(t.TempDir(), "audit.log")}
	w.open()
	return w
}

func (w *logWriter) open() {
	w.t.Helper()
	var err error
	if w.f, err = os.OpenFile(w.path, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600); err != nil {
		w.t.Fatal(err)
	}
}

func (w *logWriter) write(lines int) {
	w.t.Helper()
	for range lines {
		if _, err := fmt.Fprintf(w.f, "%d %s\n", w.next, strings.Repeat("x", w.next%300)); err != nil {
			w.t.Fatal(err)
		}
		w.next++
	}
}

// tick waits until the file system's clock has moved on, so that times tell in
// which order files were written; in life, rotations are farther apart.
func (w *logWriter) tick() {
	w.t.Helper()
	info, err := os.Stat(w.path)
	w.must(err)
	probe := filepath.Join(w.t.TempDir(), "probe")
	for {
		w.must(os.WriteFile(probe, nil, 0o600))
		now, err := os.Stat(probe)
		w.must(err)
		if now.ModTime().After(info.ModTime()) {
			return
		}
	}
}

// rotate gives the next place for a rotated file.
func (w *logWriter) rotate() string {
	w.t.Helper()
	w.tick()
	w.turn++
	return fmt.Sprintf("%s-20260101-%06d", w.path, w.turn)
}

func (w *logWriter) must(err error) {
	w.t.Helper()
	if err != nil {
		w.t.Fatal(err)
	}
}

// rename is rotation with create, and a SIGHUP after a few more lines.
func (w *logWriter) rename() string {
	to := w.rotate()
	w.must(os.Rename(w.path, to))
	w.write(3) // into the old file
	w.must(w.f.Close())
	w.open()
	w.tick()
	return to
}

// copyTruncate is rotation with copytruncate, while Vault writes nothing.
func (w *logWriter) copyTruncate() string {
	to := w.rotate()
	raw, err := os.ReadFile(w.path)
	w.must(err)
	w.must(os.WriteFile(to, raw, 0o600))
	w.tick()
	w.must(w.f.Truncate(0))
	return to
}

// compress replaces a rotated file by a compressed one, as gzip does.
func (w *logWriter) compress(path string) {
	info, err := os.Stat(path)
	w.must(err)
	raw, err := os.ReadFile(path)
	w.must(err)
	var b bytes.Buffer
	z := gzip.NewWriter(&b)
	_, err = z.Write(raw)
	w.must(errors.Join(err, z.Close()))
	w.must(os.WriteFile(path+".gz", b.Bytes(), 0o600))
	w.must(os.Chtimes(path+".gz", info.ModTime(), info.ModTime()))
	w.must(os.Remove(path))
}

// reader follows a log, and remembers the numbers of its lines and where it
// was when it was stopped.
type reader struct {
	mu       sync.Mutex
	got      []int
	position *tokenwatch.Position
	problem  error
	log      io.Writer // of the source; nil: nobody reads it
}

type writerFunc func([]byte) (int, error)

func (f writerFunc) Write(p []byte) (int, error) { return f(p) }

func (r *reader) take(b tokenwatch.Batch) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	for line := range bytes.Lines(b.Lines) {
		var n int
		if _, err := fmt.Sscan(string(line), &n); err != nil || len(line) != len(fmt.Sprint(n))+2+n%300 {
			r.problem = fmt.Errorf("not a line: %q", line)
		}
		r.got = append(r.got, n)
	}
	r.position = b.Position
	return r.problem
}

func (r *reader) lines() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return len(r.got)
}

// follow reads until there are as many lines, and stops.
func (r *reader) follow(t *testing.T, path string, until int) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	f := &File{Path: path, From: r.position, Poll: time.Millisecond, Log: slog.New(slog.DiscardHandler)}
	if r.log != nil {
		f.Log = slog.New(slog.NewTextHandler(r.log, nil))
	}
	err := f.Run(ctx, func(b tokenwatch.Batch) error {
		if err := r.take(b); err != nil {
			return err
		}
		if r.lines() >= until {
			cancel()
		}
		return nil
	})
	if !errors.Is(err, context.Canceled) {
		t.Fatalf("%v, after %d of %d lines", err, r.lines(), until)
	}
}

// check wants every line once, in order.
func (r *reader) check(t *testing.T, lines int) {
	t.Helper()
	want := make([]int, lines)
	for i := range want {
		want[i] = i
	}
	if !slices.Equal(r.got, want) {
		at := 0
		for at < min(len(r.got), len(want)) && r.got[at] == want[at] {
			at++
		}
		t.Fatalf("%d lines, want %d; the first wrong one is at %d: %v", len(r.got), len(want), at, r.got[at:min(at+10, len(r.got))])
	}
}

// TestResumeAfterRotation stops reading in the middle, lets the log be rotated
// in many ways, and resumes.
func TestResumeAfterRotation(t *testing.T) {
	ways := map[string]func(w *logWriter){
		"not rotated":   func(w *logWriter) {},
		"renamed":       func(w *logWriter) { w.rename() },
		"renamed twice": func(w *logWriter) { w.rename(); w.write(50); w.rename() },
		"copied":        func(w *logWriter) { w.copyTruncate() },
		"copied twice":  func(w *logWriter) { w.copyTruncate(); w.write(70); w.copyTruncate() },
		"compressed":    func(w *logWriter) { w.compress(w.rename()) },
		"copied, gzip":  func(w *logWriter) { w.compress(w.copyTruncate()) },
		"mixed": func(w *logWriter) {
			a := w.rename()
			w.write(9)
			w.compress(a)
			b := w.copyTruncate()
			w.write(400)
			w.rename()
			w.compress(b)
		},
		"grown as large": func(w *logWriter) { w.copyTruncate(); w.write(2000) },
	}
	for name, rotate := range ways {
		for _, before := range []int{1, 100, 1000} {
			t.Run(fmt.Sprintf("%s after %d", name, before), func(t *testing.T) {
				w := newLogWriter(t)
				w.write(before)
				r := &reader{}
				r.follow(t, w.path, before)
				w.write(100)
				rotate(w)
				w.write(100)
				r.follow(t, w.path, w.next)
				r.check(t, w.next)
			})
		}
	}
}

// TestFollowThroughRotation rotates a log again and again under a reader that
// is stopped and resumed now and then.
func TestFollowThroughRotation(t *testing.T) {
	w := newLogWriter(t)
	r := &reader{}
	random := rand.New(rand.NewPCG(3, 4))
	var last string
	w.write(1)
	r.follow(t, w.path, 1)
	for range 60 {
		w.write(random.IntN(200))
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error)
		f := &File{Path: w.path, From: r.position, Poll: time.Millisecond, Log: slog.New(slog.DiscardHandler)}
		go func() { done <- f.Run(ctx, r.take) }()
		w.write(random.IntN(200))
		switch random.IntN(4) {
		case 0:
			last = w.rename()
		case 1:
			last = w.copyTruncate()
		case 2:
			if last != "" {
				w.compress(last)
				last = ""
			}
		}
		w.write(1 + random.IntN(200))
		if random.IntN(2) == 0 {
			deadline := time.Now().Add(5 * time.Second)
			for r.lines() < w.next {
				if time.Now().After(deadline) {
					r.check(t, w.next)
				}
				time.Sleep(time.Millisecond) // a poll, with the deadline above
			}
		}
		cancel()
		if err := <-done; !errors.Is(err, context.Canceled) {
			t.Fatal(err)
		}
	}
	r.follow2(t, w)
	r.check(t, w.next)
}

// follow2 reads to the end, which may have been reached already.
func (r *reader) follow2(t *testing.T, w *logWriter) {
	t.Helper()
	w.write(1)
	r.follow(t, w.path, w.next)
}

func TestStart(t *testing.T) {
	t.Run("at the end", func(t *testing.T) {
		w := newLogWriter(t)
		w.write(5)
		_, err := io.WriteString(w.f, "half of ")
		w.must(err)
		var got []byte
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
		defer cancel()
		f := &File{Path: w.path, FromEnd: true, Poll: time.Millisecond, Log: slog.New(slog.DiscardHandler)}
		_, err = io.WriteString(w.f, "a line\n")
		w.must(err)
		begun := false
		if err := f.Run(ctx, func(b tokenwatch.Batch) error {
			if !begun { // the first batch says where reading begins
				begun = true
				_, err := io.WriteString(w.f, "another\n")
				return err
			}
			if got = append(got, b.Lines...); len(got) > 0 {
				cancel()
			}
			return nil
		}); !errors.Is(err, context.Canceled) {
			t.Fatal(err)
		}
		if string(got) != "another\n" {
			t.Errorf("%q", got)
		}
	})
	t.Run("before there is a log", func(t *testing.T) {
		w := newLogWriter(t)
		w.must(os.Remove(w.path))
		said := ""
		r := &reader{log: writerFunc(func(line []byte) (int, error) {
			said += string(line)
			return len(line), os.WriteFile(w.path, []byte("0 \n"), 0o600)
		})}
		r.follow(t, w.path, 1)
		r.check(t, 1)
		if strings.Count(said, "\n") != 1 || !strings.Contains(said, "waiting for the log to appear") {
			t.Errorf("said %q", said)
		}
	})
	t.Run("where it was is gone", func(t *testing.T) {
		w := newLogWriter(t)
		w.write(100)
		r := &reader{}
		r.follow(t, w.path, 100)
		w.must(os.Remove(w.rename()))
		w.write(10)
		var warned bytes.Buffer
		f := &File{Path: w.path, From: r.position, Poll: time.Millisecond, Log: slog.New(slog.NewTextHandler(&warned, nil))}
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
		defer cancel()
		n := 0
		if err := f.Run(ctx, func(b tokenwatch.Batch) error {
			if n += bytes.Count(b.Lines, []byte("\n")); n > 0 {
				cancel()
			}
			return nil
		}); !errors.Is(err, context.Canceled) {
			t.Fatal(err)
		}
		if n != 10 || !strings.Contains(warned.String(), "is gone") {
			t.Errorf("%d lines, want the 10 that are there; said %q", n, warned.String())
		}
	})
}

func TestSiblings(t *testing.T) {
	dir := t.TempDir()
	for _, name := range []string{
		"audit.log", "audit.log.1", "audit.log.2.gz", "audit.log-20260131", "audit-20260131.log", "audit-2026-01-31T10:00:00Z.log.gz",
		"audit.log.bak", "audit.log.1.tmp", "other.log.1", "audit2.log", "audit.logs", "audit.log.gz",
	} {
		if err := os.WriteFile(filepath.Join(dir, name), nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	found, err := siblings(filepath.Join(dir, "audit.log"))
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, s := range found {
		names = append(names, filepath.Base(s.path))
	}
	slices.Sort(names)
	want := []string{"audit-2026-01-31T10:00:00Z.log.gz", "audit-20260131.log", "audit.log-20260131", "audit.log.1", "audit.log.2.gz"}
	if !slices.Equal(names, want) {
		t.Errorf("%q, want %q", names, want)
	}
}

// TestGiantLines puts lines of all sizes around the limit through readers that
// return as little as one byte.
func TestGiantLines(t *testing.T) {
	const limit = 1000
	var text, want strings.Builder
	giants := 0
	for i := range 60 {
		size := []int{0, 1, limit - 1, 3 * limit, 2 * chunk}[i%5]
		line := strings.Repeat(string(rune('a'+i%26)), size) + "\n"
		text.WriteString(line)
		if size > 2*limit {
			giants++
		} else {
			want.WriteString(line)
		}
	}
	text.WriteString("the end has no newline")
	want.WriteString("the end has no newline")
	for _, step := range []int{1 << 20, 4096, 777} {
		var got strings.Builder
		skipped := 0
		r := &slowReader{strings.NewReader(text.String()), step}
		s := newSplitter(limit)
		if err := readAll(t.Context(), r, s, func(lines []byte, n int) error {
			got.Write(lines)
			skipped += n
			return nil
		}); err != nil {
			t.Fatal(err)
		}
		small := got.String()
		if step < limit && (small != want.String() || skipped != giants) {
			t.Errorf("steps of %d: %d bytes and %d skipped, want %d and %d", step, len(small), skipped, want.Len(), giants)
		}
		if s.consumed != int64(text.Len()) {
			t.Errorf("steps of %d: consumed %d of %d bytes", step, s.consumed, text.Len())
		}
		if len(s.buf) > 4*chunk {
			t.Errorf("steps of %d: a buffer of %d bytes", step, len(s.buf))
		}
	}
}

type slowReader struct {
	r    io.Reader
	step int
}

func (s *slowReader) Read(p []byte) (int, error) { return s.r.Read(p[:min(len(p), s.step)]) }
