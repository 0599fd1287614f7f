package tokens

import (
	"testing"

	"github.com/hashicorp/vault/sdk/logical"
)

// Who answers an operation that reaches a node which follows another's writes.
const (
	activeNode = "the active node"
	anyNode    = "any node, from its own copy of the storage"
	asSet      = "the active node, unless the configuration says otherwise"
)

// forwarding has every operation of every path, with who answers it and why.
var forwarding = map[string]map[logical.Operation]struct{ who, why string }{
	"config": {
		logical.ReadOperation:   {anyNode, "says nothing of a token; a change arrives as fast as that of a role"},
		logical.UpdateOperation: {activeNode, "writes"},
	},
	"roles/?$": {
		logical.ListOperation: {anyNode, "says nothing of a token"},
	},
	"roles/(?P<name>.+)": {
		logical.ReadOperation:   {anyNode, "says nothing of a token; what is issued is decided where it is written"},
		logical.CreateOperation: {activeNode, "writes"},
		logical.UpdateOperation: {activeNode, "writes"},
		logical.PatchOperation:  {activeNode, "writes"},
		logical.DeleteOperation: {activeNode, "writes"},
	},
	"roles/(?P<name>[^/]+)/revoke$": {
		logical.UpdateOperation: {activeNode, "writes"},
	},
	"creds/(?P<role>.+)": {
		logical.ReadOperation:   {activeNode, "writes a record, or reserves a place in a status list"},
		logical.UpdateOperation: {activeNode, "writes a record, or reserves a place in a status list"},
	},
	"introspect": {
		logical.UpdateOperation: {asSet, "a lagging copy calls a token active whose revocation was acknowledged"},
	},
	"tokens/?$": {
		logical.ListOperation: {activeNode, "who revokes all tokens of a list must not miss one that was just issued"},
	},
	"tokens/(?P<id>.+)": {
		logical.ReadOperation:   {activeNode, "a 404 says that the token is revoked, an answer that it lives: as introspection does"},
		logical.DeleteOperation: {activeNode, "writes"},
	},
	"revoke": {
		logical.UpdateOperation: {activeNode, "writes"},
	},
	"entities/(?P<id>[^/]+)/revoke": {
		logical.UpdateOperation: {activeNode, "writes"},
	},
	"entities/(?P<id>.+)": {
		logical.ReadOperation: {activeNode, "a 404 says that the entity's tokens live, as introspection does"},
	},
	"tidy": {
		logical.UpdateOperation: {activeNode, "writes, in the background"},
	},
	"tidy/status": {
		logical.ReadOperation: {activeNode, "says how work stands that only the node does which writes"},
	},
	"tidy/cancel": {
		logical.UpdateOperation: {activeNode, "writes, and ends work that only the node does which writes"},
	},
	"oauth2/introspect": {
		logical.UpdateOperation: {asSet, "as introspect"},
	},
	"oauth2/revoke": {
		logical.UpdateOperation: {activeNode, "writes"},
	},
	"keys/?$": {
		logical.ListOperation: {anyNode, "says nothing of a token"},
	},
	"keys/(?P<name>[^/]+)/rotate": {
		logical.UpdateOperation: {activeNode, "writes"},
	},
	"keys/(?P<name>[^/]+)/rotate-emergency": {
		logical.UpdateOperation: {activeNode, "writes"},
	},
	"keys/(?P<name>.+)": {
		logical.ReadOperation:   {activeNode, "last_error says why a key cannot sign or be rotated, which only the node that does so knows"},
		logical.CreateOperation: {activeNode, "writes"},
		logical.UpdateOperation: {activeNode, "writes"},
		logical.DeleteOperation: {activeNode, "writes"},
	},
	"jwks": {
		logical.ReadOperation: {anyNode, "needs no Vault token: anybody could load the active node; it may be cached for minutes anyway"},
	},
	`\.well-known/openid-configuration`: {
		logical.ReadOperation: {anyNode, "needs no Vault token; it may be cached for minutes anyway"},
	},
	`\.well-known/oauth-authorization-server`: {
		logical.ReadOperation: {anyNode, "needs no Vault token; it may be cached for minutes anyway"},
	},
	"status": {
		logical.ReadOperation: {anyNode, "the numbers are of a process: each node has its own"},
	},
	"status/(?P<list>.+)": {
		logical.ReadOperation: {anyNode, "needs no Vault token, and is asked for most; a verifier may use a copy that is as old as its ttl anyway"},
	},
}

// A new path or operation has to say who answers it.
func TestWhoAnswersEachOperation(t *testing.T) {
	m := newMount(t)
	known := 0
	for _, path := range m.backend.Paths {
		for operation, handler := range path.Operations {
			answers, ok := forwarding[path.Pattern][operation]
			if !ok || answers.why == "" {
				t.Errorf("%s %s: nothing says who answers it, and why", operation, path.Pattern)
				continue
			}
			known++
			declared := handler.Properties()
			if standby := declared.ForwardPerformanceStandby; standby != (answers.who == activeNode) || declared.ForwardPerformanceSecondary != standby {
				t.Errorf("%s %s: a standby passes it on is %v, a secondary %v; it is for %s", operation, path.Pattern, standby, declared.ForwardPerformanceSecondary, answers.who)
			}
			if answers.who == anyNode && writes[operation] {
				t.Errorf("%s %s: a write that any node answers", operation, path.Pattern)
			}
		}
	}
	rows := 0
	for _, operations := range forwarding {
		rows += len(operations)
	}
	if rows != known {
		t.Errorf("%d rows, but only %d operations", rows, known)
	}
}

var writes = map[logical.Operation]bool{
	logical.CreateOperation: true, logical.UpdateOperation: true, logical.PatchOperation: true, logical.DeleteOperation: true,
}
