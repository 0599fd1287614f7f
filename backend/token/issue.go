package token

import (
	"context"
	"encoding/json"
	"errors"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/hashicorp/vault/sdk/framework"
	"github.com/hashicorp/vault/sdk/helper/locksutil"
	"github.com/hashicorp/vault/sdk/logical"

	"github.com/vault-tokens/vault-plugin-secrets-tokens/backend/config"
	"github.com/vault-tokens/vault-plugin-secrets-tokens/backend/keyring"
	"github.com/vault-tokens/vault-plugin-secrets-tokens/backend/role"
	"github.com/vault-tokens/vault-plugin-secrets-tokens/backend/scope"
	"github.com/vault-tokens/vault-plugin-secrets-tokens/backend/statuslist"
	"github.com/vault-tokens/vault-plugin-secrets-tokens/backend/template"
	"github.com/vault-tokens/vault-plugin-secrets-tokens/backend/text"
	"github.com/vault-tokens/vault-plugin-secrets-tokens/backend/usererror"
	"github.com/vault-tokens/vault-plugin-secrets-tokens/verify/format"
)

// Request asks for a token. A nil field asks for the role's default; any other
// value can only narrow what the role gives.
type Request struct {
	Role     string
	Scopes   *[]string
	TTL      *time.Duration
	Audience *[]string
	Metadata map[string]string
	Cnf      *map[string]string // members of RFC 7800 §3.1
	Caller   template.Caller
}

// Issued is a token that was issued.
type Issued struct {
	*Record // stored for an opaque token, and a tracked JWT
	Token   format.Secret

	TTL      time.Duration // of the lease, the same as the token's
	MaxTTL   time.Duration // of the lease over all renewals; zero: the mount's
	Leased   bool          // the role wants a lease
	Tracked  bool          // a JWT that has a record
	Warnings []string
}

// Issue makes a token. While the role's tokens are being ended, it waits.
func (t *Tokens) Issue(ctx context.Context, storage logical.Storage, request Request) (*Issued, error) {
	gate := locksutil.LockForKey(t.gates, request.Role)
	gate.RLock()
	defer gate.RUnlock()
	r, err := t.roles.Get(ctx, storage, request.Role)
	if err != nil {
		return nil, err
	}
	if r == nil {
		return nil, usererror.Field("role", "%q does not exist; write it at roles/%s first", request.Role, request.Role)
	}
	ceilings, err := t.config.Get(ctx, storage)
	if err != nil {
		return nil, err
	}
	issued, err := t.grant(r, ceilings, request)
	if err != nil {
		return nil, err
	}
	if err := t.notCutOff(ctx, storage, issued.ClientID, issued.IssuedAt); err != nil {
		return nil, err
	}
	renderer := template.NewRenderer(request.Caller, issued.IssuedAt)
	if issued.Subject, err = subject(r, request.Caller, renderer); err != nil {
		return nil, err
	}
	if r.TokenType.Opaque() {
		err = t.issueOpaque(ctx, storage, issued, r, ceilings)
	} else {
		err = t.issueJWT(ctx, storage, issued, r, ceilings, renderer)
	}
	if err != nil {
		return nil, err
	}
	t.noteIssue(issued.IssuedAt)
	// Again: its entity's tokens may have been revoked meanwhile. Then it is dead, and
	// the pass that marks these may be past it.
	if err := t.notCutOff(ctx, storage, issued.ClientID, issued.IssuedAt); err != nil {
		return nil, errors.Join(err, t.discard(ctx, storage, issued))
	}
	return issued, nil
}

// discard ends a token that was not given to anybody.
func (t *Tokens) discard(ctx context.Context, storage logical.Storage, issued *Issued) error {
	if !issued.TokenType.Opaque() && !issued.Tracked {
		return nil
	}
	defer t.records.Lock(issued.ID)()
	return t.end(ctx, storage, issued.Record)
}

// noteIssue follows the latest time that a token has as that of its issue.
func (t *Tokens) noteIssue(at time.Time) {
	for {
		latest := t.latestIssue.Load()
		if at.Unix() <= latest || t.latestIssue.CompareAndSwap(latest, at.Unix()) {
			return
		}
	}
}

// IssueClock is the time for a cut-off: not before the issue of any token, although
// the clock may have stepped back a little since. A clock that was far ahead is not
// followed.
func (t *Tokens) IssueClock() time.Time {
	now := t.clock()
	latest := time.Unix(t.latestIssue.Load(), 0)
	if latest.After(now) && latest.Sub(now) <= clockSlack {
		return latest
	}
	return now
}

// grant decides what the token may do, from what the role gives and what was
// asked for.
func (t *Tokens) grant(r *role.Role, ceilings *config.Config, request Request) (issued *Issued, err error) {
	issued = &Issued{Leased: r.GenerateLease, Record: &Record{
		TokenType:   r.TokenType,
		Role:        r.Name,
		ClientID:    clientID(request.Caller),
		EntityID:    request.Caller.EntityID,
		DisplayName: request.Caller.DisplayName,
		BoundCIDRs:  r.BoundCIDRs,
	}}
	if issued.Scopes, err = grantScopes(r, ceilings, request.Scopes); err != nil {
		return nil, err
	}
	if issued.Audience, err = grantAudience(r, ceilings, request.Audience); err != nil {
		return nil, err
	}
	if issued.Metadata, err = grantMetadata(r, request.Metadata); err != nil {
		return nil, err
	}
	if request.Cnf == nil && r.RequireCnf {
		return nil, usererror.Field("cnf", "role %q issues only tokens that are bound to a key: give jkt or x5t#S256", r.Name)
	}
	if request.Cnf != nil {
		if issued.Cnf, err = ParseConfirmation(*request.Cnf); err != nil {
			return nil, err
		}
	}
	return issued, t.grantTTL(issued, r, ceilings, request.TTL)
}

func (t *Tokens) issueOpaque(ctx context.Context, storage logical.Storage, issued *Issued, r *role.Role, c *config.Config) error {
	opaque, err := format.NewOpaque(t.random, r.Prefix)
	if err != nil {
		return err
	}
	hash := opaque.SecretHash()
	issued.ID, issued.Prefix, issued.SecretHash = opaque.ID, opaque.Prefix, hash[:]
	issued.Token = opaque.Encode()
	return t.records.add(ctx, storage, issued.Record, r.MaxTokens, func() (err error) {
		if err := t.pinLists(ctx, storage, c, issued.ExpiresAt); err != nil {
			return err
		}
		owner := statuslist.Owner{Lifetime: statuslist.LifetimeOf(t.longest(issued))}
		issued.Ref, err = t.lists.Reserve(ctx, storage, owner, r.Name, issued.ExpiresAt)
		return err
	})
}

// pinLists keeps the key from being deleted that signs the lists of opaque tokens,
// until the last of these tokens has expired. Without an issuer nothing is signed.
func (t *Tokens) pinLists(ctx context.Context, storage logical.Storage, c *config.Config, expires time.Time) error {
	if c.Issuer == "" {
		return nil
	}
	_, err := t.keys.PinLists(ctx, storage, role.DefaultKey, expires)
	return err
}

// longest returns how long an opaque token can live, over all renewals.
func (t *Tokens) longest(issued *Issued) time.Duration {
	if !issued.Leased { // nobody can renew it
		return issued.TTL
	}
	return max(issued.TTL, tightest(issued.MaxTTL, t.system.MaxLeaseTTL()))
}

// longestRef is a reference that takes as many bytes in a token as any.
var longestRef = statuslist.Ref{List: strings.Repeat("0", format.IDLength), Index: 1<<17 - 1}

func (t *Tokens) issueJWT(ctx context.Context, storage logical.Storage, issued *Issued, r *role.Role, c *config.Config, renderer *template.Renderer) error {
	if c.Issuer == "" {
		return usererror.Field("issuer", "is not configured, and a JWT needs it: write the mount's public URL to config, such as issuer=https://vault.example.com/v1/tokens")
	}
	extra, err := renderClaims(r, renderer)
	if err != nil {
		return err
	}
	version, err := t.keys.ForSigning(ctx, storage, r.Key, r.Name, issued.Audience, issued.ExpiresAt)
	if err != nil {
		return err
	}
	if issued.ID, err = format.NewID(t.random); err != nil {
		return err
	}
	// Measured first, so that a request which is refused uses up no index.
	issued.Ref = longestRef
	if length, err := version.SignedLength(format.AccessTokenType, claimsOf(issued, r, c.Issuer, extra)); err != nil {
		return err
	} else if length > maxTokenLength {
		return usererror.Field("metadata", "the token would be %d bytes long, and %d are allowed; ask for less metadata and fewer scopes, or give the role fewer claims", length, maxTokenLength)
	}
	owner := statuslist.Owner{Key: r.Key, Issuer: c.Issuer}
	if issued.Ref, err = t.lists.Reserve(ctx, storage, owner, r.Name, issued.ExpiresAt); err != nil {
		return err
	}
	if err := t.sign(ctx, storage, issued, r, claimsOf(issued, r, c.Issuer, extra), version); err != nil {
		return err
	}
	return t.track(ctx, storage, issued, r)
}

// track stores a record of a JWT, if its role wants that.
func (t *Tokens) track(ctx context.Context, storage logical.Storage, issued *Issued, r *role.Role) error {
	if !r.Track {
		return nil
	}
	issued.Tracked = true
	defer t.records.Lock(issued.ID)()
	return t.records.Put(ctx, storage, issued.ID, issued.Record)
}

// sign signs a JWT with a version that is still published afterwards. An emergency
// rotation may have dropped it since it was looked up; then the next one signs.
func (t *Tokens) sign(ctx context.Context, storage logical.Storage, issued *Issued, r *role.Role, claims *format.Claims, version *keyring.Version) error {
	for range 2 {
		signed, err := version.Sign(format.AccessTokenType, claims)
		if err != nil {
			return err
		}
		published, err := t.keys.Published(ctx, storage, version.ID)
		if err != nil {
			return err
		}
		if published != nil {
			issued.Token = format.Secret(signed)
			return nil
		}
		if version, err = t.keys.ForSigning(ctx, storage, r.Key, r.Name, issued.Audience, issued.ExpiresAt); err != nil {
			return err
		}
	}
	return usererror.Field("key", "%q is being rotated in an emergency, so no token was issued; ask again", r.Key)
}

// claimsOf returns the claims of an issued JWT; extra are the role's own.
func claimsOf(issued *Issued, r *role.Role, issuer string, extra map[string]json.RawMessage) *format.Claims {
	claims := &format.Claims{
		Issuer:    issuer,
		Subject:   issued.Subject,
		Audience:  issued.Audience,
		ExpiresAt: issued.ExpiresAt.Unix(),
		NotBefore: issued.IssuedAt.Add(-r.NotBeforeLeeway).Unix(),
		IssuedAt:  issued.IssuedAt.Unix(),
		ID:        issued.ID,
		ClientID:  issued.ClientID,
		Scope:     strings.Join(issued.Scopes, " "),
		Status:    format.Status{StatusList: format.StatusListReference{Index: issued.Ref.Index, URI: statuslist.URI(issuer, issued.Ref.List)}},
		Metadata:  issued.Metadata,
		Cnf:       issued.Cnf,
		Extra:     extra,
	}
	for _, prefix := range issued.BoundCIDRs {
		claims.BoundCIDRs = append(claims.BoundCIDRs, prefix.String())
	}
	return claims
}

// grantScopes returns the scopes asked for, or the role's defaults. Both must be
// within the mount's ceiling as it is now. That a role allows its defaults was
// checked when it was written.
func grantScopes(r *role.Role, ceilings *config.Config, asked *[]string) ([]string, error) {
	if asked == nil {
		if s, outside := scope.Outside(ceilings.AllowedScopes, r.DefaultScopes); outside {
			return nil, usererror.Field("scopes", "the role's default scope %q is above the mount's ceiling; see allowed_scopes in config", s)
		}
		return r.DefaultScopes, nil
	}
	if err := scope.Validate("scopes", *asked); err != nil {
		return nil, err
	}
	if s, outside := scope.Outside(r.AllowedScopes, *asked); outside {
		return nil, usererror.Field("scopes", "%q is not allowed by role %q", s, r.Name)
	}
	if s, outside := scope.Outside(ceilings.AllowedScopes, *asked); outside {
		return nil, usererror.Field("scopes", "%q is above the mount's ceiling; see allowed_scopes in config", s)
	}
	return *asked, nil
}

// grantAudience returns the audiences asked for, or the role's. As with scopes, both
// must be within the mount's ceiling as it is now.
func grantAudience(r *role.Role, ceilings *config.Config, asked *[]string) ([]string, error) {
	granted, err := narrowAudience(r, asked)
	if err != nil {
		return nil, err
	}
	if a, outside := scope.Outside(ceilings.AllowedAudiences, granted); outside {
		return nil, usererror.Field("audience", "%q is above the mount's ceiling; see allowed_audiences in config", usererror.Clip(a))
	}
	return granted, nil
}

func narrowAudience(r *role.Role, asked *[]string) ([]string, error) {
	if asked == nil {
		return r.Audiences, nil
	}
	if err := scope.ValidateAudiences("audience", *asked); err != nil {
		return nil, err
	}
	for _, a := range *asked {
		if !slices.Contains(r.Audiences, a) {
			return nil, usererror.Field("audience", "%q is not an audience of role %q", usererror.Clip(a), r.Name)
		}
	}
	if len(*asked) == 0 && len(r.Audiences) > 0 {
		return nil, usererror.Field("audience", "name at least one of the role's audiences, or leave the field out")
	}
	return *asked, nil
}

// grantMetadata returns the role's metadata and what the caller adds. What may be
// added is named by the role: an API that reads it would else not know whose word
// it is. What the role sets cannot be added in another spelling either, for readers
// that do not tell spellings apart.
func grantMetadata(r *role.Role, extra map[string]string) (map[string]string, error) {
	if len(extra) == 0 {
		return r.Metadata, nil
	}
	set := map[string]bool{}
	for key := range r.Metadata {
		set[text.Fold(key)] = true
	}
	for _, key := range slices.Sorted(maps.Keys(extra)) {
		if set[text.Fold(key)] {
			return nil, usererror.Field("metadata", "%q is set by the role and cannot be changed", usererror.Clip(key))
		}
		if _, outside := scope.Outside(r.AllowedMetadata, []string{key}); outside {
			return nil, usererror.Field("metadata", "%q is not in allowed_metadata of role %q (an empty list allows none)", usererror.Clip(key), r.Name)
		}
	}
	merged := maps.Clone(extra)
	maps.Copy(merged, r.Metadata)
	return merged, role.ValidateMetadata("metadata", merged)
}

// grantTTL fixes the token's life. The lease is given the same TTL, computed
// by the function that Vault itself uses for it.
func (t *Tokens) grantTTL(issued *Issued, r *role.Role, ceilings *config.Config, asked *time.Duration) error {
	issued.MaxTTL = tightest(r.MaxTTL, ceilings.MaxTTL)
	ttl, warnings, err := t.life(r, ceilings)
	if err != nil {
		return err
	}
	if asked != nil {
		switch {
		case *asked < time.Second:
			return usererror.Field("ttl", "must be at least 1s")
		case *asked > ttl:
			return usererror.Field("ttl", "%s is longer than role %q allows (%s)", *asked, r.Name, ttl)
		}
		ttl, warnings = *asked, nil
	}
	issued.TTL, issued.Warnings = ttl, warnings
	issued.IssuedAt = t.clock().UTC().Truncate(time.Second)
	issued.ExpiresAt = issued.IssuedAt.Add(ttl)
	return nil
}

// life returns how long a token of a role lives that asks for no shorter life.
func (t *Tokens) life(r *role.Role, ceilings *config.Config) (time.Duration, []string, error) {
	return framework.CalculateTTL(t.system, 0, r.TTL, 0, tightest(r.MaxTTL, ceilings.MaxTTL), 0, time.Time{})
}

// Life returns how long tokens of a role live at most, unless they are renewed.
func (t *Tokens) Life(r *role.Role, ceilings *config.Config) (time.Duration, error) {
	ttl, _, err := t.life(r, ceilings)
	return ttl, err
}

// tightest returns the smaller of two maxima, of which zero is none.
func tightest(a, b time.Duration) time.Duration {
	if a == 0 || b > 0 && b < a {
		return b
	}
	return a
}

// clientID names who asked for the token: the entity, which is stable over
// logins, or the display name of a Vault token without an entity.
func clientID(caller template.Caller) string {
	if caller.EntityID != "" {
		return caller.EntityID
	}
	return caller.DisplayName
}

func subject(r *role.Role, caller template.Caller, renderer *template.Renderer) (string, error) {
	if r.Subject == "" {
		return clientID(caller), nil
	}
	rendered, err := renderer.String("subject", r.Subject)
	if err != nil {
		return "", err
	}
	return rendered, role.ValidateSubject(rendered)
}

// renderClaims returns the role's own claims for this caller.
func renderClaims(r *role.Role, renderer *template.Renderer) (map[string]json.RawMessage, error) {
	return r.AllClaims(func(tmpl string) (map[string]json.RawMessage, error) {
		return renderer.Object("claims_template", tmpl)
	})
}
