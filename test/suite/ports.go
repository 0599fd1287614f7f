package suite

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"testing"
	"time"
)

// reserved are the ports that this process has given out. Each is a lock on one
// byte of a file in the user's cache, which the end of the process releases, so
// that packages whose tests run at the same time do not give out the same port
// between looking whether it is free and having a server listen on it.
var reserved struct {
	mu    sync.Mutex
	file  *os.File
	ports map[int]bool
}

// Ports finds n ports of the loopback interface that nobody listens on, below
// the range from which the kernel serves outgoing connections: a restarted
// server needs its port back, and a test's thousand clients must not have
// taken it.
func Ports(n int) ([]int, error) {
	const lowest, count, attempts = 20000, 12000, 100
	var ports []int
	for range attempts {
		port := lowest + rand.IntN(count)
		switch mine, err := reserve(port); {
		case err != nil:
			return nil, err
		case !mine:
			continue
		}
		l, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", port))
		if err != nil {
			continue
		}
		_ = l.Close()
		if ports = append(ports, port); len(ports) == n {
			return ports, nil
		}
	}
	return nil, errors.New("no free port on the loopback interface")
}

// reserve reports whether the port was free to be reserved.
func reserve(port int) (bool, error) {
	reserved.mu.Lock()
	defer reserved.mu.Unlock()
	if reserved.ports[port] {
		return false, nil
	}
	if reserved.file == nil {
		file, err := openInCache("ports.lock")
		if err != nil {
			return false, err
		}
		reserved.file, reserved.ports = file, map[int]bool{}
	}
	byteOfPort := syscall.Flock_t{Type: syscall.F_WRLCK, Whence: io.SeekStart, Start: int64(port), Len: 1}
	switch err := syscall.FcntlFlock(reserved.file.Fd(), syscall.F_SETLK, &byteOfPort); {
	case errors.Is(err, syscall.EAGAIN) || errors.Is(err, syscall.EACCES):
		return false, nil
	case err != nil:
		return false, fmt.Errorf("%s: %w", reserved.file.Name(), err)
	}
	reserved.ports[port] = true
	return true, nil
}

// FreeAddress is an address on loopback that nobody listens on.
func FreeAddress(t *testing.T) string {
	t.Helper()
	ports, err := Ports(1)
	if err != nil {
		t.Fatal(err)
	}
	return fmt.Sprintf("127.0.0.1:%d", ports[0])
}

// cacheDir is where the repository's scripts and tests keep what is dear to make.
func cacheDir() (string, error) {
	dir, err := os.UserCacheDir()
	return filepath.Join(dir, "vault-plugin-secrets-tokens"), err
}

func openInCache(name string) (*os.File, error) {
	dir, err := cacheDir()
	if err != nil {
		return nil, err
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, err
	}
	return os.OpenFile(filepath.Join(dir, name), os.O_CREATE|os.O_RDWR, 0o600)
}

// Alone runs f while no other process runs one of the same name: for what is
// made once and kept, and dear to make twice at the same time.
func Alone(ctx context.Context, name string, f func() error) error {
	file, err := openInCache(name + ".lock")
	if err != nil {
		return err
	}
	defer file.Close() // releases the lock
	if err := Poll(ctx, time.Hour, func() (bool, error) {
		err := syscall.Flock(int(file.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
		return err == nil, err
	}); err != nil {
		return fmt.Errorf("%s: %w", file.Name(), err)
	}
	return f()
}
