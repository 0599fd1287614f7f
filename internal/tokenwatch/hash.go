package tokenwatch

import "strings"

// ShortHash keeps enough of a value that Vault hashed to find it in the log. Any
// other value stays whole.
func ShortHash(s string) string {
	if digits, ok := strings.CutPrefix(s, HashPrefix); ok && len(digits) > 12 {
		return HashPrefix + digits[:12] + "…"
	}
	return s
}
