// Package event has the one type that all parts of tokenwatch share: what an
// entry of Vault's audit log says about the tokens engine.
package event

import "time"

// Kind is what a request was about.
type Kind string

// Requests to a mount of the engine.
const (
	Issue        Kind = "issue"         // creds/<role>
	Introspect   Kind = "introspect"    // introspect
	Revoke       Kind = "revoke"        // revoke, and DELETE of tokens/<id>
	RevokeRole   Kind = "revoke_role"   // roles/<name>/revoke
	TokenRead    Kind = "token_read"    // tokens/<id>, and the list
	RoleWrite    Kind = "role_write"    // create, update and patch
	RoleRead     Kind = "role_read"     // a role, and the list
	RoleDelete   Kind = "role_delete"   // roles/<name>
	ConfigWrite  Kind = "config_write"  // config
	ConfigRead   Kind = "config_read"   // config
	KeyWrite     Kind = "key_write"     // keys/<name>
	KeyRead      Kind = "key_read"      // a key, and the list
	KeyRotate    Kind = "key_rotate"    // keys/<name>/rotate without emergency
	KeyEmergency Kind = "key_emergency" // keys/<name>/rotate with emergency=true
	KeyDelete    Kind = "key_delete"    // keys/<name>
	PublicRead   Kind = "public_read"   // jwks, .well-known/…, status/…
	Static       Kind = "static"        // static-roles, static-creds, rotate-role
	OtherRequest Kind = "other"         // anything else on a mount of the engine
	LeaseRenew   Kind = "lease_renew"   // sys/leases/renew
	LeaseRevoke  Kind = "lease_revoke"  // sys/leases/revoke
	LeasePrefix  Kind = "lease_prefix"  // sys/leases/revoke-prefix and revoke-force
	AuditDisable Kind = "audit_disable" // DELETE of sys/audit/<name>
	AuditEnable  Kind = "audit_enable"  // sys/audit/<name>
	MountTune    Kind = "mount_tune"    // sys/mounts/<path>/tune
	MountDisable Kind = "mount_disable" // DELETE of sys/mounts/<path>
	OtherMounts  Kind = "other_mounts"  // a request that is none of tokenwatch's business
)

// OfEngine reports whether the request went to a mount of the engine itself.
func (k Kind) OfEngine() bool {
	switch k {
	case LeaseRenew, LeaseRevoke, LeasePrefix, AuditDisable, AuditEnable, MountTune, MountDisable, OtherMounts, "":
		return false
	}
	return true
}

// Phase is the half of a request that an entry of the audit log tells of.
type Phase string

const (
	Request  Phase = "request"
	Response Phase = "response"
)

// Event is one request, as far as the audit log shows it. Strings are as they
// stand in the log: a value that Vault hashed begins with HashPrefix, and equal
// values have equal hashes as long as the audit device is the same.
type Event struct {
	Time      time.Time `json:"time"`
	Phase     Phase     `json:"phase"`
	RequestID string    `json:"request_id,omitempty"`
	Kind      Kind      `json:"kind"`
	Operation string    `json:"operation,omitempty"` // create, read, update, patch, delete, list
	Namespace string    `json:"namespace,omitempty"` // path without slash at the end; empty is root
	Mount     string    `json:"mount,omitempty"`     // mount_point, with a slash at the end
	Path      string    `json:"path,omitempty"`      // whole request path, mount included
	Name      string    `json:"name,omitempty"`      // what the path names: role, key, token id, audit device, lease or prefix

	// Who asked.
	EntityID      string `json:"entity_id,omitempty"`
	DisplayName   string `json:"display_name,omitempty"`
	Accessor      string `json:"accessor,omitempty"` // hashed accessor of the caller's Vault token
	Root          bool   `json:"root,omitempty"`     // the caller's Vault token has the root policy
	RemoteAddress string `json:"remote_address,omitempty"`
	ForwardedFrom string `json:"forwarded_from,omitempty"` // node that forwarded the request

	// How it ended. Denied and Invalid exclude each other.
	Denied  bool   `json:"denied,omitempty"`  // Vault refused it: no permission, or no valid Vault token
	Invalid bool   `json:"invalid,omitempty"` // the engine or Vault refused what was asked for
	Error   string `json:"error,omitempty"`   // Vault's words; the engine's own are hashed

	// Of an issued or introspected token.
	Role           string    `json:"role,omitempty"`
	TokenID        string    `json:"token_id,omitempty"`
	TokenType      string    `json:"token_type,omitempty"`
	TokenHash      string    `json:"token_hash,omitempty"` // HMAC of the token: the same at issue, introspection and revocation
	LeaseID        string    `json:"lease_id,omitempty"`
	LeaseHash      string    `json:"lease_hash,omitempty"` // HMAC of a lease id that a caller sent
	ClientID       string    `json:"client_id,omitempty"`  // entity for which an introspected token was issued
	Expires        time.Time `json:"expires,omitzero"`     // when the token expires, if the entry tells
	Active         *bool     `json:"active,omitempty"`     // introspection only
	ScopeFailed    bool      `json:"scope_failed,omitempty"`
	AudienceFailed bool      `json:"audience_failed,omitempty"`
	ClientIPFailed bool      `json:"client_ip_failed,omitempty"`
	ClientIP       string    `json:"client_ip,omitempty"` // address the token was presented from; hashed unless tuned

	// Settings that a role, config or tune request names; nil otherwise.
	Settings *Settings `json:"settings,omitempty"`
}

// HashPrefix is what a value begins with that Vault hashed.
const HashPrefix = "hmac-sha256:"

// Settings are the limits that a request sets. A nil list or pointer was not
// named in the request. Elements of lists may be hashed.
type Settings struct {
	AllowedScopes []string       `json:"allowed_scopes,omitempty"`
	DefaultScopes []string       `json:"default_scopes,omitempty"`
	Audiences     []string       `json:"audiences,omitempty"`
	BoundCIDRs    []string       `json:"bound_cidrs,omitempty"`
	TTL           *time.Duration `json:"ttl,omitempty"`
	MaxTTL        *time.Duration `json:"max_ttl,omitempty"`
	MaxTokens     *int64         `json:"max_tokens,omitempty"`
}

// Failed reports whether the request was refused.
func (e *Event) Failed() bool { return e.Denied || e.Invalid }

// Client is who asked, as precisely as the entry tells: the entity, else the
// Vault token's accessor, else the address.
func (e *Event) Client() string {
	switch {
	case e.EntityID != "":
		return e.EntityID
	case e.Accessor != "":
		return e.Accessor
	}
	return e.RemoteAddress
}
