package audit

import (
	"strings"

	"github.com/vault-tokens/vault-plugin-secrets-tokens/internal/tokenwatch/event"
)

// classify tells what a request was about from its path, and puts what the
// path names into e.Name.
func (p *Parser) classify(e *event.Event) event.Kind {
	path := strings.TrimPrefix(e.Path, e.Namespace+"/")
	if p.mountTypes[string(p.entry.mountType)] {
		rest, ok := strings.CutPrefix(path, e.Mount)
		if !ok {
			return event.OtherRequest
		}
		return classifyEngine(e, rest)
	}
	if rest, ok := strings.CutPrefix(path, "sys/"); ok {
		return classifySystem(e, rest)
	}
	return event.OtherMounts
}

func writes(operation string) bool {
	return operation == "create" || operation == "update" || operation == "patch"
}

// byOperation picks a kind by what is done with the thing that a path names.
func byOperation(operation string, read, write, remove event.Kind) event.Kind {
	switch {
	case operation == "delete":
		return remove
	case writes(operation):
		return write
	}
	return read
}

func classifyEngine(e *event.Event, rest string) event.Kind {
	noun, name, _ := strings.Cut(rest, "/")
	e.Name = name
	switch noun {
	case "creds":
		e.Role = name
		return event.Issue
	case "introspect":
		return event.Introspect
	case "revoke":
		return event.Revoke
	case "tokens":
		e.TokenID = name
		return byOperation(e.Operation, event.TokenRead, event.OtherRequest, event.Revoke)
	case "roles":
		return classifyRole(e)
	case "config":
		return byOperation(e.Operation, event.ConfigRead, event.ConfigWrite, event.OtherRequest)
	case "keys":
		if key, ok := strings.CutSuffix(name, "/rotate"); ok {
			e.Name = key
			return event.KeyRotate
		}
		return byOperation(e.Operation, event.KeyRead, event.KeyWrite, event.KeyDelete)
	case "jwks", ".well-known", "status":
		return event.PublicRead
	case "static-roles", "static-creds", "rotate-role":
		return event.Static
	case "oauth2":
		switch name {
		case "introspect":
			return event.Introspect
		case "revoke":
			return event.Revoke
		}
	}
	return event.OtherRequest
}

func classifyRole(e *event.Event) event.Kind {
	if role, ok := strings.CutSuffix(e.Name, "/revoke"); ok {
		e.Name, e.Role = role, role
		return event.RevokeRole
	}
	e.Role = e.Name
	return byOperation(e.Operation, event.RoleRead, event.RoleWrite, event.RoleDelete)
}

// leasePaths are under sys/; those without leases/ are the older names.
var leasePaths = []struct {
	path string
	kind event.Kind
}{
	{"leases/revoke-prefix", event.LeasePrefix},
	{"leases/revoke-force", event.LeasePrefix},
	{"leases/revoke", event.LeaseRevoke},
	{"leases/renew", event.LeaseRenew},
	{"revoke-prefix", event.LeasePrefix},
	{"revoke-force", event.LeasePrefix},
	{"revoke", event.LeaseRevoke},
	{"renew", event.LeaseRenew},
}

func classifySystem(e *event.Event, rest string) event.Kind {
	e.Mount = "" // sys/ is not what the request was about
	if !writes(e.Operation) && e.Operation != "delete" {
		return event.OtherMounts
	}
	for _, l := range leasePaths {
		name, ok := strings.CutPrefix(rest, l.path)
		if ok && (name == "" || name[0] == '/') {
			e.Name = strings.TrimPrefix(name, "/")
			return l.kind
		}
	}
	if name, ok := strings.CutPrefix(rest, "audit/"); ok {
		e.Name = strings.TrimSuffix(name, "/")
		return byOperation(e.Operation, "", event.AuditEnable, event.AuditDisable)
	}
	if name, ok := strings.CutPrefix(rest, "mounts/"); ok {
		mount, tune := strings.CutSuffix(name, "/tune")
		e.Mount = strings.TrimSuffix(mount, "/") + "/"
		e.Name = e.Mount
		switch {
		case tune:
			return event.MountTune
		case e.Operation == "delete":
			return event.MountDisable
		}
	}
	return event.OtherMounts
}
