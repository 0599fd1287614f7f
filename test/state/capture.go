package main

import (
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/vault-tokens/vault-plugin-secrets-tokens/test/vaulttest"
)

// clientIP is within the networks of every role that is bound to some.
const clientIP = "10.1.2.3"

// fixture is what is written.
type fixture struct {
	Made     time.Time `json:"made"` // after the last answer
	Build    build     `json:"build"`
	ClientIP string    `json:"client_ip"` // that introspections named
	// Storage is all of the mount's, by key.
	Storage map[string]json.RawMessage `json:"storage"`
	// Reads are answers by path, of a list if the path ends in a slash.
	Reads  map[string]json.RawMessage `json:"reads"`
	Tokens []*token                   `json:"tokens"`
	// Checks are introspections of live tokens that ask for more.
	Checks []check `json:"checks"`
}

type build struct {
	Version string `json:"version"`
	Commit  string `json:"commit"`
	Vault   string `json:"vault"`
}

type check struct {
	Request object `json:"request"`
	Answer  object `json:"answer"`
}

// capture reads what the engine answers and what it has stored.
func capture(s *session) (*fixture, error) {
	f := &fixture{ClientIP: clientIP, Tokens: s.tokens, Reads: map[string]json.RawMessage{}}
	f.Build.Version, _ = mount(s)["running_plugin_version"].(string)
	f.Build.Vault, _ = s.call(s.root, "GET", "sys/seal-status", nil).Body["version"].(string)
	for _, t := range s.tokens {
		s.describe(t)
	}
	f.Checks = s.checks(s.tokens)
	s.read(f.Reads, "config", "jwks", ".well-known/openid-configuration", ".well-known/oauth-authorization-server")
	for _, folder := range []string{"roles/", "keys/", "tokens/"} {
		s.read(f.Reads, folder)
		for _, name := range s.list("tokens/" + folder) {
			s.read(f.Reads, folder+name)
		}
	}
	for _, id := range s.entities {
		s.read(f.Reads, "entities/"+id)
	}
	f.Storage = s.storage()
	f.Made = time.Now().UTC().Truncate(time.Second)
	return f, s.err
}

// mount is what Vault knows of the engine's mount.
func mount(s *session) object {
	entry, _ := s.call(s.root, "GET", "sys/mounts", nil).Data()[vaulttest.MountPath+"/"].(object)
	return entry
}

// describe adds to a token the answer of introspection and its lease's data.
func (s *session) describe(t *token) {
	t.Answer = s.introspect(object{"token": t.Token, "client_ip": clientIP})
	if active := t.Answer["active"] == true; s.err == nil && active != (t.State == live) {
		s.err = fmt.Errorf("%s: should be %s, but active is %v", t.About, t.State, active)
	}
	if t.leaseID == "" || s.err != nil {
		return
	}
	value, found := s.raw("sys/expire/id/" + t.leaseID)
	if !found {
		return // revoked
	}
	var lease struct {
		Secret struct {
			InternalData map[string]string `json:"internal_data"`
		} `json:"secret"`
	}
	if err := json.Unmarshal(value, &lease); err != nil {
		s.err = fmt.Errorf("lease of %s: %w", t.About, err)
	}
	t.Lease = lease.Secret.InternalData
}

func (s *session) introspect(body object) object {
	return s.call(s.root, "POST", "tokens/introspect", body).Data()
}

// checks asks about live tokens as APIs do that want too much of some.
func (s *session) checks(tokens []*token) []check {
	roles := []string{"access", "machine", "Partner-API", "session"} // with scopes, audiences, networks
	var out []check
	for _, t := range tokens {
		if t.State != live || !slices.Contains(roles, t.Role) {
			continue
		}
		for _, request := range []object{
			{"token": t.Token},
			{"token": t.Token, "client_ip": "203.0.113.1"},
			{"token": t.Token, "client_ip": clientIP, "required_scopes": "orders:read"},
			{"token": t.Token, "client_ip": clientIP, "audience": "https://users.example.com"},
		} {
			out = append(out, check{request, s.introspect(request)})
		}
	}
	return out
}

// read records answers; what there is none of is left out.
func (s *session) read(into map[string]json.RawMessage, paths ...string) {
	for _, path := range paths {
		method := "GET"
		if strings.HasSuffix(path, "/") {
			method = "LIST"
		}
		if s.err != nil {
			return
		}
		resp, err := s.root.Do(s.ctx, method, "tokens/"+path, nil)
		switch {
		case err != nil:
			s.err = err
		case resp.Status == http.StatusNotFound:
		case resp.Status != http.StatusOK:
			s.err = fmt.Errorf("%s %s: %d %s", method, path, resp.Status, resp.Raw)
		default:
			into[path], s.err = answer(resp)
		}
	}
}

// answer is the answer's data or, where there is none, its whole body.
func answer(resp *vaulttest.Response) (json.RawMessage, error) {
	var body struct {
		Data json.RawMessage `json:"data"`
	}
	err := json.Unmarshal(resp.Raw, &body)
	if body.Data == nil {
		return resp.Raw, err
	}
	return body.Data, err
}

func (s *session) list(path string) []string {
	keys, _ := s.call(s.root, "LIST", path, nil).Data()["keys"].([]any)
	names := make([]string, len(keys))
	for i, key := range keys {
		names[i], _ = key.(string)
	}
	return names
}

// storage reads all of the mount's storage.
func (s *session) storage() map[string]json.RawMessage {
	uuid, _ := mount(s)["uuid"].(string)
	root := "logical/" + uuid + "/"
	entries := map[string]json.RawMessage{}
	var visit func(folder string)
	visit = func(folder string) {
		for _, name := range s.list("sys/raw/" + root + folder) {
			if strings.HasSuffix(name, "/") {
				visit(folder + name)
			} else if value, found := s.raw(root + folder + name); found {
				entries[folder+name] = value
			}
		}
	}
	visit("")
	return entries
}

// raw reads an entry of Vault's storage, which must be JSON, as all entries of
// the engine are.
func (s *session) raw(key string) (value json.RawMessage, found bool) {
	if s.err != nil {
		return nil, false
	}
	resp, err := s.root.Do(s.ctx, "GET", "sys/raw/"+key, nil)
	switch {
	case err != nil:
		s.err = err
	case resp.Status == http.StatusNotFound:
	case resp.Status != http.StatusOK:
		s.err = fmt.Errorf("sys/raw/%s: %d %s", key, resp.Status, resp.Raw)
	default:
		value = json.RawMessage(resp.String("value"))
		if !json.Valid(value) {
			s.err = fmt.Errorf("%s does not hold JSON", key)
		}
		return value, s.err == nil
	}
	return nil, false
}
