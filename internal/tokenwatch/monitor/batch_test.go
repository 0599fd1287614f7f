package monitor

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/vault-tokens/vault-plugin-secrets-tokens/internal/tokenwatch"
)

// batchLine is an entry of a batch of n guesses, each beside an item that the engine
// refused.
func batchLine(i, n int) string {
	input := strings.TrimSuffix(strings.Repeat(`{"client_ip":"hmac-sha256:c","token":"hmac-sha256:t"},{"x":1},`, n), ",")
	results := strings.TrimSuffix(strings.Repeat(`{"active":false},{"error":"hmac-sha256:e"},`, n), ",")
	return fmt.Sprintf(`{"auth":{"accessor":"hmac-sha256:a"},"request":{"data":{"batch_input":[%s]},"id":"b%d","mount_point":"tokens/","mount_type":"vault-plugin-secrets-tokens","operation":"update","path":"tokens/introspect","remote_address":"10.0.0.1"},"response":{"data":{"batch_results":[%s]}},"time":"%s","type":"response"}`+"\n",
		input, i, results, start.Format(time.RFC3339Nano))
}

// Tokens in batches are watched like others: each is counted, and guesses raise the
// alerts that they raise one by one.
func TestBatchCountsByItem(t *testing.T) {
	m := open(t, "")
	defer finish(t, m)
	var alerts []string
	m.opts.OnAlert = func(a tokenwatch.Alert) { alerts = append(alerts, a.Rule) }
	handle(t, m, batchLine(1, 500), batchLine(2, 5))
	s := m.Snapshot()
	if s.Lines != 2 || s.Malformed != 0 {
		t.Errorf("%d lines, %d malformed", s.Lines, s.Malformed)
	}
	counted := map[string]int64{}
	for _, e := range s.Events {
		counted[e.Kind+" "+e.Outcome] = e.Count
	}
	if len(counted) != 2 || counted["introspect inactive"] != 505 || counted["introspect invalid"] != 505 {
		t.Errorf("counted %v", counted)
	}
	m.deduper.flushAll()
	if got := strings.Join(alerts, " "); !strings.Contains(got, "inactive_burst") || !strings.Contains(got, "failed_access") {
		t.Errorf("alerts: %s", got)
	}
}
