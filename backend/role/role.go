// Package role has what operators decide about tokens: type, scopes, lifetime.
package role

import (
	"encoding/json"
	"fmt"
	"maps"
	"net/netip"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/vault-tokens/vault-plugin-secrets-tokens/backend/config"
	"github.com/vault-tokens/vault-plugin-secrets-tokens/backend/scope"
	"github.com/vault-tokens/vault-plugin-secrets-tokens/backend/template"
	"github.com/vault-tokens/vault-plugin-secrets-tokens/backend/text"
	"github.com/vault-tokens/vault-plugin-secrets-tokens/backend/usererror"
	"github.com/vault-tokens/vault-plugin-secrets-tokens/verify/format"
)

// TokenType is what a role issues: token_type in the API.
type TokenType string

// The types of token.
const (
	APIKey TokenType = "api_key" // opaque, identifies an application
	Bearer TokenType = "bearer"  // opaque, OAuth 2.0 style
	JWT    TokenType = "jwt"     // signed, RFC 9068
)

// TokenTypes lists every type of token.
func TokenTypes() []TokenType { return []TokenType{APIKey, Bearer, JWT} }

// Opaque reports whether tokens of this type have a record in the storage.
func (t TokenType) Opaque() bool { return t == APIKey || t == Bearer }

// Bounds on a role's lists, so that tokens, records and audit lines stay small.
const (
	MaxNameLength    = 128
	maxCIDRs         = 100
	maxSubjectBytes  = 512
	maxMetadata      = 64
	maxMetadataBytes = 4 * 1024 // keys and values together
	maxMetadataKey   = 128
	maxMetadataValue = 512
	maxClaimsBytes   = 8 * 1024
	maxLeeway        = 5 * time.Minute
)

// DefaultKey is the signing key of roles that name none.
const DefaultKey = "default"

// Role is a role as stored.
type Role struct {
	Name            string            `json:"name"`
	TokenType       TokenType         `json:"token_type"`
	AllowedScopes   []string          `json:"allowed_scopes,omitempty"` // patterns; empty allows nothing
	DefaultScopes   []string          `json:"default_scopes,omitempty"`
	TTL             time.Duration     `json:"ttl,omitempty"`     // zero: the mount's default; API key
	MaxTTL          time.Duration     `json:"max_ttl,omitempty"` // zero: the mount's maximum
	Audiences       []string          `json:"audiences,omitempty"`
	Subject         string            `json:"subject,omitempty"`         // template
	Claims          json.RawMessage   `json:"claims,omitempty"`          // a JSON object; JWT
	ClaimsTemplate  string            `json:"claims_template,omitempty"` // JWT
	Key             string            `json:"key,omitempty"`             // JWT
	NotBeforeLeeway time.Duration     `json:"not_before_leeway"`         // JWT
	Prefix          string            `json:"prefix,omitempty"`          // opaque
	MaxTokens       int               `json:"max_tokens,omitempty"`      // opaque; zero: no cap
	BoundCIDRs      []netip.Prefix    `json:"bound_cidrs,omitempty"`
	Metadata        map[string]string `json:"metadata,omitempty"`
	AllowedMetadata []string          `json:"allowed_metadata,omitempty"` // patterns of names; empty allows none
	RequireCnf      bool              `json:"require_cnf,omitempty"`
	GenerateLease   bool              `json:"generate_lease"`
	Track           bool              `json:"track,omitempty"` // jwt: each token has a record
}

// New returns a role of a type with the defaults of that type.
func New(name string, tokenType TokenType) *Role {
	r := &Role{Name: name, TokenType: tokenType, GenerateLease: true}
	switch tokenType {
	case APIKey:
		r.Prefix = "vtk"
	case Bearer:
		r.Prefix = "vtb"
		r.TTL = time.Hour
	case JWT:
		r.TTL = 15 * time.Minute
		r.Key = DefaultKey
		r.NotBeforeLeeway = 30 * time.Second
	}
	return r
}

// UnmarshalJSON reads a stored role onto the defaults of its type, so that a member
// which it was stored without has its default.
func (r *Role) UnmarshalJSON(raw []byte) error {
	var stored struct {
		Format    int       `json:"format"`
		TokenType TokenType `json:"token_type"`
	}
	if err := json.Unmarshal(raw, &stored); err != nil {
		return err
	}
	if !slices.Contains(TokenTypes(), stored.TokenType) {
		return fmt.Errorf("token_type %q is unknown", stored.TokenType)
	}
	type plain Role // without this method
	read := New("", stored.TokenType)
	if stored.Format == 0 {
		read.NotBeforeLeeway = 0 // was left out when it was zero
	}
	defaultTTL := read.TTL
	read.TTL = 0
	if err := json.Unmarshal(raw, (*plain)(read)); err != nil {
		return err
	}
	if read.TTL == 0 {
		read.TTL = withinMax(defaultTTL, read.MaxTTL)
	}
	*r = *read
	return nil
}

// withinMax returns a default TTL, which gives way to a maximum.
func withinMax(ttl, maxTTL time.Duration) time.Duration {
	if maxTTL > 0 {
		return min(ttl, maxTTL)
	}
	return ttl
}

// SetDefaultTTL gives the role the TTL of its type, or its maximum if that is less.
func (r *Role) SetDefaultTTL() { r.TTL = withinMax(New(r.Name, r.TokenType).TTL, r.MaxTTL) }

// Clone returns a copy whose fields can be set without changing the original.
func (r *Role) Clone() *Role {
	c := *r
	return &c
}

var namePattern = regexp.MustCompile(`^[A-Za-z0-9_]([A-Za-z0-9_.-]*[A-Za-z0-9_])?$`)

// ValidateName checks the name of a role or a key, given in field. Case is kept.
func ValidateName(field, name string) error {
	if len(name) > MaxNameLength {
		return usererror.Field(field, "is %d bytes long; at most %d are allowed", len(name), MaxNameLength)
	}
	if strings.Contains(name, "..") { // Vault's storage refuses it as a relative path
		return usererror.Field(field, "must not have two dots in a row")
	}
	if !namePattern.MatchString(name) {
		return usererror.Field(field, "must be made of ASCII letters, digits, _, . and -, and start and end with a letter, digit or _")
	}
	return nil
}

// ParseTokenType checks a token_type.
func ParseTokenType(s string) (TokenType, error) {
	tokenType := TokenType(s)
	switch {
	case s == "":
		return "", usererror.Field("token_type", "is needed to create a role: api_key, bearer or jwt")
	case !slices.Contains(TokenTypes(), tokenType):
		return "", usererror.Field("token_type", "must be api_key, bearer or jwt")
	}
	return tokenType, nil
}

// Validate checks a role by itself and against the mount's ceilings.
func (r *Role) Validate(ceilings *config.Config) error {
	checks := []func() error{
		func() error { return ValidateName("name", r.Name) },
		func() error { return r.validateScopes(ceilings) },
		r.validateTTLs,
		func() error { return r.validateAudiences(ceilings) },
		r.validateSubject,
		r.validateCIDRs,
		func() error { return ValidateMetadata("metadata", r.Metadata) },
		func() error {
			return scope.ValidateNames("allowed_metadata", r.AllowedMetadata, maxMetadata, maxMetadataKey)
		},
		r.validateTypeFields,
	}
	for _, check := range checks {
		if err := check(); err != nil {
			return err
		}
	}
	return nil
}

func (r *Role) validateScopes(ceilings *config.Config) error {
	if err := scope.ValidatePatterns("allowed_scopes", r.AllowedScopes); err != nil {
		return err
	}
	if err := scope.Validate("default_scopes", r.DefaultScopes); err != nil {
		return err
	}
	if s, outside := scope.Outside(ceilings.AllowedScopes, r.AllowedScopes); outside {
		return usererror.Field("allowed_scopes", "%q is above the mount's ceiling; see allowed_scopes in config", s)
	}
	if s, outside := scope.Outside(r.AllowedScopes, r.DefaultScopes); outside {
		return usererror.Field("default_scopes", "%q is not in the role's allowed_scopes (an empty list allows nothing)", s)
	}
	return nil
}

func (r *Role) validateTTLs() error {
	switch {
	case r.TTL < 0:
		return usererror.Field("ttl", "must not be negative")
	case r.MaxTTL < 0:
		return usererror.Field("max_ttl", "must not be negative")
	case r.MaxTTL > 0 && r.TTL > r.MaxTTL:
		return usererror.Field("ttl", "is %s, longer than max_ttl (%s)", r.TTL, r.MaxTTL)
	case r.NotBeforeLeeway < 0 || r.NotBeforeLeeway > maxLeeway:
		return usererror.Field("not_before_leeway", "must be between 0 and %s", maxLeeway)
	}
	return nil
}

func (r *Role) validateAudiences(ceilings *config.Config) error {
	if err := scope.ValidateAudiences("audiences", r.Audiences); err != nil {
		return err
	}
	if a, outside := scope.Outside(ceilings.AllowedAudiences, r.Audiences); outside {
		return usererror.Field("audiences", "%q is above the mount's ceiling; see allowed_audiences in config", usererror.Clip(a))
	}
	if r.TokenType == JWT && len(r.Audiences) == 0 {
		return usererror.Field("audiences", "a jwt role needs at least one: the API that the token is for (RFC 9068, section 2.2)")
	}
	return nil
}

func (r *Role) validateCIDRs() error {
	if len(r.BoundCIDRs) > maxCIDRs {
		return usererror.Field("bound_cidrs", "has %d entries; at most %d are allowed", len(r.BoundCIDRs), maxCIDRs)
	}
	return nil
}

func (r *Role) validateSubject() error {
	if !text.Printable(r.Subject) {
		return usererror.Field("subject", "has control characters")
	}
	return template.CheckString("subject", r.Subject)
}

// ValidateSubject checks a subject after rendering.
func ValidateSubject(subject string) error {
	if subject == "" || len(subject) > maxSubjectBytes || !text.Printable(subject) {
		return usererror.Field("subject", "renders to nothing, to more than %d bytes, or to control characters for this caller, so no token was issued", maxSubjectBytes)
	}
	return nil
}

// ParseCIDRs reads networks in CIDR notation, or single addresses.
func ParseCIDRs(field string, list []string) ([]netip.Prefix, error) {
	var prefixes []netip.Prefix
	for _, s := range list {
		prefix, err := netip.ParsePrefix(s)
		if err != nil {
			var addr netip.Addr
			if addr, err = netip.ParseAddr(s); err == nil && addr.Zone() == "" {
				prefix = netip.PrefixFrom(addr, addr.BitLen())
			}
		}
		if err != nil || !prefix.IsValid() {
			return nil, usererror.Field(field, "%q is neither an IP address nor a network in CIDR notation, such as 10.0.0.0/8", usererror.Clip(s))
		}
		if addr := prefix.Addr(); addr.Is4In6() {
			return nil, usererror.Field(field, "%q is an IPv4 address mapped into IPv6; write it as IPv4", s)
		}
		prefixes = append(prefixes, prefix.Masked())
	}
	return prefixes, nil
}

// ValidateMetadata checks the metadata of a role or a token.
func ValidateMetadata(field string, metadata map[string]string) error {
	if len(metadata) > maxMetadata {
		return usererror.Field(field, "has %d entries; at most %d are allowed", len(metadata), maxMetadata)
	}
	total := 0
	for _, key := range slices.Sorted(maps.Keys(metadata)) {
		total += len(key) + len(metadata[key])
		switch {
		case key == "" || len(key) > maxMetadataKey || !text.Printable(key):
			return usererror.Field(field, "the key %q must be between 1 and %d bytes of text", usererror.Clip(key), maxMetadataKey)
		case len(metadata[key]) > maxMetadataValue || !text.Printable(metadata[key]):
			return usererror.Field(field, "the value of %q must be text of at most %d bytes", usererror.Clip(key), maxMetadataValue)
		}
	}
	if a, b, same := sameName(slices.Sorted(maps.Keys(metadata))); same {
		return usererror.Field(field, "%q and %q are one name to readers that do not tell capitals from small letters", usererror.Clip(a), usererror.Clip(b))
	}
	if total > maxMetadataBytes {
		return usererror.Field(field, "is %d bytes long; at most %d are allowed", total, maxMetadataBytes)
	}
	return nil
}

// validateTypeFields checks the fields that only some token types have.
func (r *Role) validateTypeFields() error {
	if r.TokenType.Opaque() {
		return r.validateOpaque()
	}
	return r.validateJWT()
}

func (r *Role) validateOpaque() error {
	const only = "is for token_type jwt only"
	switch {
	case r.Claims != nil:
		return usererror.Field("claims", only)
	case r.ClaimsTemplate != "":
		return usererror.Field("claims_template", only)
	case r.Key != "":
		return usererror.Field("key", only)
	case r.NotBeforeLeeway != 0:
		return usererror.Field("not_before_leeway", only)
	case r.Track:
		return usererror.Field("track", only+"; tokens of other types always have a record")
	case !format.ValidPrefix(r.Prefix):
		return usererror.Field("prefix", "must be groups of a-z and 0-9 joined by single underscores, at most %d characters", format.MaxPrefixLength)
	case r.MaxTokens < 0:
		return usererror.Field("max_tokens", "must not be negative; 0 sets no cap")
	}
	return nil
}

func (r *Role) validateJWT() error {
	const only = "is for token_type api_key and bearer only"
	switch {
	case r.Prefix != "":
		return usererror.Field("prefix", only)
	case r.MaxTokens != 0:
		return usererror.Field("max_tokens", only+": the engine keeps no record of live JWTs that it could count")
	}
	if err := ValidateName("key", r.Key); err != nil {
		return err
	}
	return r.validateClaims()
}

// reservedClaims are set by the engine; a role cannot override them.
var reservedClaims = []string{
	"iss", "sub", "aud", "exp", "nbf", "iat", "jti", // RFC 7519 §4.1
	"client_id", "scope", // RFC 9068 §2.2
	"status", // draft-ietf-oauth-status-list
	"cnf",    // RFC 7800
	"bound_cidrs", "metadata",
}

func (r *Role) validateClaims() error {
	if len(r.Claims) > maxClaimsBytes {
		return usererror.Field("claims", "is %d bytes long; at most %d are allowed", len(r.Claims), maxClaimsBytes)
	}
	claims, err := r.StaticClaims()
	if err != nil {
		return err
	}
	if r.ClaimsTemplate == "" {
		return nil
	}
	names, err := template.CheckObject("claims_template", r.ClaimsTemplate)
	if err != nil {
		return err
	}
	slices.Sort(names)
	return checkRendered(claims, names)
}

// checkRendered checks the names of rendered claims by themselves, and beside the
// fixed ones.
func checkRendered(claims map[string]json.RawMessage, rendered []string) error {
	if err := CheckClaimNames("claims_template", rendered); err != nil {
		return err
	}
	if _, b, same := sameName(slices.Concat(slices.Sorted(maps.Keys(claims)), rendered)); same {
		return usererror.Field("claims_template", "%q is in claims as well, in one spelling or another", usererror.Clip(b))
	}
	return nil
}

// AllClaims returns the role's claims for a caller: the fixed ones, which are
// checked each time, since they may have been stored by another version; and those
// that render returns for the template.
func (r *Role) AllClaims(render func(tmpl string) (map[string]json.RawMessage, error)) (map[string]json.RawMessage, error) {
	claims, err := r.StaticClaims()
	if err != nil || r.ClaimsTemplate == "" {
		return claims, err
	}
	rendered, err := render(r.ClaimsTemplate)
	if err != nil {
		return nil, err
	}
	// Once more after rendering: what was stored may have directives in names.
	if err := checkRendered(claims, slices.Sorted(maps.Keys(rendered))); err != nil {
		return nil, err
	}
	maps.Copy(rendered, claims)
	return rendered, nil
}

// StaticClaims returns the role's fixed claims by name, if they are claims that a
// role may have.
func (r *Role) StaticClaims() (map[string]json.RawMessage, error) {
	if r.Claims == nil {
		return nil, nil
	}
	if err := template.CheckJSON("claims", r.Claims); err != nil {
		return nil, err
	}
	var claims map[string]json.RawMessage
	if err := json.Unmarshal(r.Claims, &claims); err != nil || claims == nil {
		return nil, usererror.Field("claims", "must be a JSON object")
	}
	return claims, CheckClaimNames("claims", slices.Sorted(maps.Keys(claims)))
}

// CheckClaimNames refuses claims that the engine itself sets, and two that are the
// same in another spelling: some verifiers do not distinguish upper and lower case.
func CheckClaimNames(field string, names []string) error {
	for _, name := range names {
		switch {
		case name == "" || !text.Printable(name):
			return usererror.Field(field, "a claim's name must be text")
		case slices.ContainsFunc(reservedClaims, func(reserved string) bool { return text.Fold(reserved) == text.Fold(name) }):
			return usererror.Field(field, "%q is reserved: the engine sets it (reserved are %s)", usererror.Clip(name), strings.Join(reservedClaims, ", "))
		}
	}
	if a, b, same := sameName(names); same {
		return usererror.Field(field, "%q and %q are one name to verifiers that do not tell capitals from small letters", usererror.Clip(a), usererror.Clip(b))
	}
	return nil
}

// sameName returns the first two of names that are spellings of one.
func sameName(names []string) (a, b string, same bool) {
	spelled := make(map[string]string, len(names))
	for _, name := range names {
		folded := text.Fold(name)
		if other, ok := spelled[folded]; ok {
			return other, name, true
		}
		spelled[folded] = name
	}
	return "", "", false
}
