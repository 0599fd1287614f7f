package audit

import (
	"strings"

	"github.com/vault-tokens/vault-plugin-secrets-tokens/internal/tokenwatch"
)

// classify returns the kind of a request from its path, and sets e.Name to what
// the path names.
func (p *Parser) classify(e *tokenwatch.Event) tokenwatch.Kind {
	path := strings.TrimPrefix(e.Path, e.Namespace+"/")
	if p.mountTypes[string(p.entry.mountType)] {
		rest, ok := strings.CutPrefix(path, e.Mount)
		if !ok {
			return tokenwatch.KindOther
		}
		return classifyEngine(e, rest)
	}
	if rest, ok := strings.CutPrefix(path, "sys/"); ok {
		return classifySystem(e, rest)
	}
	return tokenwatch.KindOtherMounts
}

func writes(operation string) bool {
	return operation == "create" || operation == "update" || operation == "patch"
}

// byOperation picks a kind by what the request does with what its path names.
func byOperation(operation string, read, write, remove tokenwatch.Kind) tokenwatch.Kind {
	switch {
	case operation == "delete":
		return remove
	case writes(operation):
		return write
	}
	return read
}

func classifyEngine(e *tokenwatch.Event, rest string) tokenwatch.Kind {
	noun, name, _ := strings.Cut(rest, "/")
	e.Name = name
	switch noun {
	case "creds":
		e.Role = name
		return tokenwatch.KindIssue
	case "introspect":
		return tokenwatch.KindIntrospect
	case "revoke":
		return tokenwatch.KindRevoke
	case "oauth2":
		switch name {
		case "introspect":
			e.Name = ""
			return tokenwatch.KindIntrospect
		case "revoke":
			e.Name = ""
			return tokenwatch.KindRevoke
		}
	case "tokens":
		e.TokenID = name
		return byOperation(e.Operation, tokenwatch.KindTokenRead, tokenwatch.KindOther, tokenwatch.KindRevoke)
	case "roles":
		if role, ok := killed(e, name); ok {
			e.Name, e.Role = role, role
			return tokenwatch.KindRoleRevoke
		}
		e.Role = name
		return byOperation(e.Operation, tokenwatch.KindRoleRead, tokenwatch.KindRoleWrite, tokenwatch.KindRoleDelete)
	case "entities":
		if entity, ok := killed(e, name); ok {
			e.Name = entity
			return tokenwatch.KindEntityRevoke
		}
	case "tidy":
		return classifyTidy(e, name)
	case "config":
		return byOperation(e.Operation, tokenwatch.KindConfigRead, tokenwatch.KindConfigWrite, tokenwatch.KindOther)
	case "keys":
		if key, ok := strings.CutSuffix(name, "/rotate"); ok {
			e.Name = key
			return tokenwatch.KindKeyRotate
		}
		if key, ok := strings.CutSuffix(name, "/rotate-emergency"); ok {
			e.Name = key
			return tokenwatch.KindKeyEmergency
		}
		return byOperation(e.Operation, tokenwatch.KindKeyRead, tokenwatch.KindKeyWrite, tokenwatch.KindKeyDelete)
	case "jwks", ".well-known":
		return tokenwatch.KindPublicRead
	case "status":
		if name != "" { // a list; without a name it is for those who have a policy
			return tokenwatch.KindPublicRead
		}
	}
	return tokenwatch.KindOther
}

// killed returns whose tokens a kill switch ends, <whose>/revoke, if name is one.
func killed(e *tokenwatch.Event, name string) (whose string, ok bool) {
	whose, ok = strings.CutSuffix(name, "/revoke")
	return whose, ok && whose != "" && !strings.Contains(whose, "/") && writes(e.Operation)
}

func classifyTidy(e *tokenwatch.Event, name string) tokenwatch.Kind {
	switch {
	case !writes(e.Operation):
	case name == "":
		return tokenwatch.KindTidy
	case name == "cancel":
		return tokenwatch.KindTidyCancel
	}
	return tokenwatch.KindOther
}

// leasePaths are paths below sys/; those without leases/ are the older names.
var leasePaths = []struct {
	path string
	kind tokenwatch.Kind
}{
	{"leases/revoke-prefix", tokenwatch.KindLeasePrefix},
	{"leases/revoke-force", tokenwatch.KindLeasePrefix},
	{"leases/revoke", tokenwatch.KindLeaseRevoke},
	{"leases/renew", tokenwatch.KindLeaseRenew},
	{"revoke-prefix", tokenwatch.KindLeasePrefix},
	{"revoke-force", tokenwatch.KindLeasePrefix},
	{"revoke", tokenwatch.KindLeaseRevoke},
	{"renew", tokenwatch.KindLeaseRenew},
}

func classifySystem(e *tokenwatch.Event, rest string) tokenwatch.Kind {
	e.Mount = "" // sys/ is not what the request was about
	if !writes(e.Operation) && e.Operation != "delete" {
		return tokenwatch.KindOtherMounts
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
		return byOperation(e.Operation, "", tokenwatch.KindAuditEnable, tokenwatch.KindAuditDisable)
	}
	if name, ok := strings.CutPrefix(rest, "mounts/"); ok {
		mount, tune := strings.CutSuffix(name, "/tune")
		e.Mount = strings.TrimSuffix(mount, "/") + "/"
		e.Name = e.Mount
		switch {
		case tune:
			return tokenwatch.KindMountTune
		case e.Operation == "delete":
			return tokenwatch.KindMountDisable
		}
	}
	return tokenwatch.KindOtherMounts
}
