package tokenwatch

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"testing"
	"time"

	"github.com/vault-tokens/vault-plugin-secrets-tokens/test/promtest"
	"github.com/vault-tokens/vault-plugin-secrets-tokens/test/suite"
	"github.com/vault-tokens/vault-plugin-secrets-tokens/test/vaulttest"
)

// follower is a process of `tokenwatch follow`.
type follower struct {
	t     *testing.T
	ctx   context.Context
	cmd   *exec.Cmd
	out   string // file of stdout: alerts
	log   string // file of stderr
	done  chan struct{}
	ended error // of the process; read once done is closed
}

// follow starts tokenwatch, which the end of the test stops: it has to end in
// order.
func follow(t *testing.T, ctx context.Context, flags ...string) *follower {
	t.Helper()
	dir := t.TempDir()
	f := &follower{t: t, ctx: ctx, out: filepath.Join(dir, "out"), log: filepath.Join(dir, "log"), done: make(chan struct{})}
	f.cmd = exec.CommandContext(ctx, vaulttest.Tokenwatch(t), append([]string{"follow"}, flags...)...)
	stdout, err := os.Create(f.out)
	if err != nil {
		t.Fatal(err)
	}
	defer stdout.Close()
	stderr, err := os.Create(f.log)
	if err != nil {
		t.Fatal(err)
	}
	defer stderr.Close()
	f.cmd.Stdout, f.cmd.Stderr = stdout, stderr
	if err := f.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() {
		f.ended = f.cmd.Wait()
		close(f.done)
	}()
	t.Cleanup(func() {
		f.stop()
		if t.Failed() {
			t.Logf("tokenwatch said:\n%s", f.logTail())
		}
	})
	return f
}

func (f *follower) exited() bool {
	select {
	case <-f.done:
		return true
	default:
		return false
	}
}

// stop ends a process that runs, and holds it to ending well.
func (f *follower) stop() {
	f.t.Helper()
	if f.exited() {
		return
	}
	_ = f.cmd.Process.Signal(os.Interrupt)
	select {
	case <-f.done:
		if f.ended != nil {
			f.t.Errorf("tokenwatch: %v", f.ended)
		}
	case <-time.After(30 * time.Second):
		f.kill()
		f.t.Error("tokenwatch does not end")
	}
}

// kill ends the process without warning.
func (f *follower) kill() {
	_ = f.cmd.Process.Kill()
	<-f.done
}

func (f *follower) logTail() string {
	raw, err := os.ReadFile(f.log)
	if err != nil {
		return err.Error()
	}
	return string(raw[max(0, len(raw)-3000):])
}

// logged waits until the log matches, and returns the pattern's first group.
func (f *follower) logged(pattern string) string {
	f.t.Helper()
	var found [][]byte
	if err := suite.Poll(f.ctx, 30*time.Second, func() (bool, error) {
		exited := f.exited() // looked at first: what it said before is in the log
		raw, err := os.ReadFile(f.log)
		if found = regexp.MustCompile(pattern).FindSubmatch(raw); found != nil || err != nil {
			return found != nil, err
		}
		if exited {
			return true, nil
		}
		return false, errors.New("it is not in the log")
	}); err != nil || found == nil {
		f.t.Fatalf("tokenwatch does not say %s: %v", pattern, err)
	}
	return string(found[1])
}

// metrics is the URL of the metrics.
func (f *follower) metrics() string {
	f.t.Helper()
	return f.logged(`msg=metrics url="?(http://[^\s"]+)`)
}

// page is the URL of the live page.
func (f *follower) page() string {
	f.t.Helper()
	return f.logged(`msg="live page" url="?(http://[^\s"]+)`)
}

// samples are the metrics' values; nil as long as they are not served.
func (f *follower) samples() map[string]string {
	f.t.Helper()
	raw, err := suite.Get(f.ctx, f.metrics())
	if err != nil {
		return nil
	}
	return promtest.Samples(string(raw))
}

// alerts are those that `follow -json` has written, but for a line that is not
// complete yet.
func (f *follower) alerts() []alerted {
	f.t.Helper()
	raw, err := os.ReadFile(f.out)
	if err != nil {
		f.t.Fatal(err)
	}
	return readAlerts(f.t, bytes.NewReader(raw[:bytes.LastIndexByte(raw, '\n')+1]))
}

// alerted is an alert as tokenwatch writes it.
type alerted struct {
	Rule, Severity, Title, Detail, Who, Where, Mount, Role, Advice string
	EntityID                                                       string `json:"entity_id"`
	TokenID                                                        string `json:"token_id"`
	LeaseID                                                        string `json:"lease_id"`
	Count                                                          int
	First, Last                                                    time.Time
}

func readAlerts(t *testing.T, r io.Reader) []alerted {
	t.Helper()
	var alerts []alerted
	for d := json.NewDecoder(r); ; {
		var a alerted
		switch err := d.Decode(&a); err {
		case nil:
			alerts = append(alerts, a)
		case io.EOF:
			return alerts
		default:
			t.Fatal(err)
		}
	}
}

func ofRule(alerts []alerted, rule string) []alerted {
	var found []alerted
	for _, a := range alerts {
		if a.Rule == rule {
			found = append(found, a)
		}
	}
	return found
}
