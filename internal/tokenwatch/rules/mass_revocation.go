package rules

import (
	"fmt"
	"time"

	"github.com/vault-tokens/vault-plugin-secrets-tokens/internal/tokenwatch"
)

// MassRevocation finds many tokens revoked at once: sabotage, a mistake, or the
// response to an incident.
type MassRevocation struct {
	Common     `yaml:",inline"`
	Threshold  int           `yaml:"threshold" help:"Tokens that one caller revokes one by one within the window. Revoking a lease prefix, or all tokens of a role or an entity, and unmounting, raise an alert at once."`
	Window     time.Duration `yaml:"window" help:"Length of the window."`
	MaxClients int           `yaml:"max_clients" help:"Callers remembered."`
}

func (s *MassRevocation) definition() definition {
	return definition{
		name:     "mass_revocation",
		settings: s,
		meaning:  "One caller ends many tokens at once: an incident response, a mistake, or sabotage.",
		advice:   "Ask the caller. If it was not intended, revoke their Vault token and have applications request new tokens: revoked tokens cannot be restored.",
	}
}

func (s *MassRevocation) setDefaults() {
	*s = MassRevocation{Common: enabled(tokenwatch.SeverityCritical), Threshold: 50, Window: 5 * time.Minute, MaxClients: 20_000}
}

func (s *MassRevocation) rule(b base) tokenwatch.Rule {
	return &massRevocation{base: b, callers: newBursts(s.Window, s.Threshold, s.MaxClients)}
}

type massRevocation struct {
	base
	callers *bursts
}

func (r *massRevocation) Observe(e *tokenwatch.Event, emit func(tokenwatch.Alert)) {
	if e.Failed() || r.ignore.has(e) {
		return
	}
	var title, more string
	switch e.Kind {
	case tokenwatch.KindRevoke, tokenwatch.KindLeaseRevoke:
		r.count(e, emit)
		return
	case tokenwatch.KindRoleRevoke:
		title = "Every token of a role was revoked"
		more = fmt.Sprintf(" Status lists that had live tokens of the role: %d.", e.StatusLists)
	case tokenwatch.KindEntityRevoke:
		title = "Every token of an entity was revoked"
	case tokenwatch.KindLeasePrefix:
		title = "All leases under a prefix were revoked"
	case tokenwatch.KindMountDisable:
		title = "Engine was unmounted, which ends all its tokens"
	default:
		return
	}
	a := r.finding(e, string(e.Kind)+" "+e.Namespace+"/"+e.Path, title)
	a.Detail = e.Operation + " " + e.Path + "." + more
	emit(a)
}

func (r *massRevocation) count(e *tokenwatch.Event, emit func(tokenwatch.Alert)) {
	if e.Mount == "" { // the log does not show which engine issued the lease
		return
	}
	key := e.Namespace + "/" + e.Mount + " " + e.Client()
	b := r.callers.add(key, e.Time, "")
	if b.events == 0 {
		return
	}
	a := r.finding(e, "caller "+key, "One caller revoked many tokens")
	a.First, a.Count = b.first, b.events
	a.TokenID, a.LeaseID, a.Role = "", "", ""
	emit(a)
}

func (r *massRevocation) Save() ([]byte, error) { return encode(r.callers.state()) }

func (r *massRevocation) Restore(state []byte) error {
	var s burstsState
	if err := decode(state, &s); err != nil {
		return err
	}
	r.callers.restore(s)
	return nil
}
