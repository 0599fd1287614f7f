package token

import (
	"maps"
	"slices"

	"github.com/vault-tokens/vault-plugin-secrets-tokens/backend/usererror"
	"github.com/vault-tokens/vault-plugin-secrets-tokens/verify/format"
)

// ParseConfirmation reads a cnf object. An empty one is refused: whoever sends
// it wants a bound token.
func ParseConfirmation(cnf map[string]string) (*format.Confirmation, error) {
	if len(cnf) == 0 {
		return nil, usererror.Field("cnf", "is empty; give jkt or x5t#S256, or leave it out for a token that is not bound")
	}
	c := &format.Confirmation{}
	for _, member := range slices.Sorted(maps.Keys(cnf)) {
		thumbprint := cnf[member]
		switch member {
		case "jkt":
			c.JKT = thumbprint
		case "x5t#S256":
			c.X5T = thumbprint
		default:
			return nil, usererror.Field("cnf", "may hold jkt (DPoP, RFC 9449) and x5t#S256 (mTLS, RFC 8705), and nothing else")
		}
		if !format.ValidThumbprint(thumbprint) {
			return nil, usererror.Field("cnf", "%s must be a SHA-256 thumbprint in base64url without padding: 43 characters", member)
		}
	}
	return c, nil
}
