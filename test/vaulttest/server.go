// Package vaulttest runs real Vault servers, with the engine's plugin in a
// process of its own as in production, for tests and benchmarks.
package vaulttest

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/vault-tokens/vault-plugin-secrets-tokens/test/suite"
)

// MountPath is where Start enables the engine.
const MountPath = "tokens"

const (
	startLimit = 60 * time.Second // on a loaded machine with two cores
	stopGrace  = 15 * time.Second
)

// Options say which server to start.
type Options struct {
	Vault    string  // the server's binary
	Plugin   *Plugin // nil: no engine
	Raft     bool    // else in memory, which a restart empties
	TLS      bool    // with a certificate that the client verifies
	Audit    bool    // a file audit device
	LogLevel string  // empty: trace
	// Metrics makes /v1/sys/metrics name gauges without the host's name.
	Metrics bool
	// RawStorage enables sys/raw, which shows the whole storage in clear.
	RawStorage bool
	// Env is added to the server's environment, which its plugins inherit.
	Env []string
}

// Server is one Vault process and its files.
type Server struct {
	Options
	Addr      string
	RootToken string
	AuditFile string // written when Options.Audit
	LogFile   string // stdout and stderr of Vault and of its plugins
	CAFile    string // empty without TLS

	dir         string
	nodeID      string
	clusterAddr string
	unsealKey   string
	tls         *identity
	http        *http.Client
	proc        *process
	onClose     []func()
}

// OnClose has f called when the server is closed.
func (s *Server) OnClose(f func()) { s.onClose = append(s.onClose, f) }

// Start runs a server and makes it ready: initialised, unsealed, audited and
// with the engine enabled. Close it whatever happens next.
func Start(ctx context.Context, opts Options) (*Server, error) {
	ctx, cancel := context.WithTimeout(ctx, startLimit)
	defer cancel()
	s, err := newServer(opts, "node0", nil)
	if err != nil {
		return nil, err
	}
	if err := s.bootstrap(ctx); err != nil {
		err = fmt.Errorf("%w\n%s", err, s.LogTail(30))
		s.Close()
		return nil, err
	}
	return s, nil
}

func newServer(opts Options, nodeID string, id *identity) (*Server, error) {
	dir, err := os.MkdirTemp("", "vaulttest-")
	if err != nil {
		return nil, err
	}
	s := &Server{
		Options:   opts,
		AuditFile: filepath.Join(dir, "audit.log"),
		LogFile:   filepath.Join(dir, "vault.log"),
		dir:       dir,
		nodeID:    nodeID,
		tls:       id,
	}
	if err := s.prepare(); err != nil {
		_ = os.RemoveAll(dir)
		return nil, err
	}
	return s, nil
}

// prepare chooses addresses and writes the files that the server reads.
func (s *Server) prepare() error {
	ports, err := suite.Ports(2)
	if err != nil {
		return err
	}
	scheme := "http"
	if s.TLS {
		scheme = "https"
		if s.tls == nil {
			if s.tls, err = newIdentity(); err != nil {
				return err
			}
		}
		s.CAFile = s.path("ca.pem")
		if err := s.tls.write(s.CAFile, s.path("key.pem")); err != nil {
			return err
		}
	}
	s.Addr = fmt.Sprintf("%s://127.0.0.1:%d", scheme, ports[0])
	s.clusterAddr = fmt.Sprintf("https://127.0.0.1:%d", ports[1])
	s.http = newHTTPClient(s.tls)
	if err := os.Mkdir(s.path("data"), 0o700); err != nil {
		return err
	}
	config, err := json.MarshalIndent(s.config(), "", "  ")
	if err != nil {
		return err
	}
	return os.WriteFile(s.path("vault.json"), config, 0o600)
}

func (s *Server) path(name string) string { return filepath.Join(s.dir, name) }

func (s *Server) config() map[string]any {
	listener := map[string]any{
		"address":         hostPort(s.Addr),
		"cluster_address": hostPort(s.clusterAddr), // else the port after the first
		"tls_disable":     !s.TLS,
	}
	if s.TLS {
		listener["tls_cert_file"], listener["tls_key_file"] = s.CAFile, s.path("key.pem")
	}
	storage := map[string]any{"inmem": map[string]any{}}
	if s.Raft {
		storage = map[string]any{"raft": map[string]any{
			"path": s.path("data"), "node_id": s.nodeID,
			"performance_multiplier":       "1", // elections in about a second
			"autopilot_reconcile_interval": "500ms",
			"autopilot_update_interval":    "500ms",
		}}
	}
	level := s.LogLevel
	if level == "" {
		level = "trace"
	}
	config := map[string]any{
		"storage":       storage,
		"listener":      []any{map[string]any{"tcp": listener}},
		"api_addr":      s.Addr,
		"cluster_addr":  s.clusterAddr,
		"disable_mlock": true,
		"log_level":     level,
	}
	if s.Metrics {
		config["telemetry"] = map[string]any{"prometheus_retention_time": "1h", "disable_hostname": true}
	}
	if s.RawStorage {
		config["raw_storage_endpoint"] = true
	}
	if s.Plugin != nil {
		config["plugin_directory"] = s.Plugin.Dir
	}
	return config
}

func hostPort(addr string) string {
	_, after, _ := strings.Cut(addr, "://")
	return after
}

// bootstrap takes a new server from nothing to ready.
func (s *Server) bootstrap(ctx context.Context) error {
	if err := s.launch(ctx); err != nil {
		return err
	}
	if err := s.initialize(ctx); err != nil {
		return err
	}
	if err := s.unseal(ctx); err != nil {
		return err
	}
	if err := s.awaitActive(ctx); err != nil {
		return err
	}
	if s.Audit {
		if _, err := s.Root().Must(ctx, "PUT", "sys/audit/file", map[string]any{
			"type": "file", "options": map[string]any{"file_path": s.AuditFile},
		}); err != nil {
			return err
		}
	}
	if s.Plugin == nil {
		return nil
	}
	if _, err := s.Root().Must(ctx, "PUT", "sys/plugins/catalog/secret/"+PluginName, map[string]any{
		"sha256": s.Plugin.SHA256, "command": PluginName,
	}); err != nil {
		return err
	}
	return s.Enable(ctx, MountPath, nil)
}

// Enable mounts the engine at path. config is the mount's, e.g. max_lease_ttl.
func (s *Server) Enable(ctx context.Context, path string, config map[string]any) error {
	body := map[string]any{"type": PluginName}
	if config != nil {
		body["config"] = config
	}
	_, err := s.Root().Must(ctx, "POST", "sys/mounts/"+path, body)
	return err
}

// launch starts the process and waits until it answers.
func (s *Server) launch(ctx context.Context) error {
	log, err := os.OpenFile(s.LogFile, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer log.Close()
	cmd := exec.Command(s.Vault, "server", "-config="+s.path("vault.json"))
	cmd.Env = append(cleanEnv(), s.Env...)
	cmd.Dir = s.dir
	if s.proc, err = startProcess(cmd, log); err != nil {
		return err
	}
	if err := suite.Poll(ctx, startLimit, func() (bool, error) {
		if s.proc.exited() {
			return true, nil // waiting on would be in vain
		}
		resp, err := s.client("").Do(ctx, "GET", "sys/seal-status", nil)
		return err == nil && resp.Status == http.StatusOK, err
	}); err != nil {
		return err
	}
	if s.proc.exited() {
		return errors.New("vault ended right after its start")
	}
	return nil
}

// cleanEnv is the environment without Vault settings of the person who runs
// the tests: they would point the server at something of theirs.
func cleanEnv() []string {
	var env []string
	for _, kv := range os.Environ() {
		if !strings.HasPrefix(kv, "VAULT_") && !strings.HasPrefix(kv, "BAO_") {
			env = append(env, kv)
		}
	}
	return env
}

func (s *Server) initialize(ctx context.Context) error {
	resp, err := s.client("").Must(ctx, "PUT", "sys/init", map[string]any{"secret_shares": 1, "secret_threshold": 1})
	if err != nil {
		return err
	}
	var out struct {
		Keys      []string `json:"keys_base64"`
		RootToken string   `json:"root_token"`
	}
	if err := json.Unmarshal(resp.Raw, &out); err != nil {
		return fmt.Errorf("sys/init: %w", err)
	}
	if len(out.Keys) != 1 || out.RootToken == "" {
		return errors.New("sys/init: no key or no root token in the answer")
	}
	s.unsealKey, s.RootToken = out.Keys[0], out.RootToken
	return nil
}

func (s *Server) unseal(ctx context.Context) error {
	_, err := s.client("").Must(ctx, "PUT", "sys/unseal", map[string]any{"key": s.unsealKey})
	return err
}

// Unseal unseals a sealed server and waits until it is active.
func (s *Server) Unseal(ctx context.Context) error {
	if err := s.unseal(ctx); err != nil {
		return err
	}
	return s.awaitActive(ctx)
}

// awaitActive waits until the node is unsealed and the active one.
func (s *Server) awaitActive(ctx context.Context) error {
	return s.awaitHealth(ctx, http.StatusOK)
}

// awaitHealth waits for a status of sys/health (200 active, 429 standby).
func (s *Server) awaitHealth(ctx context.Context, statuses ...int) error {
	return suite.Poll(ctx, startLimit, func() (bool, error) {
		resp, err := s.client("").Do(ctx, "GET", "sys/health", nil)
		if err != nil {
			return false, err
		}
		for _, status := range statuses {
			if resp.Status == status {
				return true, nil
			}
		}
		return false, fmt.Errorf("sys/health: %d, waiting for %v", resp.Status, statuses)
	})
}

// Root is a client with the root token.
func (s *Server) Root() *Client { return s.client(s.RootToken) }

// Anonymous is a client without a token.
func (s *Server) Anonymous() *Client { return s.client("") }

// Client is a client with token.
func (s *Server) Client(token string) *Client { return s.client(token) }

func (s *Server) client(token string) *Client {
	return &Client{HTTP: s.http, Addr: s.Addr, Token: token}
}

// NewToken creates a token that has policy (HCL) and nothing else. kind is
// "service" or "batch"; ttl a duration such as "1h".
func (s *Server) NewToken(ctx context.Context, name, policy, kind, ttl string) (string, error) {
	if _, err := s.Root().Must(ctx, "PUT", "sys/policies/acl/"+name, map[string]any{"policy": policy}); err != nil {
		return "", err
	}
	resp, err := s.Root().Must(ctx, "POST", "auth/token/create-orphan", map[string]any{
		"policies": []string{name}, "no_default_policy": true, "type": kind, "ttl": ttl, "display_name": name,
	})
	if err != nil {
		return "", err
	}
	auth, _ := resp.Body["auth"].(map[string]any)
	token, _ := auth["client_token"].(string)
	if token == "" {
		return "", errors.New("auth/token/create-orphan: no client_token in the answer")
	}
	return token, nil
}

// NewUser enables userpass and logs in as a user with policy (HCL): a token
// with an entity, as applications have.
func (s *Server) NewUser(ctx context.Context, name, policy string) (token, entityID string, err error) {
	root := s.Root()
	if _, err := root.Must(ctx, "PUT", "sys/policies/acl/"+name, map[string]any{"policy": policy}); err != nil {
		return "", "", err
	}
	mounts, err := root.Must(ctx, "GET", "sys/auth", nil)
	if err != nil {
		return "", "", err
	}
	if _, enabled := mounts.Data()["userpass/"]; !enabled {
		if _, err := root.Must(ctx, "POST", "sys/auth/userpass", map[string]any{"type": "userpass"}); err != nil {
			return "", "", err
		}
	}
	const password = "correct horse battery staple"
	if _, err := root.Must(ctx, "POST", "auth/userpass/users/"+name, map[string]any{
		"password": password, "token_policies": []string{name}, "token_ttl": "8h",
	}); err != nil {
		return "", "", err
	}
	resp, err := s.Anonymous().Must(ctx, "POST", "auth/userpass/login/"+name, map[string]any{"password": password})
	if err != nil {
		return "", "", err
	}
	auth, _ := resp.Body["auth"].(map[string]any)
	token, _ = auth["client_token"].(string)
	entityID, _ = auth["entity_id"].(string)
	if token == "" || entityID == "" {
		return "", "", errors.New("userpass login: no token or no entity in the answer")
	}
	return token, entityID, nil
}

// PluginPIDs lists the plugin processes of the server.
func (s *Server) PluginPIDs() ([]int, error) { return s.proc.groupMembers() }

// PluginMiB is the resident memory of the server's plugin processes in MiB.
func (s *Server) PluginMiB() (sum float64, err error) {
	pids, err := s.PluginPIDs()
	if err == nil && len(pids) == 0 {
		err = errNoPlugin
	}
	for _, pid := range pids {
		mib, errOne := ResidentMiB(pid)
		sum, err = sum+mib, errors.Join(err, errOne)
	}
	return sum, err
}

// KillPlugin ends the plugin's processes with SIGKILL. Vault starts new ones
// when the next request needs them.
func (s *Server) KillPlugin() error {
	pids, err := s.PluginPIDs()
	if err != nil {
		return err
	}
	if len(pids) == 0 {
		return errNoPlugin
	}
	for _, pid := range pids {
		if err := syscall.Kill(pid, syscall.SIGKILL); err != nil && !errors.Is(err, syscall.ESRCH) {
			return fmt.Errorf("kill %d: %w", pid, err)
		}
	}
	return nil
}

// Kill ends Vault and its plugins without warning.
func (s *Server) Kill() {
	s.proc.kill()
	s.http.CloseIdleConnections()
}

// Stop ends Vault in order; its data stay for Restart.
func (s *Server) Stop() {
	s.proc.stop(stopGrace)
	s.http.CloseIdleConnections()
}

// Restart starts a stopped or killed server on the same data and addresses,
// and waits until it is unsealed and active.
func (s *Server) Restart(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, startLimit)
	defer cancel()
	if err := s.rejoin(ctx); err != nil {
		return err
	}
	return s.awaitActive(ctx)
}

// rejoin is Restart for a node of a cluster, which need not become active.
func (s *Server) rejoin(ctx context.Context) error {
	if err := s.launch(ctx); err != nil {
		return err
	}
	return s.unseal(ctx)
}

// Close ends the server and removes its files, unless $VAULTTEST_KEEP is set.
// It may be called twice.
func (s *Server) Close() {
	if s.proc != nil {
		s.proc.kill() // nothing here is worth an orderly end
	}
	s.http.CloseIdleConnections()
	if os.Getenv("VAULTTEST_KEEP") == "" {
		_ = os.RemoveAll(s.dir)
	}
	for _, f := range s.onClose {
		f()
	}
	s.onClose = nil
}

// SetUpAudit runs the script by which operators set up the audit log.
func (s *Server) SetUpAudit(ctx context.Context) error {
	cmd := exec.CommandContext(ctx, filepath.Join(suite.Repository(), "scripts", "setup-audit.sh"), "-m", MountPath, s.AuditFile)
	cmd.Env = s.CLIEnv()
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("setup-audit.sh: %w\n%s", err, out)
	}
	return nil
}

// CLIEnv is the environment in which the vault command reaches the server.
func (s *Server) CLIEnv() []string {
	env := append(cleanEnv(), "VAULT_ADDR="+s.Addr, "VAULT_TOKEN="+s.RootToken, "VAULT_BIN="+s.Vault)
	if s.CAFile != "" {
		env = append(env, "VAULT_CACERT="+s.CAFile)
	}
	return env
}

// LogTail is the end of the server's log, for failures; without the trace
// level, which has several lines for every request.
func (s *Server) LogTail(lines int) string {
	raw, err := os.ReadFile(s.LogFile)
	if err != nil {
		return err.Error()
	}
	var all []string
	for line := range strings.Lines(string(raw)) {
		if !strings.Contains(line, " [TRACE] ") {
			all = append(all, strings.TrimSuffix(line, "\n"))
		}
	}
	if len(all) > lines {
		all = all[len(all)-lines:]
	}
	return strings.Join(all, "\n")
}

// newHTTPClient keeps many connections alive and follows no redirect: a test
// wants to see what Vault answered.
func newHTTPClient(id *identity) *http.Client {
	t := &http.Transport{MaxIdleConns: 2048, MaxIdleConnsPerHost: 2048, IdleConnTimeout: time.Minute}
	if id != nil {
		pool := x509.NewCertPool()
		pool.AppendCertsFromPEM(id.certPEM)
		t.TLSClientConfig = &tls.Config{RootCAs: pool, MinVersion: tls.VersionTLS12}
	}
	return &http.Client{
		Transport:     t,
		Timeout:       100 * time.Second, // a little more than Vault's own limit
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
}
