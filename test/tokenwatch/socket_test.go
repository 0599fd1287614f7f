package tokenwatch

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/vault-tokens/vault-plugin-secrets-tokens/test/suite"
)

// TestSocket has a real Vault write to a tokenwatch that listens, over TCP
// and over a unix socket.
func TestSocket(t *testing.T) {
	w := watch(t)
	for _, kind := range []string{"tcp", "unix"} {
		t.Run(kind, func(t *testing.T) {
			w := &watched{w.sub(t), w.operator, w.outsider}
			dir := t.TempDir()
			url, address := "tcp://127.0.0.1:0", ""
			if kind == "unix" {
				address = filepath.Join(dir, "sock")
				url = "unix://" + address
			}
			alerts := filepath.Join(dir, "alerts")
			suite.Write(t, dir, "tokenwatch.yaml", "sinks: {terminal: {enabled: false}, json: [{file: "+alerts+"}]}\n")
			tokenwatch := follow(t, w.Ctx, "-socket", url, "-config", filepath.Join(dir, "tokenwatch.yaml"))
			address = tokenwatch.logged(`msg="listening for a socket audit device" address=(\S+)`)
			w.Must("PUT", "sys/audit/"+kind, fields{"type": "socket", "options": fields{"address": address, "socket_type": kind}})
			for i := range 25 {
				w.Introspect("vtk_guess"+strings.Repeat("x", i), nil)
			}
			await(w, func() bool {
				said, err := os.Open(alerts)
				if err != nil {
					return false
				}
				defer said.Close()
				found := ofRule(readAlerts(t, said), "inactive_burst")
				return len(found) > 0 && found[0].Count == 20
			})
			w.Must("DELETE", "sys/audit/"+kind, nil)
		})
	}
}

func await(w *watched, done func() bool) {
	w.T.Helper()
	if err := suite.Poll(w.Ctx, 30*time.Second, func() (bool, error) { return done(), nil }); err != nil {
		w.T.Fatal(err)
	}
}
