package main

import (
	"context"
	"fmt"
	"net/http"
	"os"
	"slices"
	"sync"
	"sync/atomic"

	"github.com/vault-tokens/vault-plugin-secrets-tokens/test/report"
	"github.com/vault-tokens/vault-plugin-secrets-tokens/test/vaulttest"
)

type object = vaulttest.Fields

// vaults is the servers that are measured.
type vaults struct {
	cluster *vaulttest.Cluster // of one node, or more
	first   *vaulttest.Deployment
	active  *vaulttest.Deployment // first, on the node that is active
}

func startVaults(ctx context.Context, nodes int) (*vaults, error) {
	binary, err := vaulttest.VaultBinary(ctx)
	if err != nil {
		return nil, err
	}
	dir, err := os.MkdirTemp("", "load-plugin-")
	if err != nil {
		return nil, err
	}
	report.Progress("building the plugin, starting Vault")
	plugin, err := vaulttest.BuildPlugin(ctx, dir, false)
	if err != nil {
		_ = os.RemoveAll(dir)
		return nil, err
	}
	// Without an audit device: what fills the storage would write gigabytes to it.
	cluster, err := vaulttest.StartCluster(ctx, nodes, vaulttest.Options{
		Vault: binary, Plugin: plugin, RawStorage: true, LogLevel: "warn",
	})
	if err != nil {
		_ = os.RemoveAll(dir)
		return nil, err
	}
	v := &vaults{cluster: cluster}
	cluster.Nodes[0].OnClose(func() { _ = os.RemoveAll(dir) })
	v.first = &vaulttest.Deployment{Server: cluster.Nodes[0], Secrets: &vaulttest.Secrets{}}
	v.active = v.first
	if err := v.first.SetUp(ctx); err != nil {
		v.close()
		return nil, err
	}
	return v, nil
}

func (v *vaults) close() { v.cluster.Close() }

// restart stops the servers in order and starts them on the same data.
func (v *vaults) restart(ctx context.Context) error {
	for _, node := range v.cluster.Nodes {
		node.Stop()
	}
	if len(v.cluster.Nodes) == 1 {
		return v.first.Restart(ctx)
	}
	for _, node := range v.cluster.Nodes {
		if err := v.cluster.Rejoin(ctx, node); err != nil {
			return err
		}
	}
	return v.follow(ctx, nil)
}

// failOver makes another node the active one. If there is no other, a restart
// stands in for it.
func (v *vaults) failOver(ctx context.Context) error {
	if len(v.cluster.Nodes) == 1 {
		return v.restart(ctx)
	}
	if err := v.active.Expect(ctx, v.active.RootToken, "PUT", "sys/step-down", nil, http.StatusNoContent); err != nil {
		return err
	}
	return v.follow(ctx, v.active.Server)
}

// follow finds the active node.
func (v *vaults) follow(ctx context.Context, not *vaulttest.Server) error {
	leader, err := v.cluster.Leader(ctx, not)
	if err != nil {
		return err
	}
	active := *v.first
	active.Server = leader
	v.active = &active
	return nil
}

// must makes a request as root.
func (v *vaults) must(ctx context.Context, method, path string, body any) (*vaulttest.Response, error) {
	return v.active.Root().Must(ctx, method, path, body)
}

// issue issues a token as the application.
func (v *vaults) issue(ctx context.Context, role string) (*vaulttest.Issued, error) {
	return v.active.IssueAt(ctx, v.active.Client(v.active.App), vaulttest.MountPath, role, nil)
}

// introspect wants a token to be active.
func (v *vaults) introspect(ctx context.Context, token string) error {
	active, err := v.active.ActiveAt(ctx, vaulttest.MountPath, token)
	if err == nil && !active {
		err = fmt.Errorf("a token that should be active is not")
	}
	return err
}

// connections is how many requests are under way at once while something is
// prepared.
const connections = 32

// inParallel calls do with 0 to n-1 from several goroutines until one fails.
func inParallel(ctx context.Context, what string, goroutines, n int, do func(ctx context.Context, i int) error) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var next atomic.Int64
	var running sync.WaitGroup
	for g := range goroutines {
		running.Go(func() {
			for i := int(next.Add(1)) - 1; i < n && ctx.Err() == nil; i = int(next.Add(1)) - 1 {
				if err := do(ctx, i); err != nil {
					cancel(fmt.Errorf("%s: %w", what, err))
				}
				if g == 0 {
					report.Progress("%s: %d of %d", what, i, n)
				}
			}
		})
	}
	running.Wait()
	return context.Cause(ctx)
}

// spread is up to count of the tokens, evenly spread.
func spread(tokens []string, count int) []string {
	every := max(1, len(tokens)/count)
	var some []string
	for chunk := range slices.Chunk(tokens, every) {
		some = append(some, chunk[0])
	}
	return some[:min(count, len(some))]
}
