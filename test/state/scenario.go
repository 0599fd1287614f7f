package main

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"time"

	"github.com/vault-tokens/vault-plugin-secrets-tokens/test/suite"
	"github.com/vault-tokens/vault-plugin-secrets-tokens/test/vaulttest"
)

// States of a token when the storage is read.
const (
	live    = "live"
	revoked = "revoked"
	expired = "expired"
	dropped = "dropped" // with the key that signed it
	ended   = "ended"   // with all that its role had issued
	cutOff  = "cut off" // with all that its entity had; no list can say so, as it has no record
)

// token is one that was issued, and what has to be known of it later.
type token struct {
	About string `json:"about"`
	Role  string `json:"role"`
	Token string `json:"token"`
	State string `json:"state"`
	// Lease is the internal data of the lease as Vault stores it, nil without.
	Lease map[string]string `json:"lease,omitempty"`
	// Place is an opaque token's in the status lists; a JWT names its own.
	Place object `json:"place,omitempty"`
	// Answer is that of introspection.
	Answer object `json:"answer"`

	id      string
	leaseID string
}

type object = map[string]any

// session speaks to a server until the first failure; what comes after it does
// nothing.
type session struct {
	ctx        context.Context
	root, user *vaulttest.Client
	tokens     []*token
	entities   []string // whose tokens were revoked
	err        error
}

func (s *session) call(c *vaulttest.Client, method, path string, body any) *vaulttest.Response {
	if s.err == nil {
		resp, err := c.Must(s.ctx, method, path, body)
		if err == nil {
			return resp
		}
		s.err = err
	}
	return &vaulttest.Response{}
}

func (s *session) write(path string, body object) { s.call(s.root, "POST", path, body) }

// issue issues a token to the user, who has an entity.
func (s *session) issue(about, role string, body object) *token {
	return s.issueTo(s.user, about, role, body)
}

func (s *session) issueTo(c *vaulttest.Client, about, role string, body object) *token {
	resp := s.call(c, "POST", "tokens/creds/"+role, body)
	t := &token{About: about, Role: role, State: live, Token: resp.String("token"), id: resp.String("token_id")}
	t.leaseID, _ = resp.Body["lease_id"].(string)
	if resp.String("token_type") != "jwt" {
		status, _ := s.introspect(object{"token": t.Token, "client_ip": clientIP})["status"].(object)
		t.Place, _ = status["status_list"].(object)
	}
	s.tokens = append(s.tokens, t)
	return t
}

func (s *session) renew(t *token) {
	s.write("sys/leases/renew", object{"lease_id": t.leaseID})
}

func (s *session) revokeByLease(t *token) {
	s.write("sys/leases/revoke", object{"lease_id": t.leaseID, "sync": true})
	t.State = revoked
}

func (s *session) revokeByID(t *token) {
	s.call(s.root, "DELETE", "tokens/tokens/"+t.id, nil)
	t.State = revoked
}

func (s *session) revokeByPossession(t *token) {
	s.write("tokens/revoke", object{"token": t.Token})
	t.State = revoked
}

// awaitExpiry waits until a token that is about to expire has done so.
func (s *session) awaitExpiry(t *token) {
	s.await(t.About+" expires", func() bool {
		return s.introspect(object{"token": t.Token, "client_ip": clientIP})["active"] == false
	})
	t.State = expired
}

// act has the engine store something of every kind.
func act(ctx context.Context, server *vaulttest.Server) (*session, error) {
	user, entity, err := server.NewUser(ctx, "billing", vaulttest.Policy("tokens/creds/*", "update"))
	if err != nil {
		return nil, err
	}
	s := &session{ctx: ctx, root: server.Root(), user: server.Client(user)}
	s.write("identity/entity/id/"+entity, object{"name": "billing", "metadata": object{"team": "payments"}})
	s.defaultKey()
	s.algorithms()
	s.leakedKey()
	s.opaque()
	s.capped()
	s.deletedRole()
	s.tracked()
	s.endedRoles()
	s.entityCutOff(server)
	s.expiring()
	return s, s.err
}

const audience = "https://orders.example.com"

// defaultKey rotates the default key twice, so that it has versions in every
// state, and changes the issuer in between.
func (s *session) defaultKey() {
	s.write("tokens/config", object{"issuer": "https://old.example.com/v1/tokens"})
	s.write("tokens/roles/access", object{
		"token_type": "jwt", "allowed_scopes": "orders:*,users:read", "default_scopes": "orders:read,users:read",
		"ttl": "2h", "max_ttl": "4h", "audiences": []string{audience, "https://users.example.com"},
		"subject":           "app:{{identity.entity.name}}",
		"claims_template":   `{"team": {{identity.entity.metadata.team}}, "labels": ["{{identity.entity.name}}"]}`,
		"not_before_leeway": "1m", "metadata": object{"tier": "gold", "Ünïcode": "<&>"}, "allowed_metadata": "request",
	})
	// As text, so that the large number stays what it is.
	s.call(s.root, "PATCH", "tokens/roles/access", vaulttest.RawBody(`{"claims": {"tenant": 12345678901234567890, "flags": {"beta": true}}}`))
	s.issue("jwt of the issuer before", "access", nil)
	s.revokeByLease(s.issue("jwt of the issuer before, revoked", "access", nil))
	s.write("tokens/config", object{
		"issuer": "https://vault.example.com/v1/tokens", "allowed_scopes": "orders:*,users:*,admin",
		"allowed_audiences": "https://*.example.com", "max_ttl": "720h", "status_list_ttl": "10s", "status_list_lifetime": "90m",
	})
	s.issue("jwt of a retired version", "access", nil)
	s.write("tokens/keys/default/rotate", object{"force": true})
	s.revokeByPossession(s.issue("jwt of a retired version, revoked", "access", nil))
	s.write("tokens/keys/default/rotate", object{"force": true})
	s.issue("jwt", "access", nil)
	s.revokeByLease(s.issue("jwt revoked by its lease", "access", nil))
	s.revokeByPossession(s.issue("jwt revoked by possession", "access", nil))
	s.issue("jwt narrowed", "access", object{
		"scopes": "orders:write", "audience": audience, "ttl": "90m", "metadata": object{"request": "r-1"},
		"cnf": object{"jkt": strings.Repeat("A", 43)},
	})

	s.write("tokens/roles/machine", object{ // as little as a role of this kind can have
		"token_type": "jwt", "audiences": audience, "generate_lease": false, "bound_cidrs": "10.0.0.0/8,2001:db8::/32",
	})
	s.issueTo(s.root, "jwt without a lease or an entity, bound to networks", "machine", nil)
	s.revokeByPossession(s.issue("jwt without a lease, revoked", "machine", nil))
}

// algorithms makes a key of every algorithm, each used by a role of its own.
func (s *session) algorithms() {
	for _, algorithm := range []string{"ES256", "ES384", "EdDSA", "Ed25519", "RS256", "PS256"} {
		key, role := strings.ToLower(algorithm), "signed."+algorithm
		s.write("tokens/keys/"+key, object{"algorithm": algorithm, "rotation_period": "720h", "allowed_roles": "signed.*", "allowed_audiences": audience})
		s.write("tokens/roles/"+role, object{"token_type": "jwt", "key": key, "audiences": audience, "not_before_leeway": 0})
		s.issue("jwt signed with "+algorithm, role, nil)
		s.revokeByLease(s.issue("jwt signed with "+algorithm+", revoked", role, nil))
	}
	s.write("tokens/keys/spare", object{"algorithm": "ES384", "allowed_roles": "", "allowed_audiences": ""})
}

func (s *session) leakedKey() {
	s.write("tokens/keys/leaked", nil)
	s.write("tokens/roles/leaked", object{"token_type": "jwt", "key": "leaked", "audiences": audience})
	s.issue("jwt of a key that leaked", "leaked", nil).State = dropped
	s.write("tokens/keys/leaked/rotate-emergency", nil)
	s.issue("jwt of the key that replaced it", "leaked", nil)
}

func (s *session) opaque() {
	s.write("tokens/roles/Partner-API", object{
		"token_type": "api_key", "allowed_scopes": "orders:*,admin", "default_scopes": "orders:read", "ttl": "240h", "max_ttl": "480h",
		"audiences": audience, "subject": "partner:{{identity.entity.name}}", "prefix": "acme_live",
		"bound_cidrs": "10.0.0.0/8,192.0.2.7,2001:db8::/32", "metadata": object{"owner": "partners", "cost": "7"}, "allowed_metadata": "request",
	})
	s.issue("api key", "Partner-API", nil)
	s.issue("api key narrowed", "Partner-API", object{
		"scopes": "admin,orders:write", "ttl": "100h", "metadata": object{"request": "r-2"}, "cnf": object{"x5t#S256": strings.Repeat("A", 43)},
	})
	s.issue("api key without scopes", "Partner-API", object{"scopes": ""})
	s.renew(s.issue("api key renewed", "Partner-API", object{"ttl": "1h"}))
	s.revokeByID(s.issue("api key revoked by id", "Partner-API", nil))

	s.write("tokens/roles/plain", object{"token_type": "api_key"})
	s.issueTo(s.root, "api key of a role with nothing set, without an entity", "plain", nil)

	s.write("tokens/roles/session", object{"token_type": "bearer", "allowed_scopes": "users:*,orders:*", "audiences": audience})
	s.issue("bearer", "session", object{"scopes": "orders:read"})
	s.issue("bearer with both confirmations", "session", object{
		"cnf": object{"jkt": strings.Repeat("A", 43), "x5t#S256": strings.Repeat("B", 42) + "A"},
	})
	s.revokeByLease(s.issue("bearer revoked by its lease", "session", nil))
	s.revokeByPossession(s.issue("bearer revoked by possession", "session", nil))

	s.write("tokens/roles/job", object{"token_type": "bearer", "generate_lease": false, "ttl": "24h"})
	s.issue("bearer without a lease", "job", nil)
	s.revokeByID(s.issue("bearer without a lease, revoked", "job", nil))
}

// capped fills one role to its cap, and leaves room in another.
func (s *session) capped() {
	s.write("tokens/roles/full", object{"token_type": "api_key", "max_tokens": 2, "ttl": "24h"})
	s.revokeByID(s.issue("capped, revoked", "full", nil))
	s.issue("capped, first", "full", nil)
	s.renew(s.issue("capped, second, renewed", "full", object{"ttl": "1h"}))

	s.write("tokens/roles/roomy", object{"token_type": "bearer", "max_tokens": 3, "generate_lease": false})
	s.issue("capped, without a lease", "roomy", nil)
	s.awaitExpiry(s.issue("capped, expired", "roomy", object{"ttl": "1s"}))
}

// deletedRole leaves tokens whose role is gone.
func (s *session) deletedRole() {
	s.write("tokens/roles/gone", object{"token_type": "bearer", "max_tokens": 5})
	s.write("tokens/roles/gone-jwt", object{"token_type": "jwt", "audiences": audience})
	s.issue("bearer of a role that is gone", "gone", nil)
	s.issue("jwt of a role that is gone", "gone-jwt", nil)
	s.revokeByLease(s.issue("jwt of a role that is gone, revoked", "gone-jwt", nil))
	s.call(s.root, "DELETE", "tokens/roles/gone", nil)
	s.call(s.root, "DELETE", "tokens/roles/gone-jwt", nil)
}

// tracked issues JWTs that have a record.
func (s *session) tracked() {
	s.write("tokens/roles/tracked", object{"token_type": "jwt", "audiences": audience, "ttl": "3h", "track": true})
	s.issue("jwt tracked", "tracked", nil)
	s.revokeByID(s.issue("jwt tracked, revoked by id", "tracked", nil))
	s.revokeByLease(s.issue("jwt tracked, revoked by its lease", "tracked", nil))
	s.write("tokens/roles/tracked-job", object{"token_type": "jwt", "audiences": audience, "track": true, "generate_lease": false})
	s.issue("jwt tracked, without a lease", "tracked-job", nil)
}

// endedRoles revokes all that a role of each kind has issued, and has it issue
// again. The JWTs have a key of their own, and so a list: all that the role has
// reserved there is revoked.
func (s *session) endedRoles() {
	s.write("tokens/keys/ended", object{"allowed_roles": "ended-*", "allowed_audiences": "https://orders.*"})
	for name, body := range map[string]object{
		"ended-api-key": {"token_type": "api_key", "ttl": "240h"},
		"ended-bearer":  {"token_type": "bearer", "max_tokens": 3},
		"ended-jwt":     {"token_type": "jwt", "key": "ended", "audiences": audience},
		"ended-tracked": {"token_type": "jwt", "key": "ended", "audiences": audience, "track": true},
	} {
		s.write("tokens/roles/"+name, body)
		s.issue("ended with its role", name, nil).State = ended
		s.revokeByPossession(s.issue("revoked before its role ended", name, nil))
		s.write("tokens/roles/"+name+"/revoke", nil)
		s.issue("issued after its role ended", name, nil)
	}
}

// entityCutOff revokes all that an entity has, by roles from which others have
// tokens too, and waits until all records have been looked at.
func (s *session) entityCutOff(server *vaulttest.Server) {
	if s.err != nil {
		return
	}
	login, entity, err := server.NewUser(s.ctx, "contractor", vaulttest.Policy("tokens/creds/*", "update"))
	if err != nil {
		s.err = err
		return
	}
	contractor := server.Client(login)
	s.issueTo(contractor, "api key of an entity that was cut off", "plain", nil).State = revoked
	s.issueTo(contractor, "bearer without a lease of an entity that was cut off", "job", nil).State = revoked
	s.issueTo(contractor, "jwt tracked, of an entity that was cut off", "tracked", nil).State = revoked
	s.issueTo(contractor, "jwt of an entity that was cut off", "machine", nil).State = cutOff
	s.write("tokens/entities/"+entity+"/revoke", nil)
	s.entities = append(s.entities, entity)
	s.await("the cut-off of an entity", func() bool {
		return s.call(s.root, "GET", "tokens/entities/"+entity, nil).Data()["tidied"] == true
	})
	s.await("issue to an entity that was cut off", func() bool { // not within the same second
		resp, err := contractor.Do(s.ctx, "POST", "tokens/creds/plain", nil)
		return err == nil && resp.Status == http.StatusOK
	})
	s.issueTo(contractor, "api key issued after its entity was cut off", "plain", nil)
	s.issueTo(contractor, "jwt issued after its entity was cut off", "machine", nil)
}

// await polls until something holds.
func (s *session) await(about string, holds func() bool) {
	if s.err != nil {
		return
	}
	err := suite.Poll(s.ctx, 30*time.Second, func() (bool, error) { return s.err != nil || holds(), errors.New(about + ": not yet") })
	s.err = errors.Join(s.err, err)
}

// expiring leaves what has expired and not been tidied away: without a lease,
// nobody tells the engine.
func (s *session) expiring() {
	for _, role := range []string{"job", "machine"} {
		s.awaitExpiry(s.issue(fmt.Sprintf("expired, of role %s", role), role, object{"ttl": "1s"}))
	}
}
