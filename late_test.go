package tokens

import (
	"context"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/hashicorp/vault/sdk/logical"
)

// lateStorage is a storage as a plugin has it through gRPC: a caller that hangs up
// gets a write back at once, while Vault may still do it. Its first write below a
// prefix waits to be let go.
type lateStorage struct {
	logical.Storage
	prefix        string
	begun         atomic.Bool
	seen, release chan struct{}
	writes        sync.WaitGroup
}

func (s *lateStorage) Put(ctx context.Context, entry *logical.StorageEntry) error {
	done := make(chan error, 1)
	s.writes.Go(func() {
		if strings.HasPrefix(entry.Key, s.prefix) && s.begun.CompareAndSwap(false, true) {
			close(s.seen)
			<-s.release
		}
		done <- s.Storage.Put(context.WithoutCancel(ctx), entry)
	})
	select {
	case err := <-done:
		return err
	case <-ctx.Done():
		return ctx.Err()
	}
}

// A request whose caller hung up does not undo one that was acknowledged after it: a
// renewal no revocation, and a rotation no emergency.
func TestGivenUpRequestsUndoNothing(t *testing.T) {
	for name, test := range map[string]struct {
		kind, prefix       string
		givenUp, afterward logical.Request
	}{
		"renewal and revocation": {
			"bearer", "token/",
			logical.Request{Operation: logical.RenewOperation},
			logical.Request{Operation: logical.RevokeOperation},
		},
		"rotation and emergency": {
			"jwt", "key/",
			logical.Request{Operation: logical.UpdateOperation, Path: "keys/default/rotate", Data: map[string]any{"force": true}},
			logical.Request{Operation: logical.UpdateOperation, Path: "keys/default/rotate-emergency"},
		},
	} {
		t.Run(name, func(t *testing.T) {
			m := newMount(t).withRoles()
			issued := m.must(logical.ReadOperation, "creds/"+test.kind, nil)
			before := m.published()
			late := &lateStorage{Storage: m.storage, prefix: test.prefix, seen: make(chan struct{}), release: make(chan struct{})}
			send := func(ctx context.Context, req logical.Request) <-chan error {
				lease := *issued.Secret
				req.Storage, req.Secret = late, &lease
				done := make(chan error, 1)
				go func() {
					_, err := m.backend.HandleRequest(ctx, &req)
					done <- err
				}()
				return done
			}
			ctx, hangUp := context.WithCancel(context.Background())
			givenUp := send(ctx, test.givenUp)
			<-late.seen
			hangUp()
			afterward := send(context.Background(), test.afterward)
			var err error
			select {
			case err = <-afterward: // before the write, if nothing holds it back
				close(late.release)
			case <-time.After(100 * time.Millisecond):
				close(late.release)
				err = <-afterward
			}
			<-givenUp
			late.writes.Wait()
			if err != nil {
				t.Fatal(err)
			}
			m.restart()
			if m.active(issued.Data["token"].(string)) {
				t.Error("active after what ended it was acknowledged")
			}
			if test.kind == "jwt" && slices.ContainsFunc(m.published(), func(kid string) bool { return slices.Contains(before, kid) }) {
				t.Errorf("published are %v, and %v leaked", m.published(), before)
			}
		})
	}
}
