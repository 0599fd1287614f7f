package format

import (
	"encoding/base64"
	"strings"
)

// Confirmation binds a token to a key that its bearer must prove to hold: the
// cnf claim (RFC 7800 §3.1).
type Confirmation struct {
	// JKT is the SHA-256 thumbprint of a DPoP key (RFC 9449 §6.1).
	JKT string `json:"jkt,omitempty"`
	// X5T is the SHA-256 thumbprint of a client certificate (RFC 8705 §3.1).
	X5T string `json:"x5t#S256,omitempty"`
}

// thumbprintLength is that of a SHA-256 hash in base64url without padding.
const thumbprintLength = 43

// ValidThumbprint reports whether s is a SHA-256 thumbprint as cnf holds it:
// base64url without padding (RFC 4648 §5), 43 characters.
func ValidThumbprint(s string) bool {
	if len(s) != thumbprintLength || strings.ContainsAny(s, "\r\n") { // which the decoder would skip
		return false
	}
	_, err := base64.RawURLEncoding.Strict().DecodeString(s)
	return err == nil
}

// Map returns the confirmation as a JSON object holds it.
func (c *Confirmation) Map() map[string]any {
	members := map[string]any{}
	if c.JKT != "" {
		members["jkt"] = c.JKT
	}
	if c.X5T != "" {
		members["x5t#S256"] = c.X5T
	}
	return members
}
