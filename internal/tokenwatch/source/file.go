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
// must stay in the log's directory, compressed or not, until they have been read.
//
// Copying and truncating can lose entries that Vault writes in between; no reader
// can prevent that.
type File struct {
	Path    string
	From    *tokenwatch.Position // where to resume; nil: see FromEnd
	FromEnd bool                 // without From, skip what the file already holds
	MaxLine int                  // 0: DefaultMaxLine
	Poll    time.Duration        // how often to check for more; 0: 250ms
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
	// The start is saved even before there is anything to read.
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

// begin opens the file to start from.
func (f *File) begin(ctx context.Context) error {
	if f.From != nil {
		for range 3 { // it may be rotated away during the search
			found, err := f.resume()
			if err != nil || found {
				return err
			}
		}
		f.Log.Warn("the file where reading stopped is gone, with everything written to it since; starting at the beginning of the log",
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

// seekToLine goes to the end of the last line before offset.
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

// await opens the log as soon as it exists.
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
			f.Log.Warn("waiting for the log to appear", "file", f.Path)
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-poll.C:
		}
	}
}

// resume finds the file of From: under its path, then under the name that rotation
// gave it, then as a copy with the same beginning.
func (f *File) resume() (bool, error) {
	rotated, err := siblings(f.Path)
	if err != nil {
		return false, err
	}
	paths := []string{f.Path}
	for i := len(rotated) - 1; i >= 0; i-- { // the latest is the most likely
		paths = append(paths, rotated[i].path)
	}
	for _, sameFile := range []bool{true, false} {
		for _, path := range paths {
			l, err := openRotated(path, f.MaxLine)
			if err != nil {
				continue // gone in the meantime, or not gzip after all
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

// catchUp reads everything there is, across rotations.
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
			return err // before the lines are counted, so that they are read again
		}
		return f.handle(tokenwatch.Batch{Lines: lines, Skipped: skipped, Position: l.position()})
	}
}

// restart continues after a file was truncated: in the copy that was made of it
// before, from which advance moves on, or else at its beginning.
func (f *File) restart() error {
	old := f.current.position()
	f.current.close()
	if found, err := f.openCopy(old); err != nil || found {
		return err
	}
	if old.Offset > 0 {
		f.Log.Warn("the log was truncated without a copy; what was written just before is lost", "file", old.Path, "offset", old.Offset)
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

// finish reads a file that no longer grows to its very end.
func (f *File) finish(ctx context.Context, l *logFile) error {
	deliver := f.deliver(ctx, l)
	if err := l.readToEnd(deliver); err != nil {
		return err
	}
	return l.split.finish(deliver)
}

// advance moves on to the file after the current one, if there is one. Vault may
// still write to the current one until it has opened the next, which then is no
// longer empty.
func (f *File) advance(ctx context.Context) (bool, error) {
	info, err := os.Stat(f.Path)
	if err != nil || idOf(info) == f.current.id || info.Size() == 0 {
		return false, nil // a missing log will come back
	}
	// The next file is opened before others are searched for, so that whatever
	// happens to it from now on is noticed.
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

// readBetween reads the files that were written after the current one and rotated
// away before the log was checked again.
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

// copyOf reports whether the content begins like that of other.
func (l *logFile) copyOf(other *logFile) bool {
	return len(other.head) > 0 && l.beginsAs(other.position())
}
