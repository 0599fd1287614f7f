package web

import (
	"context"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/vault-tokens/vault-plugin-secrets-tokens/internal/tokenwatch"
)

type snapshot tokenwatch.Snapshot

func (s snapshot) Snapshot() tokenwatch.Snapshot { return tokenwatch.Snapshot(s) }

// servers has both, by the name that their errors begin with.
var servers = map[string]func(address string) (*Server, error){
	"page":    func(address string) (*Server, error) { return ListenPage(address, snapshot{}) },
	"metrics": func(address string) (*Server, error) { return ListenMetrics(address, snapshot{}, "v1", nil) },
}

func TestListensOnLoopbackUnlessTold(t *testing.T) {
	for address, loopback := range map[string]bool{":0": true, "127.0.0.1:0": true, "localhost:0": true, "0.0.0.0:0": false} {
		for name, listen := range servers {
			s, err := listen(address)
			if err != nil {
				t.Fatal(err)
			}
			_ = s.listener.Close()
			if s.Loopback() != loopback {
				t.Errorf("%s: %q listens on %s", name, address, s.URL())
			}
		}
	}
	for name, listen := range servers {
		if _, err := listen("8250"); err == nil || !strings.Contains(err.Error(), "host:port") || !strings.HasPrefix(err.Error(), name+": ") {
			t.Errorf("%s: an address without a port: %v", name, err)
		}
	}
}

func TestServeEndsWithItsContext(t *testing.T) {
	for name, path := range map[string]string{"page": "state.json", "metrics": "healthz"} {
		s, err := servers[name](":0")
		if err != nil {
			t.Fatal(err)
		}
		served := make(chan error, 1)
		ctx, cancel := context.WithCancel(t.Context())
		go func() { served <- s.Serve(ctx) }()
		resp, err := http.Get(s.URL() + path)
		if err != nil {
			t.Fatal(err)
		}
		if _ = resp.Body.Close(); resp.StatusCode != http.StatusOK {
			t.Errorf("%s: GET /%s answers %d", name, path, resp.StatusCode)
		}
		cancel()
		select {
		case err := <-served:
			if err != nil {
				t.Errorf("%s: %v", name, err)
			}
		case <-time.After(10 * time.Second):
			t.Fatalf("%s: Serve does not end", name)
		}
	}
}
