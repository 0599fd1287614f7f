package vaulttest

import (
	"context"
	"errors"
	"fmt"
	"net/http"

	"github.com/vault-tokens/vault-plugin-secrets-tokens/test/suite"
)

// Cluster is a raft cluster on the loopback interface.
type Cluster struct{ Nodes []*Server }

// StartCluster runs n nodes; the first one is the leader. Close it whatever
// happens next.
func StartCluster(ctx context.Context, n int, opts Options) (*Cluster, error) {
	ctx, cancel := context.WithTimeout(ctx, 2*startLimit)
	defer cancel()
	opts.Raft = true
	c := &Cluster{}
	for i := range n {
		var id *identity
		if i > 0 {
			id = c.Nodes[0].tls // one certificate, so that the nodes trust each other
		}
		node, err := newServer(opts, fmt.Sprintf("node%d", i), id)
		if err != nil {
			c.Close()
			return nil, err
		}
		c.Nodes = append(c.Nodes, node)
		if err := c.join(ctx, node); err != nil {
			err = fmt.Errorf("%s: %w\n%s", node.nodeID, err, node.LogTail(30))
			c.Close()
			return nil, err
		}
	}
	return c, c.awaitVoters(ctx)
}

func (c *Cluster) join(ctx context.Context, node *Server) error {
	first := c.Nodes[0]
	if node == first {
		if err := node.bootstrap(ctx); err != nil {
			return err
		}
		// A new node gets its vote after this long; the default is 10 s.
		_, err := node.Root().Must(ctx, "POST", "sys/storage/raft/autopilot/configuration", map[string]any{
			"server_stabilization_time": "500ms",
		})
		return err
	}
	node.unsealKey, node.RootToken = first.unsealKey, first.RootToken
	node.AuditFile = first.AuditFile // a setting of the cluster, not of a node
	if err := node.launch(ctx); err != nil {
		return err
	}
	body := map[string]any{"leader_api_addr": first.Addr}
	if first.tls != nil {
		body["leader_ca_cert"] = string(first.tls.certPEM)
	}
	if _, err := node.Anonymous().Must(ctx, "POST", "sys/storage/raft/join", body); err != nil {
		return err
	}
	if err := node.unseal(ctx); err != nil {
		return err
	}
	return node.awaitHealth(ctx, http.StatusTooManyRequests)
}

// awaitVoters waits until every node has a vote: before, losing the leader
// could leave no majority.
func (c *Cluster) awaitVoters(ctx context.Context) error {
	return suite.Poll(ctx, startLimit, func() (bool, error) {
		resp, err := c.Nodes[0].Root().Must(ctx, "GET", "sys/storage/raft/configuration", nil)
		if err != nil {
			return false, err
		}
		config, _ := resp.Data()["config"].(map[string]any)
		servers, _ := config["servers"].([]any)
		voters := 0
		for _, s := range servers {
			if server, _ := s.(map[string]any); server["voter"] == true {
				voters++
			}
		}
		return voters == len(c.Nodes), fmt.Errorf("%d of %d nodes have a vote", voters, len(c.Nodes))
	})
}

// Leader waits until a node other than not is active, and returns it.
func (c *Cluster) Leader(ctx context.Context, not *Server) (*Server, error) {
	var leader *Server
	err := suite.Poll(ctx, startLimit, func() (bool, error) {
		for _, node := range c.Nodes {
			if node == not || node.proc.exited() {
				continue
			}
			resp, err := node.Anonymous().Do(ctx, "GET", "sys/health", nil)
			if err == nil && resp.Status == http.StatusOK {
				leader = node
				return true, nil
			}
		}
		return false, errors.New("no active node")
	})
	return leader, err
}

// Rejoin starts a node that was killed or stopped, and waits until it is a
// standby or the leader.
func (c *Cluster) Rejoin(ctx context.Context, node *Server) error {
	if err := node.rejoin(ctx); err != nil {
		return err
	}
	return node.awaitHealth(ctx, http.StatusOK, http.StatusTooManyRequests)
}

// Close ends all nodes and removes their files.
func (c *Cluster) Close() {
	for _, node := range c.Nodes {
		node.Close()
	}
}
