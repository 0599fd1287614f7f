package format

import (
	"encoding/json"
	"reflect"
	"strings"
	"time"

	"github.com/golang-jwt/jwt/v5"
)

// AccessTokenType is the typ header of access tokens (RFC 9068 §2.1). It keeps
// an ID token, or any other JWT of the same issuer, from passing as one.
const AccessTokenType = "at+jwt"

// Claims are the claims of an access token (RFC 9068 §2.2).
type Claims struct {
	Issuer     string            `json:"iss"`
	Subject    string            `json:"sub"`
	Audience   jwt.ClaimStrings  `json:"aud"`
	ExpiresAt  int64             `json:"exp"` // seconds since the epoch, as all times here
	NotBefore  int64             `json:"nbf"`
	IssuedAt   int64             `json:"iat"`
	ID         string            `json:"jti"`
	ClientID   string            `json:"client_id"`
	Scope      string            `json:"scope,omitempty"` // space-separated
	Status     Status            `json:"status"`
	Cnf        *Confirmation     `json:"cnf,omitempty"`
	BoundCIDRs []string          `json:"bound_cidrs,omitempty"`
	Metadata   map[string]string `json:"metadata,omitempty"`

	// Extra are the role's own claims, already rendered.
	Extra map[string]json.RawMessage `json:"-"`
}

// Status refers to the token's entry in a Token Status List
// (draft-ietf-oauth-status-list, Referenced Token).
type Status struct {
	StatusList StatusListReference `json:"status_list"`
}

// StatusListReference is an index in the list that is served at a URI.
type StatusListReference struct {
	Index int    `json:"idx"`
	URI   string `json:"uri"`
}

// MarshalJSON writes the typed claims, then the role's own.
func (c *Claims) MarshalJSON() ([]byte, error) {
	type plain Claims // without this method
	typed, err := json.Marshal((*plain)(c))
	if err != nil || len(c.Extra) == 0 {
		return typed, err
	}
	extra, err := json.Marshal(c.Extra)
	if err != nil {
		return nil, err
	}
	return append(append(typed[:len(typed)-1], ','), extra[1:]...), nil
}

// UnmarshalJSON reads the typed claims by their exact names. By itself, the
// decoder would take "EXP" for "exp".
func (c *Claims) UnmarshalJSON(raw []byte) error {
	var all map[string]json.RawMessage
	if err := json.Unmarshal(raw, &all); err != nil {
		return err
	}
	for name := range all {
		if !typedClaims[name] {
			delete(all, name)
		}
	}
	typed, err := json.Marshal(all)
	if err != nil {
		return err
	}
	type plain Claims // without this method
	return json.Unmarshal(typed, (*plain)(c))
}

// typedClaims are the names of the claims that Claims has fields for.
var typedClaims = func() map[string]bool {
	names := map[string]bool{}
	for _, field := range reflect.VisibleFields(reflect.TypeFor[Claims]()) {
		name, _, _ := strings.Cut(field.Tag.Get("json"), ",")
		names[name] = name != "-"
	}
	return names
}()

// The methods below make Claims a jwt.Claims.

func numericDate(seconds int64) *jwt.NumericDate { return jwt.NewNumericDate(time.Unix(seconds, 0)) }

// GetExpirationTime implements jwt.Claims.
func (c *Claims) GetExpirationTime() (*jwt.NumericDate, error) { return numericDate(c.ExpiresAt), nil }

// GetIssuedAt implements jwt.Claims.
func (c *Claims) GetIssuedAt() (*jwt.NumericDate, error) { return numericDate(c.IssuedAt), nil }

// GetNotBefore implements jwt.Claims.
func (c *Claims) GetNotBefore() (*jwt.NumericDate, error) { return numericDate(c.NotBefore), nil }

// GetIssuer implements jwt.Claims.
func (c *Claims) GetIssuer() (string, error) { return c.Issuer, nil }

// GetSubject implements jwt.Claims.
func (c *Claims) GetSubject() (string, error) { return c.Subject, nil }

// GetAudience implements jwt.Claims.
func (c *Claims) GetAudience() (jwt.ClaimStrings, error) { return c.Audience, nil }
