package rules

import (
	"fmt"
	"time"

	"github.com/vault-tokens/vault-plugin-secrets-tokens/internal/tokenwatch"
)

// FailedAccess finds callers whose requests are repeatedly refused.
type FailedAccess struct {
	Common         `yaml:",inline"`
	Threshold      int           `yaml:"threshold" help:"Refused requests from one entity, or from one address, within the window."`
	MountThreshold int           `yaml:"mount_threshold" help:"Refused requests to one mount within the window, from any caller: an attack from many addresses."`
	Window         time.Duration `yaml:"window" help:"Length of the window."`
	MaxClients     int           `yaml:"max_clients" help:"Entities remembered, and as many addresses."`
}

func (s *FailedAccess) definition() definition {
	return definition{
		name:     "failed_access",
		settings: s,
		meaning:  "Requests to the engine are repeatedly refused: no permission, no valid Vault token, or an invalid request. Someone is trying what they may not do, or a client is misconfigured.",
		advice:   "Identify the caller by entity or address. If it is not one of your clients, revoke its Vault token (vault token revoke -accessor) and block the address. If it is, fix its policy or configuration.",
	}
}

func (s *FailedAccess) setDefaults() {
	*s = FailedAccess{Common: enabled(tokenwatch.SeverityWarning), Threshold: 10, MountThreshold: 200, Window: 5 * time.Minute, MaxClients: 20_000}
}

func (s *FailedAccess) rule(b base) tokenwatch.Rule {
	return &failedAccess{
		base:      b,
		entities:  newBursts(s.Window, s.Threshold, s.MaxClients),
		addresses: newBursts(s.Window, s.Threshold, s.MaxClients),
		mounts:    newBursts(s.Window, s.MountThreshold, maxMounts),
	}
}

type failedAccess struct {
	base
	entities, addresses, mounts *bursts
}

// Observe implements tokenwatch.Rule. One attack is one alert: an address is named
// only if no single entity behind it is, and the mount only if neither is.
func (r *failedAccess) Observe(e *tokenwatch.Event, emit func(tokenwatch.Alert)) {
	if !e.Failed() || r.ignore.has(e) {
		return
	}
	var entity burst
	if e.EntityID != "" {
		entity = r.entities.add(e.EntityID, e.Time, "")
	}
	address := r.addresses.add(e.RemoteAddress, e.Time, "")
	mount := r.mounts.add(e.Namespace+"/"+e.Mount, e.Time, e.RemoteAddress)
	switch {
	case entity.events > 0:
		emit(r.alert(e, "entity "+e.EntityID, "Repeated requests from one entity were refused", entity))
	case address.events > 0:
		emit(r.alert(e, "address "+e.RemoteAddress, "Repeated requests from one address were refused", address))
	case mount.events > 0:
		a := r.alert(e, "mount "+e.Namespace+"/"+e.Mount, "Repeated requests to one mount were refused", mount)
		a.Who, a.EntityID, a.Where = "many clients", "", manyAddresses(mount.Window)
		emit(a)
	}
}

func manyAddresses(w *Window) string {
	if n := w.distinct(); n > 0 {
		return fmt.Sprintf("about %d addresses", n)
	}
	return "many addresses"
}

func (r *failedAccess) alert(e *tokenwatch.Event, key, title string, b burst) tokenwatch.Alert {
	a := r.finding(e, key, title)
	a.First, a.Count = b.first, b.events
	what := "invalid request"
	if e.Denied {
		what = "permission denied"
	}
	a.Detail = "Last request: " + e.Operation + " " + e.Path + ", " + what + "."
	a.TokenID, a.LeaseID = "", ""
	return a
}

type failedAccessState struct{ Entities, Addresses, Mounts burstsState }

func (r *failedAccess) Save() ([]byte, error) {
	return encode(failedAccessState{r.entities.state(), r.addresses.state(), r.mounts.state()})
}

func (r *failedAccess) Restore(state []byte) error {
	var s failedAccessState
	if err := decode(state, &s); err != nil {
		return err
	}
	r.entities.restore(s.Entities)
	r.addresses.restore(s.Addresses)
	r.mounts.restore(s.Mounts)
	return nil
}
