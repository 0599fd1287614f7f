package backend

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/hashicorp/vault/sdk/helper/consts"
	"github.com/hashicorp/vault/sdk/logical"

	"github.com/vault-tokens/vault-plugin-secrets-tokens/backend/role"
	"github.com/vault-tokens/vault-plugin-secrets-tokens/backend/store/storetest"
	"github.com/vault-tokens/vault-plugin-secrets-tokens/backend/template"
	"github.com/vault-tokens/vault-plugin-secrets-tokens/backend/token"
)

// reports is what was done in the background.
type reports struct {
	mu     sync.Mutex
	ended  int
	failed []error
}

func (r *reports) add(done *TidyResult, err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.ended += len(done.Tokens.Ended)
	if err != nil {
		r.failed = append(r.failed, err)
	}
}

// withBackground is a mount that works in the background, with a role of each type.
func withBackground(t *testing.T) (*fixture, *reports) {
	t.Helper()
	f, r := newFixture(t), &reports{}
	f.Storage, f.Report = f.storage, r.add
	for _, tokenType := range role.TokenTypes() {
		f.mustRole(string(tokenType), tokenType, unchanged)
	}
	return f, r
}

// settle waits for the work in the background.
func (f *fixture) settle() {
	f.t.Helper()
	f.background.mu.Lock()
	done := f.background.done
	f.background.mu.Unlock()
	select {
	case <-done:
	case <-time.After(time.Minute):
		f.t.Fatal("work in the background does not end")
	}
}

func (f *fixture) issueTo(name, entity string) *token.Issued {
	f.t.Helper()
	issued, err := f.Tokens.Issue(f.ctx, f.storage, token.Request{Role: name, Caller: template.Caller{EntityID: entity}})
	if err != nil {
		f.t.Fatal(err)
	}
	return issued
}

func (f *fixture) active(issued *token.Issued) bool {
	f.t.Helper()
	answer, err := f.Tokens.Introspect(f.ctx, f.storage, token.Introspection{Token: issued.Token})
	if err != nil {
		f.t.Fatal(err)
	}
	return answer.Active
}

func (f *fixture) records() int {
	f.t.Helper()
	keys, err := logical.CollectKeysWithPrefix(f.ctx, f.storage, "token/")
	if err != nil {
		f.t.Fatal(err)
	}
	return len(keys)
}

func (f *fixture) tidied(entity string) bool {
	f.t.Helper()
	end, err := f.Entity(f.ctx, f.storage, entity)
	if err != nil || end == nil {
		f.t.Fatalf("%+v, %v", end, err)
	}
	return end.Tidied
}

// blocks makes reads of records wait until release is called, and says when one
// has arrived.
func (f *fixture) blocks() (arrived <-chan struct{}, release func()) {
	reached, free := make(chan struct{}), make(chan struct{})
	var once sync.Once
	f.storage.Before(func(op storetest.Op, key string) error {
		if op == storetest.Get && strings.HasPrefix(key, "token/") {
			once.Do(func() { close(reached) })
			<-free
		}
		return nil
	})
	return reached, func() { close(free) }
}

func TestEndEntity(t *testing.T) {
	f, r := withBackground(t)
	var gone, kept []*token.Issued
	for range 1500 { // more than one run may remove
		gone = append(gone, f.issueTo("bearer", "entity-1"))
	}
	gone = append(gone, f.issueTo("jwt", "entity-1"), f.issueTo("api_key", "entity-1"))
	kept = append(kept, f.issueTo("jwt", "entity-2"), f.issueTo("api_key", "entity-2"))
	arrived, release := f.blocks()
	if end, err := f.EndEntity(f.ctx, f.storage, "entity-1"); err != nil || !end.RevokedAt.Equal(f.now) {
		t.Fatalf("%+v, %v", end, err)
	}
	<-arrived
	f.storage.Heal()
	if f.active(gone[0]) || f.active(gone[len(gone)-2]) || f.tidied("entity-1") {
		t.Error("active, or tidied, while the pass is under way")
	}
	if status, err := f.TidyStatus(f.ctx, f.storage); err != nil || status.State != TidyRunning {
		t.Errorf("%+v, %v", status, err)
	}
	release()
	f.settle()
	if f.records() != 1 || r.ended != len(gone)-1 || len(r.failed) != 0 || !f.tidied("entity-1") {
		t.Errorf("left are %d records, reported %d, %v", f.records(), r.ended, r.failed)
	}
	for _, issued := range kept {
		if !f.active(issued) {
			t.Error("a token of another entity is inactive")
		}
	}
	if status, err := f.TidyStatus(f.ctx, f.storage); err != nil || status.State != TidyIdle || status.Pass.Ended != r.ended {
		t.Errorf("%+v, %v", status, err)
	}
	_, err := f.EndEntity(f.ctx, f.storage, "a/b")
	wantMistake(t, "an id that is none", err, "id")
	_, err = f.Entity(f.ctx, f.storage, "a.b")
	wantMistake(t, "an id that is none", err, "id")
	if end, err := f.Entity(f.ctx, f.storage, "entity-2"); end != nil || err != nil {
		t.Errorf("one that was not ended: %+v, %v", end, err)
	}
}

// Whichever operation fails, or whose reply is lost: after the caller's retry the
// tokens are refused, and go.
func TestEndEntityOnFaults(t *testing.T) {
	for _, prefix := range []string{"cutoff/", "token/", "tidy/", "cap/", "list/", "revoked/"} {
		for _, op := range []storetest.Op{storetest.Get, storetest.List, storetest.Put, storetest.Delete} {
			for _, late := range []bool{false, true} {
				f, _ := withBackground(t)
				for range 20 {
					f.issueTo("bearer", "entity-1")
				}
				signed := f.issueTo("jwt", "entity-1")
				inject := f.storage.Before
				if late {
					inject = f.storage.After
				}
				inject(storetest.Fail(prefix, op))
				if _, err := f.EndEntity(f.ctx, f.storage, "entity-1"); err == nil {
					f.settle()
				}
				f.storage.Heal()
				if f.active(signed) {
					t.Errorf("%s %s, late %v: active after a try", op, prefix, late)
				}
				restarted := *f
				restarted.restart()
				restarted.Storage = f.storage
				if _, err := restarted.EndEntity(f.ctx, f.storage, "entity-1"); err != nil {
					t.Fatal(err)
				}
				restarted.settle()
				if restarted.active(signed) || f.records() != 0 || !restarted.tidied("entity-1") {
					t.Errorf("%s %s, late %v: after the retry, %d records are left", op, prefix, late, f.records())
				}
			}
		}
	}
	t.Run("caller gone", func(t *testing.T) {
		f, _ := withBackground(t)
		f.issueTo("bearer", "entity-1")
		gone, cancel := context.WithCancel(f.ctx)
		cancel()
		if _, err := f.EndEntity(gone, f.storage, "entity-1"); err != nil {
			t.Fatal(err)
		}
		f.settle()
		if f.records() != 0 {
			t.Error("the record is left")
		}
	})
}

// The process ends in the middle of the pass: the next one goes on where it was, by
// the periodic runs alone.
func TestPassGoesOnAfterAnEnd(t *testing.T) {
	for name, ends := range map[string]func(f *fixture, release func()){
		"stopped": func(f *fixture, release func()) {
			release()
			f.Stop(f.ctx)
		},
		"killed": func(f *fixture, release func()) {
			f.storage.Before(func(storetest.Op, string) error { return errors.New("killed") })
			release()
			f.settle()
			f.storage.Heal()
		},
	} {
		t.Run(name, func(t *testing.T) {
			f, _ := withBackground(t)
			for range 200 {
				f.issueTo("bearer", "entity-1")
			}
			arrived, release := f.blocks()
			if _, err := f.EndEntity(f.ctx, f.storage, "entity-1"); err != nil {
				t.Fatal(err)
			}
			<-arrived
			ends(f, release)
			f.storage.Heal()
			f.settle()
			f.now = f.now.Add(time.Minute)
			f.restart()
			if f.records() > 0 && f.tidied("entity-1") {
				t.Error("tidied")
			}
			if _, err := f.Tidy(f.ctx, f.storage); err != nil {
				t.Fatal(err)
			}
			if f.records() != 0 || !f.tidied("entity-1") {
				t.Errorf("left are %d records", f.records())
			}
		})
	}
}

// A panic in the background is reported, ends neither the process nor what is asked
// for later.
func TestPanicInTheBackground(t *testing.T) {
	f, r := withBackground(t)
	f.issueTo("bearer", "entity-1")
	f.storage.Before(func(op storetest.Op, key string) error {
		if op == storetest.Get && strings.HasPrefix(key, "token/") {
			panic("of a request")
		}
		return nil
	})
	if _, err := f.EndEntity(f.ctx, f.storage, "entity-1"); err != nil {
		t.Fatal(err)
	}
	f.settle()
	f.storage.Heal()
	if len(r.failed) != 1 || !strings.Contains(r.failed[0].Error(), "panicked") || strings.Contains(r.failed[0].Error(), "of a request") {
		t.Errorf("reported %v", r.failed)
	}
	f.StartTidy()
	f.settle()
	if f.records() != 0 {
		t.Error("the record is left")
	}
}

// Where writes are not safe nothing is done in the background, nor after the end.
func TestNoBackground(t *testing.T) {
	f, _ := withBackground(t)
	f.issueTo("bearer", "entity-1")
	f.Stop(f.ctx)
	f.StartTidy()
	if _, busy := f.background.busy(); busy {
		t.Error("work after the end")
	}
	f.restart()
	f.Storage = f.storage
	f.system = logical.StaticSystemView{ReplicationStateVal: consts.ReplicationPerformanceStandby}
	f.StartTidy()
	if err := f.StartDryRun(); err != nil {
		t.Fatal(err)
	}
	if _, busy := f.background.busy(); busy {
		t.Error("work on a node that must not write")
	}
}

// A dry run makes way for a pass, and is refused during one. Both can be cancelled.
func TestDryRunAndPass(t *testing.T) {
	f, _ := withBackground(t)
	for range 50 {
		f.issueTo("bearer", "entity-1")
	}
	state := func(when string, want TidyState, dry bool) {
		t.Helper()
		status, err := f.TidyStatus(f.ctx, f.storage)
		if err != nil || status.State != want || status.Pass != nil && status.Pass.DryRun != dry {
			t.Errorf("%s: %+v %+v, %v", when, status, status.Pass, err)
		}
	}
	state("before", TidyIdle, false)
	arrived, release := f.blocks()
	if err := f.StartDryRun(); err != nil {
		t.Fatal(err)
	}
	<-arrived
	state("dry run", TidyRunning, true)
	wantMistake(t, "two dry runs", f.StartDryRun(), "dry_run")
	if _, err := f.EndEntity(f.ctx, f.storage, "entity-1"); err != nil {
		t.Fatal(err)
	}
	release()
	f.settle()
	f.storage.Heal()
	state("after both", TidyIdle, false)
	if f.records() != 0 {
		t.Errorf("left are %d records", f.records())
	}

	f.now = f.now.Add(time.Second)
	for range 50 {
		f.issueTo("bearer", "entity-2")
	}
	var ctx context.Context
	f.background.do = func(c context.Context, j job) { ctx = c; f.inBackground(c, j) }
	arrived, release = f.blocks()
	f.StartTidy()
	<-arrived
	wantMistake(t, "a dry run during a pass", f.StartDryRun(), "dry_run")
	cancelled := make(chan error)
	go func() {
		done, err := f.CancelTidy(f.ctx, f.storage)
		if !done {
			err = errors.Join(err, errors.New("nothing to cancel"))
		}
		cancelled <- err
	}()
	<-ctx.Done()
	release()
	if err := <-cancelled; err != nil {
		t.Error(err)
	}
	f.settle()
	f.storage.Heal()
	state("cancelled", TidyCancelled, false)
	if done, err := f.CancelTidy(f.ctx, f.storage); done || err != nil {
		t.Errorf("cancelled %v, %v", done, err)
	}
	f.now = f.now.Add(time.Second)
	if err := f.StartDryRun(); err != nil {
		t.Fatal(err)
	}
	f.settle()
	state("after a dry run", TidyIdle, true)
}

// Cut-offs go once every token that they may end has expired, and not before.
func TestTidyCutoffs(t *testing.T) {
	f, _ := withBackground(t)
	f.mustRole("jwt", role.JWT, func(r *role.Role) { r.TTL = 20 * 24 * time.Hour })
	signed := f.issueTo("jwt", "entity-1")
	if _, err := f.EndEntity(f.ctx, f.storage, "entity-1"); err != nil {
		t.Fatal(err)
	}
	f.settle()
	removed := 0
	for day := 0; ; day++ {
		if f.restart(); !f.now.Before(signed.ExpiresAt.Add(4 * safetyMargin)) {
			break
		}
		done, err := f.Tidy(f.ctx, f.storage)
		if err != nil {
			t.Fatal(err)
		}
		if removed += done.Cutoffs; removed > 0 && f.now.Before(signed.ExpiresAt.Add(safetyMargin)) {
			t.Fatalf("removed on %s, while the JWT lives until %s", f.now, signed.ExpiresAt)
		}
		if f.now.Before(signed.ExpiresAt) && f.active(signed) {
			t.Fatalf("active on day %d", day)
		}
		f.now = f.now.Add(safetyMargin)
	}
	if removed != 1 {
		t.Errorf("removed %d", removed)
	}
}

// A pass in which a record failed removes no cut-off: it may be the record of a
// token that nothing else ends.
func TestCutoffsStayWhileRecordsFail(t *testing.T) {
	f, _ := withBackground(t)
	bad := f.issueTo("bearer", "entity-1")
	f.storage.Before(storetest.Fail("token/"+bad.ID[len(bad.ID)-1:]+"/", storetest.Get))
	if _, err := f.EndEntity(f.ctx, f.storage, "entity-1"); err != nil {
		t.Fatal(err)
	}
	f.settle()
	for range 10 {
		f.now = f.now.Add(2 * safetyMargin)
		if done, _ := f.Tidy(f.ctx, f.storage); done.Cutoffs != 0 {
			t.Fatal("removed")
		}
	}
	if f.tidied("entity-1") {
		t.Error("tidied")
	}
	f.storage.Heal()
	removed := 0
	for range 10 {
		f.now = f.now.Add(2 * safetyMargin)
		done, err := f.Tidy(f.ctx, f.storage)
		if err != nil {
			t.Fatal(err)
		}
		removed += done.Cutoffs
	}
	if removed != 1 {
		t.Errorf("then removed %d", removed)
	}
}

func TestUntracked(t *testing.T) {
	f, _ := withBackground(t)
	for n := range maxUntracked + 10 {
		f.mustRole(fmt.Sprintf("jwt-%03d", n), role.JWT, unchanged)
	}
	found, err := f.Untracked(f.ctx, f.storage)
	if err != nil || found.Count != maxUntracked+11 || len(found.Roles) != maxUntracked || found.More || !slices.IsSorted(found.Roles) || found.Roles[0] != "jwt" {
		t.Errorf("%+v, %v", found, err)
	}
	if reads, _ := f.storage.Count(func() { f.Untracked(f.ctx, f.storage) }); reads != 1 {
		t.Errorf("%d reads when the roles are in memory", reads)
	}
	if err := f.storage.Put(f.ctx, &logical.StorageEntry{Key: "role/jwt-000", Value: []byte("{")}); err != nil {
		t.Fatal(err)
	}
	f.restart()
	if found, err := f.Untracked(f.ctx, f.storage); err != nil || found.Count != maxUntracked+10 || !found.More {
		t.Errorf("with one that cannot be decoded: %+v, %v", found, err)
	}
	f.restart()
	f.storage.Before(storetest.Fail("role/", storetest.Get))
	if found, err := f.Untracked(f.ctx, f.storage); !errors.Is(err, storetest.ErrInjected) {
		t.Errorf("unread: %+v, %v", found, err)
	}
}
