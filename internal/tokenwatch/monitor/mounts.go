package monitor

import (
	"strings"

	"github.com/hashicorp/golang-lru/v2/simplelru"

	"github.com/vault-tokens/vault-plugin-secrets-tokens/internal/tokenwatch"
)

// mountTable knows the mounts of the engine, and so which requests elsewhere (for
// a lease, for a mount) are about one of them.
type mountTable struct {
	known map[mountName]bool
	// leases maps the HMAC of a lease's id to the id, for callers who send it in
	// the body. The response to a renewal shows both.
	leases *simplelru.LRU[string, string]
}

type mountName struct{ Namespace, Mount string }

const (
	maxMounts = 1000
	maxLeases = 10_000
)

func newMountTable() *mountTable {
	leases, _ := simplelru.NewLRU[string, string](maxLeases, nil)
	return &mountTable{known: make(map[mountName]bool), leases: leases}
}

// resolve reports whether e is about the engine, and fills in its mount if so.
func (t *mountTable) resolve(e *tokenwatch.Event) bool {
	switch e.Kind {
	case tokenwatch.KindAuditDisable, tokenwatch.KindAuditEnable:
		return true
	case tokenwatch.KindMountTune, tokenwatch.KindMountDisable:
		return t.known[mountName{e.Namespace, e.Mount}]
	case tokenwatch.KindLeasePrefix:
		return t.findPrefix(e)
	case tokenwatch.KindLeaseRenew, tokenwatch.KindLeaseRevoke:
		return t.findLease(e)
	}
	if len(t.known) < maxMounts {
		t.known[mountName{e.Namespace, e.Mount}] = true
	}
	return true
}

func (t *mountTable) findLease(e *tokenwatch.Event) bool {
	switch {
	case e.LeaseHash != "" && e.LeaseID != "":
		if t.ofLease(e) {
			t.leases.Add(e.LeaseHash, e.LeaseID)
		}
	case e.LeaseHash != "":
		e.LeaseID, _ = t.leases.Get(e.LeaseHash)
	}
	return t.ofLease(e)
}

// ofLease reads mount and role from a lease's id: <mount>creds/<role>/<random>.
func (t *mountTable) ofLease(e *tokenwatch.Event) bool {
	for name := range t.known {
		rest, ok := strings.CutPrefix(e.LeaseID, name.Mount)
		if !ok || name.Namespace != e.Namespace {
			continue
		}
		e.Mount = name.Mount
		if role, ok := strings.CutPrefix(rest, "creds/"); ok {
			if end := strings.LastIndexByte(role, '/'); end >= 0 {
				e.Role = role[:end]
			}
		}
		return true
	}
	return false
}

// findPrefix matches a prefix within a mount, and one that contains a mount.
func (t *mountTable) findPrefix(e *tokenwatch.Event) bool {
	prefix := strings.TrimSuffix(e.Name, "/") + "/"
	for name := range t.known {
		if name.Namespace == e.Namespace && (strings.HasPrefix(prefix, name.Mount) || strings.HasPrefix(name.Mount, strings.TrimSuffix(e.Name, "/"))) {
			e.Mount = name.Mount
			return true
		}
	}
	return false
}
