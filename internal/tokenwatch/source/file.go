package source

import (
	"context"
	"errors"
	"io/fs"
	"log/slog"
	"os"
	"time"

	"github.com/vault-tokens/vault-plugin-secrets-tokens/internal/tokenwatch"
)

// File follows the log of a file audit device through rotation: by renaming
// (followed by SIGHUP to Vault), and by copying and truncating. Rotated files
// have to stay beside the log, compressed or not, until they have been read.
//
// Copying and truncating can lose entries that Vault writes in between; that is
// beyond a reader's power.
type File struct {
	Path    string
	From    *tokenwatch.Position // where to resume; nil: see FromEnd
	FromEnd bool                 // without From, skip what is there already
	MaxLine int                  // 0: DefaultMaxLine
	Poll    time.Duration        // how often to look for more; 0: 250ms
	Log     *slog.Logger

	handle  func(tokenwatch.Batch) error
	current *logFile
}

// Run implements tokenwatch.Source. It ends with ctx.
func (f *File) Run(ctx context.Context, handle func(tokenwatch.Batch) error) error {
	if f.Poll <= 0 {
		f.Poll = 250 * time.Millisecond
	}
	f.handle = handle
	defer func() {
		if f.current != nil {
			f.current.close()
		}
	}()
	if err := f.begin(ctx); err != nil {
		return err
	}
	// Where reading begins is worth remembering before there is anything to read.
	if err := handle(tokenwatch.Batch{Position: f.current.position()}); err != nil {
		return err
	}
	poll := time.NewTicker(f.Poll)
	defer poll.Stop()
	for {
		if err := f.catchUp(ctx); err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-poll.C:
		}
	}
}

// begin opens the file to start with.
func (f *File) begin(ctx context.Context) error {
	if f.From != nil {
		for range 3 { // it may be rotated away while it is looked for
			found, err := f.resume()
			if err != nil || found {
				return err
			}
		}
		f.Log.Warn("the file in which reading stopped is gone, with what was written to it since; starting at the beginning of the log",
			"file", f.From.Path, "offset", f.From.Offset)
	}
	if err := f.await(ctx); err != nil {
		return err
	}
	if f.From != nil || !f.FromEnd {
		return f.current.peek()
	}
	info, err := f.current.f.Stat()
	if err != nil {
		return err
	}
	return f.seekToLine(info.Size())
}

// seekToLine goes behind the last newline before offset.
func (f *File) seekToLine(offset int64) error {
	buf := make([]byte, chunk)
	for offset > 0 {
		start := max(0, offset-int64(len(buf)))
		n, err := f.current.f.ReadAt(buf[:offset-start], start)
		if int64(n) < offset-start {
			return err
		}
		for i := n - 1; i >= 0; i-- {
			if buf[i] == '\n' {
				return f.current.seek(start+int64(i)+1, 0)
			}
		}
		offset = start
	}
	return nil
}

// await opens the log as soon as there is one.
func (f *File) await(ctx context.Context) error {
	poll := time.NewTicker(f.Poll)
	defer poll.Stop()
	for waited := false; ; waited = true {
		var err error
		f.current, err = openLog(f.Path, f.MaxLine)
		if !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		if !waited {
			f.Log.Warn("waiting for the log to be there", "file", f.Path)
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-poll.C:
		}
	}
}

// resume looks for the file in which From was taken: where it was, then under
// the name that rotation gave it, then as a copy, by its beginning.
func (f *File) resume() (bool, error) {
	rotated, err := siblings(f.Path)
	if err != nil {
		return false, err
	}
	paths := []string{f.Path}
	for i := len(rotated) - 1; i >= 0; i-- { // the latest is the likeliest
		paths = append(paths, rotated[i].path)
	}
	for _, sameFile := range []bool{true, false} {
		for _, path := range paths {
			l, err := openRotated(path, f.MaxLine)
			if err != nil {
				continue // gone meanwhile, or no gzip after all
			}
			is := l.id == fileID{f.From.Device, f.From.Inode}
			if is == sameFile && (is || f.From.HeadSize > 0) && l.resumeAt(f.From) {
				f.current = l
				return true, nil
			}
			l.close()
		}
	}
	return false, nil
}

// catchUp reads all that there is, across rotations.
func (f *File) catchUp(ctx context.Context) error {
	for ctx.Err() == nil {
		if f.current.replaced() {
			if err := f.restart(); err != nil {
				return err
			}
		}
		err := f.current.readToEnd(f.deliver(ctx, f.current))
		if errors.Is(err, errReplaced) {
			continue
		}
		if err != nil {
			return err
		}
		moved, err := f.advance(ctx)
		if err != nil || !moved {
			return err
		}
	}
	return ctx.Err()
}

func (f *File) deliver(ctx context.Context, l *logFile) func([]byte, int) error {
	return func(lines []byte, skipped int) error {
		if err := ctx.Err(); err != nil {
			return err // before the lines count, so that they are read again
		}
		return f.handle(tokenwatch.Batch{Lines: lines, Skipped: skipped, Position: l.position()})
	}
}

// restart goes on with a file that was truncated: with the copy that was made
// of it before, from which advance leads on, or else at its beginning.
func (f *File) restart() error {
	old := f.current.position()
	f.current.close()
	if found, err := f.openCopy(old); err != nil || found {
		return err
	}
	if old.Offset > 0 {
		f.Log.Warn("the log was truncated and no copy of it is there; what was written just before is lost", "file", old.Path, "offset", old.Offset)
	}
	var err error
	f.current, err = openLog(old.Path, f.MaxLine)
	return err
}

func (f *File) openCopy(old *tokenwatch.Position) (bool, error) {
	if old.HeadSize == 0 {
		return false, nil
	}
	rotated, err := siblings(f.Path)
	if err != nil {
		return false, err
	}
	for i := len(rotated) - 1; i >= 0; i-- {
		l, err := openRotated(rotated[i].path, f.MaxLine)
		if err != nil {
			continue
		}
		if l.id != (fileID{old.Device, old.Inode}) && l.resumeAt(old) {
			f.current = l
			return true, nil
		}
		l.close()
	}
	return false, nil
}

// finish reads a file that will not grow any more to its very end.
func (f *File) finish(ctx context.Context, l *logFile) error {
	deliver := f.deliver(ctx, l)
	if err := l.readToEnd(deliver); err != nil {
		return err
	}
	return l.split.finish(deliver)
}

// advance goes on to the file that follows the current one, if there is one.
// The current one may still be written to until Vault has opened the next, and
// that shows by there being something in it.
func (f *File) advance(ctx context.Context) (bool, error) {
	info, err := os.Stat(f.Path)
	if err != nil || idOf(info) == f.current.id || info.Size() == 0 {
		return false, nil // a log that is missing will come back
	}
	// The next file is opened before others are looked for: whatever happens to
	// it from now on is noticed.
	next, err := openLog(f.Path, f.MaxLine)
	if err != nil {
		return false, nil // rotated again just now
	}
	if err := next.peek(); err != nil || len(next.head) == 0 || next.id == f.current.id {
		next.close()
		return false, nil
	}
	done, err := f.current.f.Stat()
	if err == nil {
		err = f.finish(ctx, f.current)
	}
	if err == nil {
		err = f.readBetween(ctx, done, next)
	}
	if err != nil {
		next.close()
		if errors.Is(err, errReplaced) {
			return true, nil // and look again
		}
		return false, err
	}
	f.current.close()
	f.current = next
	return true, nil
}

// readBetween reads the files that were written after the current one and
// rotated away before the log was looked at again.
func (f *File) readBetween(ctx context.Context, done fs.FileInfo, next *logFile) error {
	rotated, err := siblings(f.Path)
	if err != nil {
		return err
	}
	for _, s := range rotated {
		if s.id == f.current.id || s.id == next.id || !s.changed.After(done.ModTime()) {
			continue
		}
		l, err := openRotated(s.path, f.MaxLine)
		if err != nil {
			continue
		}
		if l.copyOf(f.current) || l.copyOf(next) {
			l.close()
			continue
		}
		f.current.close()
		f.current = l
		if err := f.finish(ctx, l); err != nil {
			return err
		}
	}
	return nil
}

// copyOf reports whether the content begins as that of another file.
func (l *logFile) copyOf(other *logFile) bool {
	return len(other.head) > 0 && l.beginsAs(other.position())
}
