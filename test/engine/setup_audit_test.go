package engine

import (
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/vault-tokens/vault-plugin-secrets-tokens/test/suite"
	"github.com/vault-tokens/vault-plugin-secrets-tokens/test/vaulttest"
)

// refusesAudit stands in for a server that enables no audit device through the
// API, as OpenBao does since 2.3.2. It answers what scripts/setup-audit.sh asks.
type refusesAudit struct {
	devices map[string]map[string]string // options by path: what the configuration declares
	refusal string
	title   string // of the server's API description

	mu      sync.Mutex
	tuned   map[string]any // the last tuning of the mount
	enabled []string       // paths of the devices that somebody tried to enable
}

func (s *refusesAudit) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	defer s.mu.Unlock()
	write := r.Method == http.MethodPut || r.Method == http.MethodPost
	switch path := strings.TrimPrefix(r.URL.Path, "/v1/"); {
	case path == "sys/mounts/tokens/tune" && write:
		if err := json.NewDecoder(r.Body).Decode(&s.tuned); err != nil {
			reply(w, http.StatusBadRequest, map[string]any{"errors": []string{err.Error()}})
			return
		}
		w.WriteHeader(http.StatusNoContent)
	case path == "sys/mounts/tokens/tune":
		reply(w, http.StatusOK, map[string]any{"data": map[string]any{"audit_non_hmac_request_keys": []string{"by_hand"}}})
	case path == "sys/audit":
		data := map[string]any{}
		for device, options := range s.devices {
			data[device] = map[string]any{"path": device, "type": "file", "description": "", "local": false, "options": options}
		}
		reply(w, http.StatusOK, map[string]any{"data": data})
	case strings.HasPrefix(path, "sys/audit/") && write:
		s.enabled = append(s.enabled, strings.TrimPrefix(path, "sys/audit/"))
		reply(w, http.StatusBadRequest, map[string]any{"errors": []string{s.refusal}})
	case path == "sys/internal/specs/openapi":
		reply(w, http.StatusOK, map[string]any{"openapi": "3.0.2", "info": map[string]any{"title": s.title}})
	default:
		reply(w, http.StatusNotFound, map[string]any{"errors": []string{}})
	}
}

func reply(w http.ResponseWriter, status int, body any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(body) // a caller that has gone gets no answer
}

// auditStanza is what the script tells operators of OpenBao to write.
const auditStanza = `audit "file" "file" {
  options {
    file_path = "/var/log/vault/audit.log"
  }
}
`

// TestSetUpAuditOfOpenBao runs scripts/setup-audit.sh against a stand-in for a
// server of OpenBao, through the real CLI.
func TestSetUpAuditOfOpenBao(t *testing.T) {
	const file = "/var/log/vault/audit.log"
	const refusal = "cannot enable audit device via API; use declarative, config-based audit device management instead"
	for name, tc := range map[string]struct {
		server *refusesAudit
		file   string   // "": the one above
		fails  bool     // and so prints what to declare, unless plain
		plain  bool     // it is no OpenBao
		says   []string // in what it prints
	}{
		"nothing is declared": {
			server: &refusesAudit{refusal: refusal},
			fails:  true, says: []string{refusal, auditStanza, "SIGHUP", "tokens/ is tuned"},
		},
		"OpenBao 2.3.2": {
			server: &refusesAudit{refusal: "cannot enable audit device via API"},
			fails:  true, says: []string{auditStanza},
		},
		"a device under any name is declared": {
			server: &refusesAudit{refusal: refusal, devices: map[string]map[string]string{
				"to-stdout/": {"file_path": "stdout"}, "to-file/": {"file_path": file, "mode": "0640"},
			}},
			says: []string{"Audit device to-file/ writes to " + file + " already."},
		},
		"a device elsewhere is declared": {
			server: &refusesAudit{refusal: refusal, devices: map[string]map[string]string{"to-file/": {"file_path": file + ".old"}}},
			fails:  true, says: []string{auditStanza},
		},
		"standard output is declared": {
			server: &refusesAudit{refusal: refusal, devices: map[string]map[string]string{"to-stdout/": {"file_path": "/dev/stdout"}}},
			file:   "stdout", says: []string{"Audit device to-stdout/ writes to stdout already."},
		},
		"a device with tokens in clear is declared": {
			server: &refusesAudit{refusal: refusal, devices: map[string]map[string]string{"to-file/": {"file_path": file, "log_raw": "true"}}},
			fails:  true, plain: true, says: []string{"to-file/ has log_raw=true"},
		},
		"a device with log_raw=false is declared": {
			server: &refusesAudit{refusal: refusal, devices: map[string]map[string]string{"to-file/": {"file_path": file, "log_raw": "false"}}},
			says:   []string{"Audit device to-file/ writes to " + file + " already."},
		},
		"a refusal in other words": {
			server: &refusesAudit{refusal: "not here", title: "OpenBao API"},
			fails:  true, says: []string{"not here", auditStanza},
		},
		"a refusal of Vault": {
			server: &refusesAudit{refusal: "sanity check failed; unable to open", title: "HashiCorp Vault API"},
			fails:  true, plain: true, says: []string{"sanity check failed; unable to open"},
		},
	} {
		t.Run(name, func(t *testing.T) {
			server := tc.server
			web := httptest.NewServer(server)
			defer web.Close()
			if tc.file == "" {
				tc.file = file
			}
			out, err := setUpAuditAt(t, web.URL, tc.file)
			if (err != nil) != tc.fails {
				t.Fatalf("fails: %v, want %v\n%s", err, tc.fails, out)
			}
			for _, want := range tc.says {
				if !strings.Contains(out, want) {
					t.Errorf("%q is missing in\n%s", want, out)
				}
			}
			if stanza := strings.Contains(out, "audit \"file\""); stanza != (tc.fails && !tc.plain) {
				t.Errorf("says what to declare: %v\n%s", stanza, out)
			}
			tuned, err := json.Marshal(server.tuned)
			if err != nil {
				t.Fatal(err)
			}
			for _, want := range []string{`"token_id"`, `"by_hand"`, `"If-None-Match"`} {
				if !strings.Contains(string(tuned), want) {
					t.Errorf("the mount is tuned to %s, without %s", tuned, want)
				}
			}
			if tried := len(server.enabled) > 0; !tc.fails && tried {
				t.Errorf("tried to enable %v beside the device that is declared", server.enabled)
			}
		})
	}
}

// setUpAuditAt runs the script where the only CLI on PATH is called bao.
func setUpAuditAt(t *testing.T, address, file string) (string, error) {
	t.Helper()
	vault, err := vaulttest.VaultBinary(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	bin := t.TempDir()
	symlink(t, vault, filepath.Join(bin, "bao"))
	for _, name := range []string{"bash", "awk", "cat", "grep", "sed", "sort"} {
		path, err := exec.LookPath(name)
		if err != nil {
			t.Fatal(err)
		}
		symlink(t, path, filepath.Join(bin, name))
	}
	cmd := exec.CommandContext(t.Context(), filepath.Join(bin, "bash"), filepath.Join(suite.Repository(), "scripts", "setup-audit.sh"), file)
	cmd.Env = []string{"PATH=" + bin, "HOME=" + t.TempDir(), "VAULT_ADDR=" + address, "VAULT_TOKEN=root"}
	out, err := cmd.CombinedOutput()
	return string(out), err
}

func symlink(t *testing.T, to, at string) {
	t.Helper()
	if err := os.Symlink(to, at); err != nil {
		t.Fatal(err)
	}
}
