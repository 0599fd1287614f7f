package rules

import (
	"net/netip"
	"strings"

	"github.com/vault-tokens/vault-plugin-secrets-tokens/internal/tokenwatch"
)

// parseAddress reads an address in the log, unless Vault hashed it.
func parseAddress(s string) (netip.Addr, bool) {
	if strings.HasPrefix(s, tokenwatch.HashPrefix) { // as most are: spares making an error
		return netip.Addr{}, false
	}
	addr, err := netip.ParseAddr(s)
	return addr.Unmap(), err == nil
}

// parseNetwork reads a network in a setting, or an address, which is the network
// of it alone.
func parseNetwork(s string) (netip.Prefix, error) {
	if addr, err := netip.ParseAddr(s); err == nil {
		return addr.Prefix(addr.BitLen())
	}
	return netip.ParsePrefix(s)
}
