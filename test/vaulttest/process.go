package vaulttest

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// process is a child in a process group of its own, so that everything it
// starts (Vault's plugins) can be killed together with it.
type process struct {
	cmd   *exec.Cmd
	done  chan struct{} // closed once cmd has been waited for
	guard *exec.Cmd
	alive io.Closer // the guard kills the group when this pipe closes
}

// startProcess runs cmd with its output going to log.
func startProcess(cmd *exec.Cmd, log *os.File) (*process, error) {
	cmd.Stdout, cmd.Stderr = log, log
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("start %s: %w", cmd.Path, err)
	}
	p := &process{cmd: cmd, done: make(chan struct{})}
	go func() {
		_ = cmd.Wait() // a killed Vault has no status worth keeping
		close(p.done)
	}()
	if err := p.startGuard(); err != nil {
		p.kill()
		return nil, err
	}
	return p, nil
}

// startGuard starts a shell that outlives this process just long enough to
// kill the group. A panic, a test timeout and kill -9 all skip deferred
// functions, but none can keep the pipe open.
func (p *process) startGuard() error {
	guard := exec.Command("sh", "-c", `cat >/dev/null; kill -KILL -- "-$0" 2>/dev/null`, strconv.Itoa(p.pid()))
	guard.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} // Ctrl-C must not reach it
	in, err := guard.StdinPipe()
	if err != nil {
		return fmt.Errorf("guard: %w", err)
	}
	if err := guard.Start(); err != nil {
		return fmt.Errorf("guard: %w", err)
	}
	p.guard, p.alive = guard, in
	return nil
}

func (p *process) pid() int { return p.cmd.Process.Pid }

func (p *process) exited() bool {
	select {
	case <-p.done:
		return true
	default:
		return false
	}
}

// stop asks for an orderly end, and insists after grace.
func (p *process) stop(grace time.Duration) {
	_ = p.cmd.Process.Signal(syscall.SIGTERM)
	select {
	case <-p.done:
	case <-time.After(grace):
	}
	p.kill()
}

// kill ends the whole group without warning, as a power cut would.
func (p *process) kill() {
	_ = syscall.Kill(-p.pid(), syscall.SIGKILL)
	<-p.done
	if p.guard != nil {
		_ = p.alive.Close()
		_ = p.guard.Wait()
		p.guard = nil
	}
}

// groupMembers lists the process ids in the group other than the leader.
// ps is used because it answers the same on Linux and macOS.
func (p *process) groupMembers() ([]int, error) {
	out, err := exec.Command("ps", "-A", "-o", "pid=", "-o", "pgid=", "-o", "stat=").Output()
	if err != nil {
		return nil, fmt.Errorf("ps: %w", err)
	}
	var pids []int
	for line := range bytes.Lines(out) {
		f := strings.Fields(string(line))
		if len(f) < 3 || f[1] != strconv.Itoa(p.pid()) || strings.HasPrefix(f[2], "Z") {
			continue
		}
		pid, err := strconv.Atoi(f[0])
		if err != nil {
			return nil, fmt.Errorf("ps: %w", err)
		}
		if pid != p.pid() {
			pids = append(pids, pid)
		}
	}
	return pids, nil
}

// ResidentMiB is the resident memory of a process in MiB. It is read from /proc, so
// on Linux only.
func ResidentMiB(pid int) (float64, error) {
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(string(status)) {
		if rest, ok := strings.CutPrefix(line, "VmRSS:"); ok {
			var kib float64
			_, err := fmt.Sscan(rest, &kib)
			return kib / 1024, err
		}
	}
	return 0, fmt.Errorf("process %d has no VmRSS", pid) // it has ended
}

var errNoPlugin = errors.New("no plugin process is running")
