package test

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"
)

// node is a Node.js process that verifies with libraries which others wrote;
// see interop/driver.mjs.
type node struct {
	in      io.WriteCloser
	mu      sync.Mutex // of what follows
	last    int
	waiting map[int]chan nodeAnswer
	ended   error
}

type nodeAnswer struct {
	ID     int             `json:"id"`
	Result json.RawMessage `json:"result"`
	Error  *nodeError      `json:"error"`
}

// nodeError is what a library refused with.
type nodeError struct {
	Code    string `json:"code"`
	Message string `json:"message"`
	Claim   string `json:"claim"`
}

func (e *nodeError) Error() string {
	return strings.TrimSpace(e.Code + " " + e.Message + " " + e.Claim)
}

// startNode starts the process; the test's end ends it.
func startNode(t *testing.T) *node {
	t.Helper()
	cmd := exec.Command("node", filepath.Join(interopDir(t), "driver.mjs"))
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatalf("the interop tests need Node.js 20 or later: %v", err)
	}
	n := &node{in: in, waiting: map[int]chan nodeAnswer{}}
	done := make(chan struct{})
	go func() {
		defer close(done)
		n.read(out)
		err := cmd.Wait()
		n.end(fmt.Errorf("node has ended: %v\n%s", err, bytes.TrimSpace(stderr.Bytes())))
	}()
	t.Cleanup(func() {
		_ = in.Close() // its end of input, which ends it
		select {
		case <-done:
		case <-time.After(10 * time.Second):
			_ = cmd.Process.Kill()
			<-done
		}
	})
	return n
}

func (n *node) read(out io.Reader) {
	lines := bufio.NewReader(out)
	for {
		line, err := lines.ReadBytes('\n')
		if err != nil {
			return
		}
		var answer nodeAnswer
		if json.Unmarshal(line, &answer) != nil {
			continue // a library's own print
		}
		n.mu.Lock()
		if waiting := n.waiting[answer.ID]; waiting != nil {
			delete(n.waiting, answer.ID)
			waiting <- answer
		}
		n.mu.Unlock()
	}
}

func (n *node) end(why error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.ended = why
	for id, waiting := range n.waiting {
		delete(n.waiting, id)
		close(waiting)
	}
}

// call makes a request and decodes its result, if result is not nil. What a
// library refuses is a *nodeError.
func (n *node) call(ctx context.Context, op string, args fields, result any) error {
	answered := make(chan nodeAnswer, 1)
	n.mu.Lock()
	if n.ended != nil {
		defer n.mu.Unlock()
		return n.ended
	}
	n.last++
	n.waiting[n.last] = answered
	request, err := json.Marshal(fields{"id": n.last, "op": op, "args": args})
	if err == nil {
		_, err = n.in.Write(append(request, '\n'))
	}
	n.mu.Unlock()
	if err != nil {
		return fmt.Errorf("%s: %w", op, err)
	}
	select {
	case <-ctx.Done():
		return context.Cause(ctx)
	case answer, ok := <-answered:
		switch {
		case !ok:
			return n.ended
		case answer.Error != nil:
			return answer.Error
		case result == nil:
			return nil
		}
		return json.Unmarshal(answer.Result, result)
	}
}

var interop struct {
	once sync.Once
	dir  string
	err  error
}

// interopDir is a copy of interop/ with its dependencies installed. They are
// downloaded once for each package-lock.json, into the user's cache.
func interopDir(t *testing.T) string {
	t.Helper()
	interop.once.Do(func() {
		interop.dir, interop.err = installInterop(suite.ctx, filepath.Join(repository(), "test", "interop"), suite.dir)
	})
	if interop.err != nil {
		t.Fatal(interop.err)
	}
	return interop.dir
}

// npmInstalled is where the dependencies of a folder with a package-lock.json
// lie in the user's cache, downloaded once for each lock file.
func npmInstalled(ctx context.Context, source string) (string, error) {
	lock, err := os.ReadFile(filepath.Join(source, "package-lock.json"))
	if err != nil {
		return "", err
	}
	cache, err := os.UserCacheDir()
	if err != nil {
		return "", err
	}
	sum := sha256.Sum256(lock)
	installed := filepath.Join(cache, "vault-plugin-secrets-tokens", filepath.Base(source)+"-"+hex.EncodeToString(sum[:8]))
	if _, err := os.Stat(installed); errors.Is(err, os.ErrNotExist) {
		if err := npmInstall(ctx, source, installed); err != nil {
			return "", err
		}
	} else if err != nil {
		return "", err
	}
	return installed, nil
}

func installInterop(ctx context.Context, source, into string) (string, error) {
	installed, err := npmInstalled(ctx, source)
	if err != nil {
		return "", err
	}
	dir := filepath.Join(into, "interop")
	if err := os.Mkdir(dir, 0o700); err != nil {
		return "", err
	}
	scripts, err := filepath.Glob(filepath.Join(source, "*.mjs"))
	if err != nil {
		return "", err
	}
	for _, file := range append(scripts, filepath.Join(source, "package.json")) {
		if err := copyFile(file, dir); err != nil {
			return "", err
		}
	}
	return dir, os.Symlink(filepath.Join(installed, "node_modules"), filepath.Join(dir, "node_modules"))
}

// npmInstall installs exactly what package-lock.json says. The folder has its
// name only once it is complete, whoever else installs at the same time.
func npmInstall(ctx context.Context, source, installed string) error {
	if err := os.MkdirAll(filepath.Dir(installed), 0o755); err != nil {
		return err
	}
	work, err := os.MkdirTemp(filepath.Dir(installed), "installing-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(work)
	for _, name := range []string{"package.json", "package-lock.json"} {
		if err := copyFile(filepath.Join(source, name), work); err != nil {
			return err
		}
	}
	cmd := exec.CommandContext(ctx, "npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund")
	cmd.Dir = work
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("npm ci (the interop tests need Node.js 20 or later): %w\n%s", err, out)
	}
	if err := os.Rename(work, installed); err != nil {
		if _, exists := os.Stat(installed); exists == nil {
			return nil // another was faster
		}
		return err
	}
	return nil
}

func copyFile(path, into string) error {
	raw, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(into, filepath.Base(path)), raw, 0o600)
}
