package tokenwatch

import (
	"net"
	"net/http"
	"os"
	"testing"
	"time"

	"github.com/vault-tokens/vault-plugin-secrets-tokens/test/vaulttest"
)

// watched is a Vault whose audit log is set up as for tokenwatch, with people
// who are not root.
type watched struct {
	*session
	operator, outsider string // Vault tokens
}

const (
	operatorPolicy = `
path "tokens/roles/*"  { capabilities = ["create", "read", "update", "patch", "delete"] }
path "tokens/config"   { capabilities = ["read", "update"] }
path "tokens/roles/+/revoke"    { capabilities = ["update"] }
path "tokens/entities/*" { capabilities = ["read", "update"] }
path "tokens/tidy"     { capabilities = ["update"] }
path "tokens/tidy/*"   { capabilities = ["read", "update"] }
path "tokens/tokens"   { capabilities = ["list"] }
path "tokens/tokens/*" { capabilities = ["read", "delete", "list"] }
path "tokens/keys/*"   { capabilities = ["create", "read", "update", "delete"] }
path "sys/leases/revoke/tokens/*" { capabilities = ["update"] }
path "sys/leases/revoke-prefix/tokens/*" { capabilities = ["update", "sudo"] }
path "sys/audit/*"     { capabilities = ["create", "update", "delete", "sudo"] }
path "sys/mounts/located" { capabilities = ["delete", "update"] }
`
	outsiderPolicy = `path "kv/*" { capabilities = ["read"] }`
	// located is a mount of which the audit log shows client addresses.
	located = "located"
)

func watch(t *testing.T) *watched {
	t.Helper()
	w := &watched{session: own(t, 5*time.Minute, vaulttest.Options{Audit: true})}
	if err := w.Enable(w.Ctx, located, nil); err != nil {
		t.Fatal(err)
	}
	w.SetUpAudit()
	w.Must("POST", "sys/mounts/"+located+"/tune", fields{
		"audit_non_hmac_request_keys":  []string{"client_ip"},
		"audit_non_hmac_response_keys": []string{"token_id", "token_type", "role", "client_id"},
	})
	var err error
	if w.operator, _, err = w.NewUser(w.Ctx, "operator", operatorPolicy); err != nil {
		t.Fatal(err)
	}
	if w.outsider, _, err = w.NewUser(w.Ctx, "outsider", outsiderPolicy); err != nil {
		t.Fatal(err)
	}
	for _, k := range vaulttest.TokenTypes {
		w.Role("watched-"+k.Name, k.RoleBody())
		w.at(located).Role("watched-"+k.Name, k.RoleBody().With(fields{"ttl": "10m"}))
	}
	w.Role("bound", vaulttest.APIKey.RoleBody().With(fields{"bound_cidrs": "10.0.0.0/8"}))
	return w
}

// segment is what the audit log gained while f ran.
func (w *watched) segment(f func()) []byte {
	w.T.Helper()
	before, err := os.Stat(w.AuditFile)
	if err != nil {
		w.T.Fatal(err)
	}
	f()
	raw, err := os.ReadFile(w.AuditFile) // Vault writes an entry before it answers
	if err != nil {
		w.T.Fatal(err)
	}
	return raw[before.Size():]
}

// from is a client whose requests come from another address of this machine.
func (w *watched) from(address, vaultToken string) *vaulttest.Client {
	dialer := &net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(address)}}
	client := &http.Client{Transport: &http.Transport{DialContext: dialer.DialContext, DisableKeepAlives: true}, Timeout: time.Minute}
	return &vaulttest.Client{HTTP: client, Addr: w.Addr, Token: vaultToken}
}

// attempt makes a request that may be refused.
func (w *watched) attempt(c *vaulttest.Client, method, path string, body any) {
	w.T.Helper()
	if _, err := c.Do(w.Ctx, method, path, body); err != nil {
		w.T.Fatal(err)
	}
}

// as makes requests that have to succeed.
func (w *watched) as(vaultToken, method, path string, body any) {
	w.T.Helper()
	if _, err := w.Client(vaultToken).Must(w.Ctx, method, path, body); err != nil {
		w.T.Fatal(err)
	}
}

// forAWhile calls f every now and then until the time has passed.
func (w *watched) forAWhile(length time.Duration, f func()) {
	end := time.NewTimer(length)
	defer end.Stop()
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	for {
		select {
		case <-end.C:
			return
		case <-w.Ctx.Done():
			w.T.Fatal(w.Ctx.Err())
		case <-tick.C:
			f()
		}
	}
}

func (w *watched) atMount(mount string) *watched {
	return &watched{w.at(mount), w.operator, w.outsider}
}
