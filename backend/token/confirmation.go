package token

import (
	"encoding/base64"
	"maps"
	"slices"
	"strings"

	"github.com/vault-tokens/vault-plugin-secrets-tokens/backend/badinput"
)

// Confirmation binds a token to a key that its bearer must prove to hold
// (RFC 7800 §3.1).
type Confirmation struct {
	// JKT is the SHA-256 thumbprint of a DPoP key (RFC 9449 §6.1).
	JKT string `json:"jkt,omitempty"`
	// X5T is the SHA-256 thumbprint of a client certificate (RFC 8705 §3.1).
	X5T string `json:"x5t#S256,omitempty"`
}

// ParseConfirmation reads a cnf object. An empty one is refused: whoever sends
// it wants a bound token.
func ParseConfirmation(cnf map[string]string) (*Confirmation, error) {
	if len(cnf) == 0 {
		return nil, badinput.Field("cnf", "is empty; give jkt or x5t#S256, or leave it out for a token that is not bound")
	}
	c := &Confirmation{}
	for _, member := range slices.Sorted(maps.Keys(cnf)) {
		thumbprint := cnf[member]
		switch member {
		case "jkt":
			c.JKT = thumbprint
		case "x5t#S256":
			c.X5T = thumbprint
		default:
			return nil, badinput.Field("cnf", "may hold jkt (DPoP, RFC 9449) and x5t#S256 (mTLS, RFC 8705), and nothing else")
		}
		if _, err := base64.RawURLEncoding.Strict().DecodeString(thumbprint); err != nil || len(thumbprint) != 43 || strings.ContainsAny(thumbprint, "\r\n") {
			return nil, badinput.Field("cnf", "%s must be a SHA-256 thumbprint in base64url without padding: 43 characters", member)
		}
	}
	return c, nil
}

// Map returns the confirmation as it is shown.
func (c *Confirmation) Map() map[string]any {
	shown := map[string]any{}
	if c.JKT != "" {
		shown["jkt"] = c.JKT
	}
	if c.X5T != "" {
		shown["x5t#S256"] = c.X5T
	}
	return shown
}
