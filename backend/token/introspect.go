package token

import (
	"context"
	"errors"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/hashicorp/vault/sdk/logical"

	"github.com/vault-tokens/vault-plugin-secrets-tokens/backend/role"
	"github.com/vault-tokens/vault-plugin-secrets-tokens/backend/scope"
	"github.com/vault-tokens/vault-plugin-secrets-tokens/backend/statuslist"
	"github.com/vault-tokens/vault-plugin-secrets-tokens/backend/store"
	"github.com/vault-tokens/vault-plugin-secrets-tokens/backend/usererror"
	"github.com/vault-tokens/vault-plugin-secrets-tokens/verify/format"
)

// Introspection asks whether a token is active and fit for a use. Only the checks
// that are asked for are made, nil asking for none, with one exception: a token
// that is bound to networks is never active without the client's address.
type Introspection struct {
	Token          format.Secret
	ClientIP       *string
	RequiredScopes []string
	Audience       *string // the API that asks
}

// Answer is the answer to an introspection (RFC 7662 §2.2). For a token that is
// not live it has nothing but Reason, which is for the log.
type Answer struct {
	Active bool
	Reason Reason

	// The checks that a live token failed; any of them makes it inactive.
	ScopeFailed, AudienceFailed, ClientIPFailed bool

	ID        string
	TokenType role.TokenType
	Role      string
	Scopes    []string
	Subject   string
	ClientID  string
	Audience  []string
	Issuer    string
	Metadata  map[string]string
	Cnf       *format.Confirmation
	IssuedAt  time.Time
	ExpiresAt time.Time
	NotBefore time.Time // of a JWT
	// Status is where the token's bit is published (draft-ietf-oauth-status-list), nil
	// if it is not.
	Status *format.StatusListReference

	boundCIDRs []netip.Prefix
}

// Genuine reports whether the token is one that the engine issued, live or not.
// Of others there is no telling where they come from, nor how many.
func (a *Answer) Genuine() bool { return a.Reason != Malformed && a.Reason != Unknown }

// Introspect answers whether a token is active.
func (t *Tokens) Introspect(ctx context.Context, storage logical.Storage, question Introspection) (*Answer, error) {
	client, err := question.validate()
	if err != nil {
		return nil, err
	}
	presented, err := t.find(ctx, storage, question.Token)
	if err != nil {
		return nil, err
	}
	if presented.reason != "" {
		return &Answer{Reason: presented.reason}, nil
	}
	answer, err := presented.describe()
	if err != nil {
		return nil, err
	}
	if answer.Issuer == "" {
		c, err := t.config.Get(ctx, storage)
		if err != nil {
			return nil, err
		}
		answer.Issuer = c.Issuer
		if answer.Status, err = t.published(ctx, storage, presented.record.Ref, c.Issuer); err != nil {
			return nil, err
		}
	}
	if question.RequiredScopes != nil {
		_, answer.ScopeFailed = scope.Outside(answer.Scopes, question.RequiredScopes)
	}
	answer.AudienceFailed = question.Audience != nil && !slices.Contains(answer.Audience, *question.Audience)
	answer.ClientIPFailed = !within(answer.boundCIDRs, client)
	answer.Active = !answer.ScopeFailed && !answer.AudienceFailed && !answer.ClientIPFailed
	if !answer.Active {
		answer.Reason = CheckFail
	}
	return answer, nil
}

// published returns where the bit of an opaque token is published: nowhere as long as
// the mount has no issuer, or no key to sign the list.
func (t *Tokens) published(ctx context.Context, storage logical.Storage, ref statuslist.Ref, issuer string) (*format.StatusListReference, error) {
	if issuer == "" || ref == (statuslist.Ref{}) {
		return nil, nil
	}
	key, err := t.keys.Get(ctx, storage, role.DefaultKey)
	if errors.Is(err, store.ErrUndecodable) || err == nil && key == nil {
		return nil, nil
	}
	return &format.StatusListReference{Index: ref.Index, URI: statuslist.URI(issuer, ref.List)}, err
}

// validate checks the question and reads the client's address, which is the
// zero Addr if none was given. A check that is named and empty is refused: most
// likely it is an unset variable, in a server that relies on the check.
func (q *Introspection) validate() (netip.Addr, error) {
	if q.Token == "" {
		return netip.Addr{}, usererror.Field("token", "is required: the token to introspect")
	}
	if q.RequiredScopes != nil {
		if len(q.RequiredScopes) == 0 {
			return netip.Addr{}, usererror.Field("required_scopes", "is empty; name the scopes that the token must have, or leave it out")
		}
		if err := scope.Validate("required_scopes", q.RequiredScopes); err != nil {
			return netip.Addr{}, err
		}
	}
	if q.Audience != nil && *q.Audience == "" {
		return netip.Addr{}, usererror.Field("audience", "is empty; name the API that the token must be for, or leave it out")
	}
	if q.ClientIP == nil {
		return netip.Addr{}, nil
	}
	if *q.ClientIP == "" {
		return netip.Addr{}, usererror.Field("client_ip", "is empty; give the address that the token was presented from, or leave it out")
	}
	client, err := netip.ParseAddr(*q.ClientIP)
	if err != nil {
		return netip.Addr{}, usererror.Field("client_ip", "must be an IP address without port, such as 192.0.2.7")
	}
	return client.Unmap().WithZone(""), nil
}

// within reports whether a token bound to these networks may be used by the
// client. No networks bind to nothing; an unknown client is in none.
func within(networks []netip.Prefix, client netip.Addr) bool {
	return len(networks) == 0 || slices.ContainsFunc(networks, func(p netip.Prefix) bool { return p.Contains(client) })
}

// describe shapes a live token of any kind into an answer.
func (f *found) describe() (*Answer, error) {
	if r := f.record; r != nil {
		return &Answer{
			ID:         r.ID,
			TokenType:  r.TokenType,
			Role:       r.Role,
			Scopes:     r.Scopes,
			Subject:    r.Subject,
			ClientID:   r.ClientID,
			Audience:   r.Audience,
			Metadata:   r.Metadata,
			Cnf:        r.Cnf,
			IssuedAt:   r.IssuedAt,
			ExpiresAt:  r.ExpiresAt,
			boundCIDRs: r.BoundCIDRs,
		}, nil
	}
	c := f.claims
	networks, err := role.ParseCIDRs("bound_cidrs", c.BoundCIDRs)
	if err != nil {
		return nil, err
	}
	return &Answer{
		ID:         c.ID,
		TokenType:  role.JWT,
		Role:       f.role,
		Scopes:     strings.Fields(c.Scope),
		Subject:    c.Subject,
		ClientID:   c.ClientID,
		Audience:   c.Audience,
		Issuer:     c.Issuer,
		Metadata:   c.Metadata,
		Cnf:        c.Cnf,
		IssuedAt:   time.Unix(c.IssuedAt, 0).UTC(),
		ExpiresAt:  time.Unix(c.ExpiresAt, 0).UTC(),
		NotBefore:  time.Unix(c.NotBefore, 0).UTC(),
		Status:     &c.Status.StatusList,
		boundCIDRs: networks,
	}, nil
}
