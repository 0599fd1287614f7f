package source

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/vault-tokens/vault-plugin-secrets-tokens/internal/tokenwatch"
)

func TestSocket(t *testing.T) {
	path := filepath.Join(t.TempDir(), "tokenwatch.sock")
	for _, url := range []string{"tcp://127.0.0.1:0", "unix://" + path, "unix://" + path} { // the second finds what the first left
		t.Run(url, func(t *testing.T) {
			network, address, err := ParseSocket(url)
			if err != nil {
				t.Fatal(err)
			}
			s := &Socket{Network: network, Address: address, Log: slog.New(slog.DiscardHandler)}
			if err := s.Listen(); err != nil {
				t.Fatal(err)
			}
			const conns, lines = 8, 5000
			ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
			defer cancel()
			var writing sync.WaitGroup
			for c := range conns {
				writing.Go(func() {
					conn, err := net.Dial(network, s.Addr().String())
					if err != nil {
						t.Error(err)
						return
					}
					defer conn.Close()
					for i := range lines {
						if _, err := fmt.Fprintf(conn, "%d %d\n", c, i); err != nil {
							t.Error(err)
							return
						}
					}
				})
			}
			next := make(map[int]int)
			got := 0
			err = s.Run(ctx, func(b tokenwatch.Batch) error {
				for line := range strings.Lines(string(b.Lines)) {
					var c, i int
					if _, err := fmt.Sscan(line, &c, &i); err != nil || next[c] != i {
						return fmt.Errorf("%q, want %d", line, next[c])
					}
					next[c]++
				}
				if got += bytes.Count(b.Lines, []byte("\n")); got == conns*lines {
					cancel()
				}
				return nil
			})
			writing.Wait()
			if !errors.Is(err, context.Canceled) || got != conns*lines {
				t.Errorf("%v, %d lines", err, got)
			}
		})
	}
}

// TestSocketNeverHoldsVaultUp has a reader that is stuck: the writer goes on,
// and what is dropped is counted.
func TestSocketNeverHoldsVaultUp(t *testing.T) {
	s := &Socket{Network: "tcp", Address: "127.0.0.1:0", Queue: 64 << 10, Log: slog.New(slog.DiscardHandler)}
	if err := s.Listen(); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	stuck, dropped := make(chan struct{}), 0
	done := make(chan error)
	lines := 0
	go func() {
		done <- s.Run(ctx, func(b tokenwatch.Batch) error {
			<-stuck
			lines += bytes.Count(b.Lines, []byte("\n"))
			dropped += b.Dropped
			if lines+dropped >= 20_001 {
				cancel()
			}
			return nil
		})
	}()
	conn, err := net.Dial("tcp", s.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	_ = conn.SetWriteDeadline(time.Now().Add(15 * time.Second))
	for range 20_000 {
		if _, err := fmt.Fprintf(conn, "%s\n", strings.Repeat("x", 1000)); err != nil {
			t.Fatalf("the writer was held up: %v", err)
		}
	}
	close(stuck)
	for ctx.Err() == nil { // one more at a time, which tells of those that were dropped
		if _, err := fmt.Fprintln(conn, "y"); err != nil {
			break
		}
	}
	if err := <-done; !errors.Is(err, context.Canceled) {
		t.Fatal(err)
	}
	if dropped == 0 || lines == 0 {
		t.Errorf("%d lines, %d dropped", lines, dropped)
	}
}

func TestSocketIsNotTakenAway(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "file")
	if err := os.WriteFile(file, []byte("precious"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := (&Socket{Network: "unix", Address: file}).Listen(); err == nil {
		t.Error("a file was replaced")
	}
	first := &Socket{Network: "unix", Address: filepath.Join(dir, "sock")}
	if err := first.Listen(); err != nil {
		t.Fatal(err)
	}
	defer first.listener.Close()
	if err := (&Socket{Network: "unix", Address: first.Address}).Listen(); err == nil || !strings.Contains(err.Error(), "in use") {
		t.Errorf("a socket that is in use: %v", err)
	}
	for _, bad := range []string{"", "tcp://", "tcp://x", "unix://relative", "http://x:1", "/path"} {
		if _, _, err := ParseSocket(bad); err == nil {
			t.Errorf("%q is accepted", bad)
		}
	}
}
