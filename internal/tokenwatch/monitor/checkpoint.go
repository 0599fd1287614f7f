package monitor

import (
	"bytes"
	"crypto/sha256"
	"encoding/gob"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"github.com/vault-tokens/vault-plugin-secrets-tokens/internal/tokenwatch"
)

// checkpoint is the whole state at one position in the log. Everything in it
// follows from the entries before that position: an entry that was handled after
// the last checkpoint is read again after a crash, and still counts once.
//
// An alert that was sent after the last checkpoint may be sent again.
type checkpoint struct {
	Version  int
	Position *tokenwatch.Position
	Counts   counts
	Refused  []string
	Mounts   []mountName
	Leases   [2][]string // HMACs, ids
	Findings []savedFinding
	Floods   map[string]savedLimit // by rule
	Rules    map[string][]byte
	Pending  map[string][]tokenwatch.Alert // by sink
}

// A finding and a rateLimit, under the names that state files have for their
// fields: gob goes by names.
type (
	savedFinding struct {
		Key     findingKey
		Finding savedAlert
	}
	savedAlert struct {
		Alert  tokenwatch.Alert
		Passed int64
		At     time.Time
	}
	savedLimit struct {
		Minute time.Time
		Passed int
		Held   int64
		Last   tokenwatch.Alert
	}
)

// version changes when older checkpoints can no longer be read.
const version = 1

// store is the file that checkpoints are written to.
type store struct {
	path  string
	lock  *os.File
	saved time.Time
	took  time.Duration
}

const magic = "tokenwatch state\n"

// openStore locks the state, so that only one process uses it.
func openStore(path string) (*store, error) {
	lock, err := os.OpenFile(path+".lock", os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, err
	}
	if err := syscall.Flock(int(lock.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		lock.Close()
		return nil, fmt.Errorf("%s is in use by another tokenwatch", path)
	}
	return &store{path: path, lock: lock}, nil
}

func (s *store) close() { _ = s.lock.Close() }

// load returns nil if there is no state yet.
func (s *store) load() (*checkpoint, error) {
	raw, err := os.ReadFile(s.path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	body, ok := bytes.CutPrefix(raw, []byte(magic))
	if !ok || len(body) < sha256.Size {
		return nil, fmt.Errorf("%s is not a state file of tokenwatch", s.path)
	}
	body, sum := body[:len(body)-sha256.Size], body[len(body)-sha256.Size:]
	if is := sha256.Sum256(body); !bytes.Equal(is[:], sum) {
		return nil, fmt.Errorf("%s is damaged; remove it to start afresh", s.path)
	}
	var c checkpoint
	if err := gob.NewDecoder(bytes.NewReader(body)).Decode(&c); err != nil || c.Version != version {
		return nil, fmt.Errorf("%s was written by another version of tokenwatch; remove it to start afresh", s.path)
	}
	return &c, nil
}

// write replaces the state atomically: a reader finds the old or the new one, even
// after a crash of the machine.
func (s *store) write(c *checkpoint) error {
	began := time.Now()
	var b bytes.Buffer
	b.WriteString(magic)
	if err := gob.NewEncoder(&b).Encode(c); err != nil {
		return err
	}
	sum := sha256.Sum256(b.Bytes()[len(magic):])
	b.Write(sum[:])
	if err := writeAtomically(s.path, b.Bytes()); err != nil {
		return err
	}
	s.saved = time.Now()
	s.took = s.saved.Sub(began)
	return nil
}

func writeAtomically(path string, content []byte) error {
	f, err := os.OpenFile(path+".new", os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(content)
	err = errors.Join(err, f.Sync(), f.Close())
	if err != nil {
		return err
	}
	if err := os.Rename(path+".new", path); err != nil {
		return err
	}
	dir, err := os.Open(filepath.Dir(path))
	if err != nil {
		return err
	}
	return errors.Join(dir.Sync(), dir.Close())
}

// due limits writing to once a second and to a twentieth of the time.
func (s *store) due(now time.Time) bool {
	return now.Sub(s.saved) >= max(time.Second, 20*s.took)
}

func (m *Monitor) saveIfDue(now time.Time) {
	if m.store == nil || !m.dirty || !m.store.due(now) {
		return
	}
	if err := m.save(); err != nil {
		m.store.saved = now // do not retry at once
		m.opts.Log.Error("state was not written", "error", err)
	}
}

func (m *Monitor) save() error {
	c := &checkpoint{
		Version: version, Position: m.position, Counts: m.counts, Refused: m.refused.Keys(),
		Leases: [2][]string{m.mounts.leases.Keys(), m.mounts.leases.Values()},
		Rules:  make(map[string][]byte), Pending: make(map[string][]tokenwatch.Alert),
	}
	c.Findings, c.Floods = m.deduper.save()
	for name := range m.mounts.known {
		c.Mounts = append(c.Mounts, name)
	}
	for _, r := range m.opts.Rules {
		state, err := r.Save()
		if err != nil {
			return fmt.Errorf("rule %s: %w", r.Name(), err)
		}
		c.Rules[r.Name()] = state
	}
	for _, q := range m.queues {
		if pending := q.pending(); len(pending) > 0 {
			c.Pending[q.Name()] = pending
		}
	}
	if err := m.store.write(c); err != nil {
		return err
	}
	m.dirty = false
	return nil
}

func (m *Monitor) restore() error {
	c, err := m.store.load()
	if c == nil || err != nil {
		return err
	}
	m.position = c.Position
	fresh := newCounts()
	m.counts = c.Counts
	if m.counts.Events == nil { // gob leaves out what is empty
		m.counts.Events = fresh.Events
	}
	if m.counts.Alerts == nil {
		m.counts.Alerts = fresh.Alerts
	}
	for _, id := range c.Refused {
		m.refused.Add(id, struct{}{})
	}
	for _, name := range c.Mounts {
		m.mounts.known[name] = true
	}
	for i := range min(len(c.Leases[0]), len(c.Leases[1])) {
		m.mounts.leases.Add(c.Leases[0][i], c.Leases[1][i])
	}
	m.deduper.restore(c.Findings, c.Floods)
	for _, r := range m.opts.Rules {
		if state := c.Rules[r.Name()]; len(state) > 0 {
			if err := r.Restore(state); err != nil {
				return fmt.Errorf("state of rule %s: %w; remove %s to start afresh", r.Name(), err, m.store.path)
			}
		}
	}
	for _, q := range m.queues {
		q.waiting = append(q.waiting, c.Pending[q.Name()]...)
	}
	return nil
}

func (d *deduper) save() ([]savedFinding, map[string]savedLimit) {
	findings := make([]savedFinding, 0, d.findings.Len())
	for _, key := range d.findings.Keys() {
		f, _ := d.findings.Peek(key)
		findings = append(findings, savedFinding{key, savedAlert{Alert: f.Alert, Passed: f.Notified, At: f.At}})
	}
	limits := make(map[string]savedLimit, len(d.limits))
	for rule, l := range d.limits {
		limits[rule] = savedLimit{Minute: l.Minute, Passed: l.Notified, Held: l.Held, Last: l.Last}
	}
	return findings, limits
}

func (d *deduper) restore(findings []savedFinding, limits map[string]savedLimit) {
	for _, f := range findings {
		d.findings.Add(f.Key, &finding{Alert: f.Finding.Alert, Notified: f.Finding.Passed, At: f.Finding.At})
	}
	for rule, l := range limits {
		d.limits[rule] = &rateLimit{Minute: l.Minute, Notified: l.Passed, Held: l.Held, Last: l.Last}
	}
}
