package engine

import (
	"context"
	"net/http"
	"testing"
	"time"

	"github.com/vault-tokens/vault-plugin-secrets-tokens/test/suite"
	"github.com/vault-tokens/vault-plugin-secrets-tokens/test/vaulttest"
)

// TestFailover moves leadership through a raft cluster of three nodes, in
// order and by killing the leader. What one leader acknowledged must hold on
// the next, and on the first once it leads again.
func TestFailover(t *testing.T) {
	vault, plugin := vaulttest.Binaries(t)
	ctx := suite.Deadline(t, 4*time.Minute)
	cluster, err := vaulttest.StartCluster(suite.Context(), 3, vaulttest.Options{Vault: vault, Plugin: plugin, Audit: true, TLS: true})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(cluster.Close)
	first := &vaulttest.Deployment{Server: cluster.Nodes[0], Secrets: &vaulttest.Secrets{}}
	if err := first.SetUp(ctx); err != nil {
		t.Fatal(err)
	}
	on := func(node *vaulttest.Server) *vaulttest.Deployment {
		s := *first
		s.Server = node
		return &s
	}
	t.Cleanup(func() {
		for _, node := range cluster.Nodes {
			if err := on(node).VerifyFiles(); err != nil {
				t.Error(err)
			}
			showTailIfFailed(t, node)
		}
	})
	in(t, first, ctx).writeLedgerRoles()

	var l ledger
	l.use(t, ctx, first, 6)
	for _, node := range cluster.Nodes { // standbys pass requests on
		l.mustHold(t, ctx, on(node), "through "+node.Addr)
		if got := in(t, on(node), ctx).form("introspect", first.API, "token=vtb_x", http.StatusOK); got != dead {
			t.Errorf("a form through %s: %s", node.Addr, got)
		}
	}

	leader := cluster.Nodes[0]
	for hop := 1; hop <= 8; hop++ {
		if err := on(leader).Expect(ctx, leader.RootToken, "PUT", "sys/step-down", nil, http.StatusNoContent); err != nil {
			t.Fatal(err)
		}
		leader = nextLeader(t, ctx, cluster, leader)
		l.mustHoldSoon(t, ctx, on(leader), "after a step-down, on "+leader.Addr)
		l.use(t, ctx, on(leader), 2)
		if leader == cluster.Nodes[0] && hop >= 2 {
			break // back where it began, with whatever that node remembers
		}
	}

	killed := leader
	l.use(t, ctx, on(leader), 4)
	killed.Kill()
	leader = nextLeader(t, ctx, cluster, killed)
	l.mustHoldSoon(t, ctx, on(leader), "after kill -9 of the leader, on "+leader.Addr)
	l.use(t, ctx, on(leader), 4)
	if err := cluster.Rejoin(ctx, killed); err != nil {
		t.Fatal(err)
	}
	l.mustHoldSoon(t, ctx, on(killed), "through the node that was killed")
	if err := on(leader).VerifyLeases(); err != nil {
		t.Error(err)
	}
}

func nextLeader(t *testing.T, ctx context.Context, cluster *vaulttest.Cluster, last *vaulttest.Server) *vaulttest.Server {
	t.Helper()
	leader, err := cluster.Leader(ctx, last)
	if err != nil {
		t.Fatal(err)
	}
	return leader
}

func showTailIfFailed(t *testing.T, node *vaulttest.Server) {
	if t.Failed() {
		t.Logf("the end of the log of %s:\n%s", node.Addr, node.LogTail(15))
	}
}
