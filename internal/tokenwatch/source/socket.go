package source

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"os"
	"slices"
	"strings"
	"sync"
	"sync/atomic"

	"github.com/vault-tokens/vault-plugin-secrets-tokens/internal/tokenwatch"
)

// Socket listens for a socket audit device, over TCP or a unix socket.
//
// Vault waits for its audit devices, and refuses requests if none of them accepts
// the entry. So the socket is always read, and when Queue is full, because lines
// arrive faster than they are handled, they are dropped and counted. A socket
// cannot be resumed: what Vault writes while nobody listens is lost.
type Socket struct {
	Network string // tcp or unix
	Address string
	MaxLine int // 0: DefaultMaxLine
	Queue   int // bytes that may be waiting; 0: 32 MiB
	Log     *slog.Logger

	listener net.Listener
	waiting  atomic.Int64 // bytes
	dropped  atomic.Int64 // lines
}

// ParseSocket reads tcp://host:port or unix:///path.
func ParseSocket(url string) (network, address string, err error) {
	if address, ok := strings.CutPrefix(url, "tcp://"); ok && address != "" {
		if _, _, err := net.SplitHostPort(address); err != nil {
			return "", "", err
		}
		return "tcp", address, nil
	}
	if path, ok := strings.CutPrefix(url, "unix://"); ok && strings.HasPrefix(path, "/") {
		return "unix", path, nil
	}
	return "", "", fmt.Errorf("%q is neither tcp://host:port nor unix:///path", url)
}

const maxConnections = 64

// Listen opens the socket, so that Vault can connect.
func (s *Socket) Listen() error {
	if s.Network == "unix" {
		if err := removeStale(s.Address); err != nil {
			return err
		}
	}
	var err error
	if s.listener, err = net.Listen(s.Network, s.Address); err != nil {
		return err
	}
	if s.Network == "unix" {
		return os.Chmod(s.Address, 0o660) // Vault and tokenwatch share a group
	}
	return nil
}

// removeStale removes a socket that nobody listens on.
func removeStale(path string) error {
	info, err := os.Lstat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	if info.Mode().Type() != fs.ModeSocket {
		return fmt.Errorf("%s exists and is not a socket", path)
	}
	if conn, err := net.Dial("unix", path); err == nil {
		conn.Close()
		return fmt.Errorf("%s is in use", path)
	}
	return os.Remove(path)
}

// Addr returns the address it listens on, after Listen.
func (s *Socket) Addr() net.Addr { return s.listener.Addr() }

// Run implements tokenwatch.Source. It ends with ctx.
func (s *Socket) Run(ctx context.Context, handle func(tokenwatch.Batch) error) error {
	if s.Queue <= 0 {
		s.Queue = 32 << 20
	}
	if s.listener == nil {
		if err := s.Listen(); err != nil {
			return err
		}
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	stop := context.AfterFunc(ctx, func() { s.listener.Close() })
	defer stop()

	batches := make(chan tokenwatch.Batch, 4096)
	handled := make(chan struct{})
	go func() {
		defer close(handled)
		for b := range batches {
			s.waiting.Add(-int64(len(b.Lines)))
			if ctx.Err() != nil {
				continue // emptying
			}
			b.Dropped = int(s.dropped.Swap(0))
			if err := handle(b); err != nil {
				cancel(err)
			}
		}
	}()
	s.accept(ctx, batches)
	close(batches)
	<-handled
	return context.Cause(ctx)
}

// accept returns when the listener is closed and all connections have ended.
func (s *Socket) accept(ctx context.Context, batches chan<- tokenwatch.Batch) {
	var conns sync.WaitGroup
	defer conns.Wait()
	slots := make(chan struct{}, maxConnections)
	for {
		conn, err := s.listener.Accept()
		if err != nil {
			if ctx.Err() == nil && !errors.Is(err, net.ErrClosed) {
				s.Log.Warn("cannot accept a connection", "error", err)
				continue
			}
			return
		}
		select {
		case slots <- struct{}{}:
		default:
			s.Log.Warn("too many connections", "limit", maxConnections)
			conn.Close()
			continue
		}
		conns.Go(func() {
			defer func() { <-slots }()
			s.read(ctx, conn, batches)
		})
	}
}

func (s *Socket) read(ctx context.Context, conn net.Conn, batches chan<- tokenwatch.Batch) {
	defer conn.Close()
	stop := context.AfterFunc(ctx, func() { conn.Close() })
	defer stop()
	s.Log.Info("audit device connected", "from", conn.RemoteAddr().String())
	err := readAll(ctx, conn, newSplitter(s.MaxLine), func(lines []byte, skipped int) error {
		b := tokenwatch.Batch{Lines: slices.Clone(lines), Skipped: skipped}
		if s.waiting.Add(int64(len(lines))) <= int64(s.Queue) {
			select {
			case batches <- b:
				return nil
			default:
			}
		}
		s.waiting.Add(-int64(len(lines)))
		s.dropped.Add(int64(skipped + strings.Count(string(lines), "\n")))
		return nil
	})
	if ctx.Err() == nil {
		s.Log.Info("audit device disconnected", "from", conn.RemoteAddr().String(), "error", err)
	}
}
