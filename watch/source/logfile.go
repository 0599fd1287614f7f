package source

import (
	"compress/gzip"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/vault-tokens/vault-plugin-secrets-tokens/watch"
)

// headMax is how much of a file's beginning tells it from others: more than its
// first entry, which has a request id and a time.
const headMax = 4096

// logFile is an open file with a place in it.
type logFile struct {
	path  string
	f     *os.File
	gz    *gzip.Reader // nil: not compressed
	id    fileID
	split *splitter
	start int64  // where split began
	head  []byte // first bytes of the content, at most headMax and at most what was consumed
}

type fileID struct{ device, inode uint64 }

func idOf(info fs.FileInfo) fileID {
	if st, ok := info.Sys().(*syscall.Stat_t); ok {
		return fileID{uint64(st.Dev), st.Ino} //nolint:unconvert // Dev is narrower on some systems
	}
	return fileID{}
}

func openLog(path string, maxLine int) (*logFile, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	info, err := f.Stat()
	if err != nil {
		f.Close()
		return nil, err
	}
	l := &logFile{path: path, f: f, id: idOf(info), split: newSplitter(maxLine)}
	if compressed, _ := peekFile(f); compressed {
		if l.gz, err = gzip.NewReader(f); err != nil {
			f.Close()
			return nil, err
		}
	}
	return l, nil
}

func (l *logFile) close() { _ = l.f.Close() }

// offset is behind the last whole line that was delivered.
func (l *logFile) offset() int64 { return l.start + l.split.consumed }

// seek goes to offset in the content. What is skipped is read if need be.
func (l *logFile) seek(offset int64) error {
	head, err := l.firstBytes(min(offset, headMax))
	if err != nil {
		return err
	}
	if l.gz != nil {
		if _, err := io.CopyN(io.Discard, l.gz, offset); err != nil {
			return err
		}
	}
	maxLine := l.split.maxLine
	l.head, l.start, l.split = head, offset, newSplitter(maxLine)
	return nil
}

// firstBytes reads the beginning of the content without moving in it.
func (l *logFile) firstBytes(n int64) ([]byte, error) {
	var r io.Reader = io.NewSectionReader(l.f, 0, n)
	if l.gz != nil {
		gz, err := gzip.NewReader(io.NewSectionReader(l.f, 0, 1<<62))
		if err != nil {
			return nil, err
		}
		r = io.LimitReader(gz, n)
	}
	head := make([]byte, n)
	if _, err := io.ReadFull(r, head); err != nil {
		return nil, err
	}
	return head, nil
}

// read fills the splitter once; io.EOF means that there is no more for now.
func (l *logFile) read(deliver func([]byte, int) error) error {
	space := l.split.space()
	var n int
	var err error
	if l.gz != nil {
		n, err = l.gz.Read(space)
	} else {
		n, err = l.f.ReadAt(space, l.start+l.split.position())
	}
	if n > 0 {
		at := l.offset()
		if err := l.split.advance(n, func(lines []byte, skipped int) error {
			if at == int64(len(l.head)) && skipped == 0 {
				l.head = append(l.head, lines[:min(len(lines), headMax-len(l.head))]...)
			}
			return deliver(lines, skipped)
		}); err != nil {
			return err
		}
		return nil
	}
	return err
}

// readToEnd reads until there is no more for now.
func (l *logFile) readToEnd(deliver func([]byte, int) error) error {
	for {
		err := l.read(deliver)
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("%s: %w", l.path, err)
		}
	}
}

func (l *logFile) position() *watch.Position {
	sum := sha256.Sum256(l.head)
	return &watch.Position{
		Path: l.path, Device: l.id.device, Inode: l.id.inode, Offset: l.offset(),
		HeadSize: len(l.head), HeadSum: hex.EncodeToString(sum[:]),
	}
}

// replaced reports whether what was read so far is not what the file begins
// with any more: it was truncated, and perhaps written again.
func (l *logFile) replaced() bool {
	if l.gz != nil {
		return false
	}
	info, err := l.f.Stat()
	if err != nil || info.Size() < l.offset() {
		return true
	}
	head, err := l.firstBytes(int64(len(l.head)))
	return err != nil || string(head) != string(l.head)
}

// beginsAs reports whether the content begins as that of the file in which
// position was taken, and is at least as long.
func (l *logFile) beginsAs(position *watch.Position) bool {
	head, err := l.firstBytes(int64(position.HeadSize))
	if err != nil {
		return false
	}
	sum := sha256.Sum256(head)
	if hex.EncodeToString(sum[:]) != position.HeadSum {
		return false
	}
	if l.gz != nil {
		return true // its length shows when it is read
	}
	info, err := l.f.Stat()
	return err == nil && info.Size() >= position.Offset
}

// sibling is a file that rotation left beside the one that is followed.
type sibling struct {
	path    string
	changed time.Time
	id      fileID
}

// siblings lists rotated files, oldest first: audit.log.1, audit.log.2.gz,
// audit.log-20260131, audit-20260131.log and the like.
func siblings(path string) ([]sibling, error) {
	dir, base := filepath.Split(path)
	ext := filepath.Ext(base)
	stem := strings.TrimSuffix(base, ext)
	const mark = `[.-][0-9][0-9TZ._:+-]*`
	rotated, err := regexp.Compile(`^(` + regexp.QuoteMeta(base) + mark + `|` + regexp.QuoteMeta(stem) + mark + regexp.QuoteMeta(ext) + `)(\.gz)?$`)
	if err != nil {
		return nil, err
	}
	if dir == "" {
		dir = "."
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	var found []sibling
	for _, entry := range entries {
		if !rotated.MatchString(entry.Name()) {
			continue
		}
		info, err := entry.Info()
		if err != nil || !info.Mode().IsRegular() {
			continue // gone meanwhile
		}
		found = append(found, sibling{filepath.Join(dir, entry.Name()), info.ModTime(), idOf(info)})
	}
	slices.SortStableFunc(found, func(a, b sibling) int { return a.changed.Compare(b.changed) })
	return found, nil
}
