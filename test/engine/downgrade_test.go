package engine

import (
	"encoding/json"
	"net/http"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/vault-tokens/vault-plugin-secrets-tokens/test/suite"
	"github.com/vault-tokens/vault-plugin-secrets-tokens/test/vaulttest"
)

// olderBuild is the oldest one that has a format in all entries, and refuses those
// of a newer one.
const olderBuild = "8ae5c07"

// An older build does not ignore what it does not know of: it refuses the entries, and
// nothing else. The newer one then finds all as it left it.
func TestDowngradeDropsNoRestriction(t *testing.T) {
	suite.Commit(t, olderBuild)
	s := own(t, 3*time.Minute, vaulttest.Options{Audit: true})
	older, _, err := vaulttest.BuildRevision(s.Ctx, t.TempDir(), olderBuild)
	if err != nil {
		t.Fatal(err)
	}
	const api = "https://orders.example.com"
	jwt := fields{"token_type": "jwt", "audiences": api}
	s.Must("POST", "tokens/keys/limited", fields{"allowed_audiences": api})
	s.Role("limited", jwt.With(fields{"key": "limited"}))
	s.Role("jwt", jwt)
	s.Role("bearer", fields{"token_type": "bearer", "allowed_scopes": "orders:read", "default_scopes": "orders:read"})
	issued := []*issued{s.Issue("limited", nil), s.Issue("jwt", nil), s.Issue("bearer", nil)}
	before := s.everything("tokens/config", "tokens/keys/limited", "tokens/keys/default", "tokens/roles/limited", "tokens/roles/jwt", "tokens/roles/bearer")

	s.serveWith(older)
	for _, key := range []string{"limited", "default"} {
		if shown := s.Must("GET", "tokens/keys/"+key, nil); !strings.Contains(shown.String("last_error"), "newer version of the plugin") {
			t.Errorf("the older build shows of key %s: %s", key, shown.Raw)
		}
	}
	for _, refused := range []struct {
		method, path string
		body         any
	}{
		{"GET", "creds/limited", nil},
		{"GET", "creds/jwt", nil},
		{"POST", "keys/limited", fields{"rotation_period": "24h"}},
		{"POST", "keys/limited", fields{"algorithm": "ES256", "allowed_roles": "*"}},
		{"POST", "keys/limited/rotate", fields{"force": true}},
		{"POST", "keys/limited/rotate-emergency", nil},
		{"POST", "roles/jwt", fields{"ttl": "1m"}},
	} {
		resp := s.Answers(http.StatusBadRequest, refused.method, "tokens/"+refused.path, refused.body)
		if !strings.Contains(strings.Join(resp.Errors(), " "), "newer version of the plugin") {
			t.Errorf("%s %s: %s", refused.method, refused.path, resp.Raw)
		}
	}
	for _, token := range issued {
		resp, err := s.Root().Do(s.Ctx, "POST", "tokens/introspect", fields{"token": token.Data.Token})
		if err != nil {
			t.Fatal(err)
		}
		if resp.Status == http.StatusOK && resp.Data()["active"] != false {
			t.Errorf("the older build says of a %s: %s", token.Data.TokenType, resp.Raw)
		}
	}
	// What it stores itself, and what it can read, works.
	s.Must("POST", "tokens/keys/older", nil)
	s.Role("older", jwt.With(fields{"key": "older"}))
	issued = append(issued, s.Issue("older", nil), s.Issue("bearer", nil))
	for _, token := range issued[3:] {
		s.WantActive(token)
	}

	s.serveWith(s.Plugin)
	for path, was := range before {
		if is := s.everything(path)[path]; is != was {
			t.Errorf("%s is\n%s, and was\n%s", path, is, was)
		}
	}
	for _, token := range issued {
		s.WantActive(token)
	}
	for _, role := range []string{"limited", "jwt", "older", "bearer"} {
		s.WantActive(s.Issue(role, nil))
	}
}

// everything reads paths.
func (s *session) everything(paths ...string) map[string]string {
	s.T.Helper()
	read := map[string]string{}
	for _, path := range paths {
		data, err := json.Marshal(s.Must("GET", path, nil).Data())
		if err != nil {
			s.T.Fatal(err)
		}
		read[path] = string(data)
	}
	return read
}

// serveWith has another build of the plugin serve its mounts.
func (s *session) serveWith(plugin *vaulttest.Plugin) {
	s.T.Helper()
	command := vaulttest.PluginName
	if plugin != s.Plugin {
		command += "-" + s.T.Name()
		if err := plugin.InstallAs(filepath.Join(s.Plugin.Dir, command)); err != nil {
			s.T.Fatal(err)
		}
	}
	s.Must("PUT", "sys/plugins/catalog/secret/"+vaulttest.PluginName, fields{"sha256": plugin.SHA256, "command": command})
	s.Must("PUT", "sys/plugins/reload/backend", fields{"plugin": vaulttest.PluginName})
}
