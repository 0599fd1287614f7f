package rules

import (
	"net/netip"
	"slices"

	"github.com/vault-tokens/vault-plugin-secrets-tokens/internal/tokenwatch"
)

// ignoreList is what a rule ignores.
type ignoreList struct {
	words    map[string]bool
	networks []netip.Prefix
}

func newIgnoreList(entries []string) ignoreList {
	var l ignoreList
	for _, entry := range entries {
		if network, err := parseNetwork(entry); err == nil {
			l.networks = append(l.networks, network)
			continue
		}
		if l.words == nil {
			l.words = make(map[string]bool)
		}
		l.words[entry] = true
	}
	return l
}

func (l *ignoreList) has(e *tokenwatch.Event) bool {
	if l.words != nil && (l.words[e.EntityID] || l.words[e.DisplayName] || l.words[e.Role] || l.words[e.TokenID] || l.words[e.Mount] || l.words[e.ClientID]) {
		return true
	}
	return l.hasAddress(e.RemoteAddress) || l.hasAddress(e.ClientIP)
}

func (l *ignoreList) hasAddress(s string) bool {
	if len(l.networks) == 0 {
		return false
	}
	addr, ok := parseAddress(s)
	return ok && slices.ContainsFunc(l.networks, func(n netip.Prefix) bool { return n.Contains(addr) })
}
