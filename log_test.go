package tokens

import (
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/vault/sdk/logical"
)

func TestLogTellsTheEndOfEachTokenOnce(t *testing.T) {
	m := newMount(t).withRoles()
	m.must(logical.UpdateOperation, "roles/bearer", map[string]any{"generate_lease": false})
	unleased := m.must(logical.ReadOperation, "creds/bearer", nil).Data["token_id"].(string)
	possessed := m.must(logical.ReadOperation, "creds/jwt", nil)
	m.must(logical.UpdateOperation, "revoke", map[string]any{"token": possessed.Data["token"]})
	m.clock.Advance(16 * time.Minute)
	if err := m.revoke(possessed.Secret); err != nil {
		t.Fatal(err)
	}
	m.clock.Advance(26 * time.Hour) // past the margin within which the clock may be ahead
	for range 62 {
		m.periodic()
	}
	m.must(logical.DeleteOperation, "roles/never", nil)
	log := m.log.String()
	for text, want := range map[string]int{
		"token expired: token_id=" + unleased:                            1,
		"token revoked: token_id=" + possessed.Data["token_id"].(string): 1,
		"token expired: token_id=" + possessed.Data["token_id"].(string): 0,
		"role deleted": 0,
	} {
		if n := strings.Count(log, text); n != want {
			t.Errorf("%q is in the log %d times, want %d", text, n, want)
		}
	}
}
