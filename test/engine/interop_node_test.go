package engine

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/vault-tokens/vault-plugin-secrets-tokens/test/suite"
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
	cmd := exec.Command("node", filepath.Join(suite.NodeFolder(t, "interop"), "driver.mjs"))
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
		t.Fatal(err)
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
