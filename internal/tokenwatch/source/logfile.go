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

	"github.com/vault-tokens/vault-plugin-secrets-tokens/internal/tokenwatch"
)

// headMax is how much of a file's beginning identifies it: more than its first
// entry, which has a request id and a time.
const headMax = 4096

// logFile is an open file with a read position.
type logFile struct {
	path  string
	f     *os.File
	gz    *gzip.Reader // nil: not compressed
	id    fileID
	split *splitter
	start int64  // offset where split began
	head  []byte // first bytes of the content, at most headMax
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

// openRotated opens a file that may be compressed at this moment.
func openRotated(path string, maxLine int) (*logFile, error) {
	l, err := openLog(path, maxLine)
	if errors.Is(err, fs.ErrNotExist) && !strings.HasSuffix(path, ".gz") {
		return openLog(path+".gz", maxLine)
	}
	return l, err
}

func (l *logFile) close() { _ = l.f.Close() }

// offset returns the end of the last whole line that was delivered.
func (l *logFile) offset() int64 { return l.start + l.split.consumed }

// seek goes to offset in the content, and reads at least headSize bytes of its
// beginning. A compressed file is read up to there.
func (l *logFile) seek(offset int64, headSize int) error {
	head, err := l.firstBytes(max(min(offset, headMax), int64(headSize)))
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

// firstBytes reads the beginning of the content without moving the read position.
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

// errReplaced means that the file is no longer the one that was being read.
var errReplaced = errors.New("replaced")

// read fills the splitter once; io.EOF means that there is nothing more for now.
func (l *logFile) read(deliver func([]byte, int) error) error {
	space := l.split.space()
	var n int
	var err error
	if l.gz != nil {
		n, err = l.gz.Read(space)
	} else {
		n, err = l.f.ReadAt(space, l.start+l.split.position())
	}
	if n == 0 {
		return err
	}
	// Checked after reading: the file may have been truncated and refilled just
	// before, and what was read would be something else.
	if l.replaced() {
		return errReplaced
	}
	at := l.offset()
	return l.split.advance(n, func(lines []byte, skipped int) error {
		l.know(at, lines, skipped)
		return deliver(lines, skipped)
	})
}

// know keeps the beginning of the content.
func (l *logFile) know(at int64, lines []byte, skipped int) {
	if skipped > 0 || at > int64(len(l.head)) || at+int64(len(lines)) <= int64(len(l.head)) {
		return
	}
	l.head = append(l.head[:at], lines[:min(len(lines), headMax-int(at))]...)
}

// readToEnd reads until there is nothing more for now.
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

// peek keeps the beginning of a file that has not been read yet, to notice if it
// is truncated before that.
func (l *logFile) peek() error {
	info, err := l.f.Stat()
	if err != nil {
		return err
	}
	l.head, err = l.firstBytes(min(info.Size(), headMax))
	return err
}

func (l *logFile) position() *tokenwatch.Position {
	sum := sha256.Sum256(l.head)
	return &tokenwatch.Position{
		Path: l.path, Device: l.id.device, Inode: l.id.inode, Offset: l.offset(),
		HeadSize: len(l.head), HeadSum: hex.EncodeToString(sum[:]),
	}
}

// replaced reports whether the file no longer begins with what was read so far: it
// was truncated, and perhaps written again.
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

// beginsAs reports whether the content begins like that of the file of position,
// and is at least as long.
func (l *logFile) beginsAs(position *tokenwatch.Position) bool {
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

// resumeAt goes to position if it was taken from this content.
func (l *logFile) resumeAt(position *tokenwatch.Position) bool {
	if !l.beginsAs(position) || l.seek(position.Offset, position.HeadSize) != nil {
		return false
	}
	// Once more: it may have been truncated and filled again in between.
	sum := sha256.Sum256(l.head[:position.HeadSize])
	return hex.EncodeToString(sum[:]) == position.HeadSum
}

// sibling is a file that rotation left next to the log.
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
	names := make(map[string]bool)
	for _, entry := range entries {
		names[entry.Name()] = true
	}
	var found []sibling
	for _, entry := range entries {
		plain, compressed := strings.CutSuffix(entry.Name(), ".gz")
		if !rotated.MatchString(entry.Name()) || compressed && names[plain] { // both are there while it is compressed
			continue
		}
		info, err := entry.Info()
		if err != nil || !info.Mode().IsRegular() {
			continue // gone in the meantime
		}
		found = append(found, sibling{filepath.Join(dir, entry.Name()), info.ModTime(), idOf(info)})
	}
	slices.SortStableFunc(found, func(a, b sibling) int { return a.changed.Compare(b.changed) })
	return found, nil
}
