package tokenwatch

import "time"

// Kind is what a request was about.
type Kind string

// Requests to a mount of the engine.
const (
	KindIssue        Kind = "issue"         // creds/<role>
	KindIntrospect   Kind = "introspect"    // introspect, or an item of its batch; oauth2/introspect
	KindRevoke       Kind = "revoke"        // revoke, oauth2/revoke, and DELETE of tokens/<id>
	KindTokenRead    Kind = "token_read"    // tokens/<id>, and the list
	KindRoleWrite    Kind = "role_write"    // create, update and patch
	KindRoleRead     Kind = "role_read"     // a role, and the list
	KindRoleDelete   Kind = "role_delete"   // roles/<name>
	KindRoleRevoke   Kind = "role_revoke"   // roles/<name>/revoke: every token of the role
	KindEntityRevoke Kind = "entity_revoke" // entities/<id>/revoke: every token of the entity
	KindTidy         Kind = "tidy"          // tidy: a pass over all records, or a dry run
	KindTidyCancel   Kind = "tidy_cancel"   // tidy/cancel
	KindConfigWrite  Kind = "config_write"  // config
	KindConfigRead   Kind = "config_read"   // config
	KindKeyWrite     Kind = "key_write"     // keys/<name>
	KindKeyRead      Kind = "key_read"      // a key, and the list
	KindKeyRotate    Kind = "key_rotate"    // keys/<name>/rotate
	KindKeyEmergency Kind = "key_emergency" // keys/<name>/rotate-emergency
	KindKeyDelete    Kind = "key_delete"    // keys/<name>
	KindPublicRead   Kind = "public_read"   // jwks, .well-known/…, status/…
	KindOther        Kind = "other"         // anything else on a mount of the engine
	KindLeaseRenew   Kind = "lease_renew"   // sys/leases/renew
	KindLeaseRevoke  Kind = "lease_revoke"  // sys/leases/revoke
	KindLeasePrefix  Kind = "lease_prefix"  // sys/leases/revoke-prefix and revoke-force
	KindAuditDisable Kind = "audit_disable" // DELETE of sys/audit/<name>
	KindAuditEnable  Kind = "audit_enable"  // sys/audit/<name>
	KindMountTune    Kind = "mount_tune"    // sys/mounts/<path>/tune
	KindMountDisable Kind = "mount_disable" // DELETE of sys/mounts/<path>
	KindOtherMounts  Kind = "other_mounts"  // not about the engine
)

// OfEngine reports whether the request went to a mount of the engine itself.
func (k Kind) OfEngine() bool {
	switch k {
	case KindLeaseRenew, KindLeaseRevoke, KindLeasePrefix, KindAuditDisable, KindAuditEnable, KindMountTune, KindMountDisable, KindOtherMounts, "":
		return false
	}
	return true
}

// Phase is the half of a request that an entry of the audit log is about.
type Phase string

const (
	PhaseRequest  Phase = "request"
	PhaseResponse Phase = "response"
)

// Event is one request, or one item of a batch, as far as the audit log shows it. Strings are as in the
// log: a value that Vault hashed begins with HashPrefix, and equal values of the
// same audit device have equal hashes.
type Event struct {
	Time      time.Time `json:"time"`
	Phase     Phase     `json:"phase"`
	RequestID string    `json:"request_id,omitempty"`
	Kind      Kind      `json:"kind"`
	Operation string    `json:"operation,omitempty"` // create, read, update, patch, delete, list
	Namespace string    `json:"namespace,omitempty"` // path without slash at the end; empty is root
	Mount     string    `json:"mount,omitempty"`     // mount_point, with a slash at the end
	Path      string    `json:"path,omitempty"`      // whole request path, mount included
	Item      int       `json:"item,omitempty"`      // of a batch: which item it is, from 1
	Name      string    `json:"name,omitempty"`      // named by the path: role, key, token id, entity, audit device, lease or prefix

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
	Error   string `json:"error,omitempty"`   // Vault's error text; the engine's own is hashed

	// Of an issued or introspected token.
	Role           string    `json:"role,omitempty"`
	TokenID        string    `json:"token_id,omitempty"`
	TokenType      string    `json:"token_type,omitempty"`
	TokenHash      string    `json:"token_hash,omitempty"` // HMAC of the token: the same at issue, introspection and revocation
	LeaseID        string    `json:"lease_id,omitempty"`
	LeaseHash      string    `json:"lease_hash,omitempty"` // HMAC of a lease id that a caller sent
	ClientID       string    `json:"client_id,omitempty"`  // entity for which an introspected token was issued
	Expires        time.Time `json:"expires,omitzero"`     // when the token expires, if the entry says so
	Active         *bool     `json:"active,omitempty"`     // introspection only
	ScopeFailed    bool      `json:"scope_failed,omitempty"`
	AudienceFailed bool      `json:"audience_failed,omitempty"`
	ClientIPFailed bool      `json:"client_ip_failed,omitempty"`
	ClientIP       string    `json:"client_ip,omitempty"` // address the token was presented from; hashed unless tuned

	// StatusLists is how many status lists had tokens that a kill switch of a role
	// ended. 0 if the entry does not say.
	StatusLists int64 `json:"status_lists,omitempty"`

	// Settings that a role, config or tune request names; nil otherwise.
	Settings *RequestSettings `json:"settings,omitempty"`
}

// HashPrefix is the prefix of values that Vault hashed.
const HashPrefix = "hmac-sha256:"

// RequestSettings are the limits that a request sets. A nil list or pointer means
// that the request did not name it. Elements of lists may be hashed.
type RequestSettings struct {
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

// Outcome is how a request ended, in one word. Metrics and reports count by it.
type Outcome string

const (
	OutcomeOK      Outcome = "ok"      // not refused; of an introspection: the log does not show the answer
	OutcomeDenied  Outcome = "denied"  // refused by Vault
	OutcomeInvalid Outcome = "invalid" // refused for what was asked

	// Answers to introspections.
	OutcomeActive      Outcome = "active"
	OutcomeInactive    Outcome = "inactive"     // unknown, expired or revoked
	OutcomeCheckFailed Outcome = "check_failed" // live, with a wrong scope, audience or client address
)

// Outcome returns how the request ended.
func (e *Event) Outcome() Outcome {
	switch {
	case e.Denied:
		return OutcomeDenied
	case e.Invalid:
		return OutcomeInvalid
	case e.Kind != KindIntrospect || e.Active == nil:
		return OutcomeOK
	case *e.Active:
		return OutcomeActive
	case e.ScopeFailed || e.AudienceFailed || e.ClientIPFailed:
		return OutcomeCheckFailed
	}
	return OutcomeInactive
}

// Client identifies the caller as precisely as the entry allows: by entity, else
// by the Vault token's accessor, else by address.
func (e *Event) Client() string {
	switch {
	case e.EntityID != "":
		return e.EntityID
	case e.Accessor != "":
		return e.Accessor
	}
	return e.RemoteAddress
}
