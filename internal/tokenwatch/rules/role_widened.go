package rules

import (
	"fmt"
	"strings"
	"time"

	"github.com/hashicorp/golang-lru/v2/simplelru"
	glob "github.com/ryanuber/go-glob"

	"github.com/vault-tokens/vault-plugin-secrets-tokens/internal/tokenwatch"
)

// RoleWidened finds roles whose tokens may do more, or live longer, than
// before, and mounts whose ceilings were raised.
type RoleWidened struct {
	Common   `yaml:",inline"`
	MaxRoles int `yaml:"max_roles" help:"Roles and mounts remembered. The earlier settings must be in the log, from when they were created, written or read."`
}

func (s *RoleWidened) definition() definition {
	return definition{
		name:     "role_widened",
		settings: s,
		meaning:  "A role allows more or issues longer-lived tokens than before, or a mount's limits were raised. Tuning a mount is detected only if the log shows its values.",
		advice:   "Compare the change with what was approved. If it was not approved, restore the old settings and revoke the tokens that the role has issued since.",
	}
}

func (s *RoleWidened) setDefaults() {
	*s = RoleWidened{Common: enabled(tokenwatch.SeverityWarning), MaxRoles: 5_000}
}

func (s *RoleWidened) rule(b base) tokenwatch.Rule {
	return &roleWidened{base: b, known: newLRU[string, *tokenwatch.RequestSettings](s.MaxRoles)}
}

type roleWidened struct {
	base
	known *simplelru.LRU[string, *tokenwatch.RequestSettings]
}

func (r *roleWidened) Observe(e *tokenwatch.Event, emit func(tokenwatch.Alert)) {
	if e.Failed() {
		return
	}
	var key string
	switch e.Kind {
	case tokenwatch.KindRoleWrite, tokenwatch.KindRoleRead, tokenwatch.KindRoleDelete:
		key = "role " + e.Role
	case tokenwatch.KindConfigWrite, tokenwatch.KindConfigRead:
		key = "config"
	case tokenwatch.KindMountTune:
		key = "tune"
	case tokenwatch.KindMountDisable:
		r.forgetMount(e)
		return
	default:
		return
	}
	key = e.Namespace + "/" + e.Mount + " " + key
	before, known := r.known.Get(key)
	switch {
	case e.Kind == tokenwatch.KindRoleDelete:
		r.known.Remove(key)
		return
	case e.Settings == nil:
		return
	case e.Kind == tokenwatch.KindRoleRead || e.Kind == tokenwatch.KindConfigRead || e.Operation == "create":
		r.known.Add(key, e.Settings)
		return
	case !known:
		before = &tokenwatch.RequestSettings{}
	}
	gains := widened(before, e.Settings)
	r.known.Add(key, merged(before, e.Settings))
	if len(gains) == 0 || r.ignore.has(e) {
		return
	}
	title := "Role was widened"
	if e.Kind != tokenwatch.KindRoleWrite {
		title = "Limits on all roles of a mount were raised"
	}
	a := r.finding(e, key, title)
	a.Detail = strings.Join(gains, "; ") + "."
	emit(a)
}

// forgetMount drops what was known of a mount that is gone.
func (r *roleWidened) forgetMount(e *tokenwatch.Event) {
	prefix := e.Namespace + "/" + e.Mount + " "
	for _, key := range r.known.Keys() {
		if strings.HasPrefix(key, prefix) {
			r.known.Remove(key)
		}
	}
}

// merged is what holds after a write, which changes what it names.
func merged(before, now *tokenwatch.RequestSettings) *tokenwatch.RequestSettings {
	out := *before
	if now.AllowedScopes != nil {
		out.AllowedScopes = now.AllowedScopes
	}
	if now.DefaultScopes != nil {
		out.DefaultScopes = now.DefaultScopes
	}
	if now.Audiences != nil {
		out.Audiences = now.Audiences
	}
	if now.BoundCIDRs != nil {
		out.BoundCIDRs = now.BoundCIDRs
	}
	if now.TTL != nil {
		out.TTL = now.TTL
	}
	if now.MaxTTL != nil {
		out.MaxTTL = now.MaxTTL
	}
	if now.MaxTokens != nil {
		out.MaxTokens = now.MaxTokens
	}
	return &out
}

// widened names what a write allows that was not allowed before.
func widened(before, now *tokenwatch.RequestSettings) (gains []string) {
	gained := func(name string, old, new []string, covers func(old, new string) bool) {
		if old == nil { // not known
			return
		}
		for _, n := range new {
			covered := false
			for _, o := range old {
				covered = covered || covers(o, n)
			}
			if !covered {
				gains = append(gains, name+" gained "+tokenwatch.ShortHash(n))
			}
		}
	}
	gained("allowed_scopes", before.AllowedScopes, now.AllowedScopes, coversScope)
	gained("audiences", before.Audiences, now.Audiences, func(old, new string) bool { return old == new })
	switch {
	case len(before.BoundCIDRs) > 0 && now.BoundCIDRs != nil && len(now.BoundCIDRs) == 0:
		gains = append(gains, "bound_cidrs was emptied: tokens may be used from anywhere")
	case len(before.BoundCIDRs) > 0:
		gained("bound_cidrs", before.BoundCIDRs, now.BoundCIDRs, coversNetwork)
	}
	gains = append(gains, raised("ttl", before.TTL, now.TTL)...)
	gains = append(gains, raised("max_ttl", before.MaxTTL, now.MaxTTL)...)
	gains = append(gains, raised("max_tokens", before.MaxTokens, now.MaxTokens)...)
	return gains
}

func coversScope(old, new string) bool { return old == new || glob.Glob(old, new) }

func coversNetwork(old, new string) bool {
	o, err1 := parseNetwork(old)
	n, err2 := parseNetwork(new)
	if err1 != nil || err2 != nil {
		return old == new // hashed
	}
	return o.Addr().Is4() == n.Addr().Is4() && o.Bits() <= n.Bits() && o.Contains(n.Addr())
}

// raised compares limits of which 0 is none.
func raised[T time.Duration | int64](name string, before, now *T) []string {
	if before == nil || now == nil || *before == 0 || (*now != 0 && *now <= *before) {
		return nil
	}
	if *now == 0 {
		return []string{fmt.Sprintf("%s of %v was removed", name, *before)}
	}
	return []string{fmt.Sprintf("%s was raised from %v to %v", name, *before, *now)}
}

func (r *roleWidened) Save() ([]byte, error) { return encode(dumpOf(r.known)) }

func (r *roleWidened) Restore(state []byte) error {
	var s dump[string, *tokenwatch.RequestSettings]
	if err := decode(state, &s); err != nil {
		return err
	}
	s.into(r.known)
	return nil
}
