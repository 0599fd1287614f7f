package source

import (
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/vault-tokens/vault-plugin-secrets-tokens/internal/tokenwatch"
)

func TestStream(t *testing.T) {
	text := strings.Repeat(strings.Repeat("x", 997)+"\n", 5000) + "the end"
	var compressed bytes.Buffer
	z := gzip.NewWriter(&compressed)
	_, err := z.Write([]byte(text))
	if err := errors.Join(err, z.Close()); err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	plain, packed, broken := filepath.Join(dir, "plain"), filepath.Join(dir, "packed"), filepath.Join(dir, "broken")
	for path, content := range map[string][]byte{plain: []byte(text), packed: compressed.Bytes(), broken: compressed.Bytes()[:compressed.Len()/2]} {
		if err := os.WriteFile(path, content, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	read := func(ctx context.Context, files ...string) (string, error) {
		var got strings.Builder
		err := (&Stream{Files: files}).Run(ctx, func(b tokenwatch.Batch) error {
			got.Write(b.Lines)
			return nil
		})
		return got.String(), err
	}
	if got, err := read(t.Context(), plain, packed); err != nil || got != text+text {
		t.Errorf("%d bytes, want %d: %v", len(got), 2*len(text), err)
	}
	if _, err := read(t.Context(), broken); err == nil || !strings.Contains(err.Error(), broken) {
		t.Errorf("a file that was cut off: %v", err)
	}
	if _, err := read(t.Context(), filepath.Join(dir, "none")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("no file: %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := read(ctx, plain); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
	stop := errors.New("stop")
	if err := (&Stream{Files: []string{plain}}).Run(t.Context(), func(tokenwatch.Batch) error { return stop }); !errors.Is(err, stop) {
		t.Errorf("the handler's error: %v", err)
	}
}
