package source

import (
	"bufio"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/vault-tokens/vault-plugin-secrets-tokens/internal/tokenwatch"
)

// Stream reads files, or standard input, to their end. Each may be compressed with
// gzip.
type Stream struct {
	Files   []string // "-" is standard input
	MaxLine int      // 0: DefaultMaxLine
}

// Run implements tokenwatch.Source.
func (s *Stream) Run(ctx context.Context, handle func(tokenwatch.Batch) error) error {
	for _, name := range s.Files {
		if err := s.read(ctx, name, handle); err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
	}
	return nil
}

func (s *Stream) read(ctx context.Context, name string, handle func(tokenwatch.Batch) error) error {
	f := os.Stdin
	if name != "-" {
		var err error
		if f, err = os.Open(name); err != nil {
			return err
		}
		defer f.Close()
	}
	r, err := decompressed(f)
	if err != nil {
		return err
	}
	return readAll(ctx, r, newSplitter(s.MaxLine), func(lines []byte, skipped int) error {
		return handle(tokenwatch.Batch{Lines: lines, Skipped: skipped})
	})
}

func readAll(ctx context.Context, r io.Reader, s *splitter, deliver func([]byte, int) error) error {
	for ctx.Err() == nil {
		n, err := r.Read(s.space())
		if err := s.advance(n, deliver); err != nil {
			return err
		}
		if errors.Is(err, io.EOF) {
			return s.finish(deliver)
		}
		if err != nil {
			return err
		}
	}
	return ctx.Err()
}

// decompressed returns a reader that unpacks r if it is compressed with gzip.
func decompressed(r io.Reader) (io.Reader, error) {
	if f, ok := r.(*os.File); ok {
		if magic, ok := peekFile(f); ok {
			if magic {
				return gzip.NewReader(f)
			}
			return f, nil
		}
	}
	br := bufio.NewReaderSize(r, chunk)
	if start, _ := br.Peek(2); isGzip(start) {
		return gzip.NewReader(br)
	}
	return br, nil
}

// peekFile reports whether a regular file is compressed, without moving its read
// position; ok is false for other files.
func peekFile(f *os.File) (compressed, ok bool) {
	if info, err := f.Stat(); err != nil || !info.Mode().IsRegular() {
		return false, false
	}
	start := make([]byte, 2)
	n, _ := f.ReadAt(start, 0)
	return isGzip(start[:n]), true
}

func isGzip(start []byte) bool { return len(start) >= 2 && start[0] == 0x1f && start[1] == 0x8b }
