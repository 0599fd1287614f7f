package rules

import (
	"fmt"
	"math"
	"time"

	"github.com/hashicorp/golang-lru/v2/simplelru"

	"github.com/vault-tokens/vault-plugin-secrets-tokens/internal/tokenwatch"
)

// IssuanceSpike finds roles that issue far more tokens than usual.
type IssuanceSpike struct {
	Common   `yaml:",inline"`
	Window   time.Duration `yaml:"window" help:"Tokens are counted per window."`
	Learning time.Duration `yaml:"learning" help:"How long a role is observed before it can raise an alert."`
	Factor   float64       `yaml:"factor" help:"How many times the role's mean makes a spike. It must also exceed 1.5 times the role's past peak, which halves about every 700 windows."`
	Minimum  int           `yaml:"minimum" help:"Fewer tokens than this in a window are never a spike."`
	MaxRoles int           `yaml:"max_roles" help:"Roles remembered."`
}

func (s *IssuanceSpike) definition() definition {
	return definition{
		name:     "issuance_spike",
		settings: s,
		meaning:  "A role issues far more tokens than usual: a client lost its cache or is in a loop, or someone is stockpiling tokens.",
		advice:   "Find the entity that requests them. Set max_tokens on the role. If it is an attack, revoke the entity's Vault tokens and then every token of the role (vault write -f <mount>/roles/<role>/revoke).",
	}
}

func (s *IssuanceSpike) setDefaults() {
	*s = IssuanceSpike{Common: enabled(tokenwatch.SeverityWarning), Window: 5 * time.Minute, Learning: 2 * time.Hour, Factor: 5, Minimum: 50, MaxRoles: 5_000}
}

func (s *IssuanceSpike) rule(b base) tokenwatch.Rule {
	return &issuanceSpike{base: b, set: *s, roles: newLRU[string, *pace](s.MaxRoles)}
}

type issuanceSpike struct {
	base
	set   IssuanceSpike
	roles *simplelru.LRU[string, *pace]
}

// pace is what a role issued. Fields are exported for the checkpoint.
type pace struct {
	Window  int64 // number of the current window
	Count   int64 // in it
	Windows int64 // completed since the role was first seen
	Mean    float64
	Peak    float64
}

const (
	meanWeight = 0.05  // of the latest window: the mean covers about twenty
	peakDecay  = 0.999 // per window
	peakFactor = 1.5   // a spike exceeds the past peak by this
)

func (r *issuanceSpike) Observe(e *tokenwatch.Event, emit func(tokenwatch.Alert)) {
	if e.Kind != tokenwatch.KindIssue || e.Failed() || r.ignore.has(e) {
		return
	}
	key := e.Namespace + "/" + e.Mount + " " + e.Role
	p, ok := r.roles.Get(key)
	window := e.Time.UnixNano() / int64(r.set.Window)
	if !ok {
		p = &pace{Window: window}
		r.roles.Add(key, p)
	}
	p.advance(window)
	p.Count++
	limit := max(r.set.Factor*p.Mean, peakFactor*p.Peak, float64(r.set.Minimum-1))
	if float64(p.Count) <= limit || time.Duration(p.Windows)*r.set.Window < r.set.Learning {
		return
	}
	a := r.finding(e, key, "Role issued far more tokens than usual")
	if float64(p.Count-1) <= limit { // crossed just now: the whole window counts
		a.First, a.Count = time.Unix(0, window*int64(r.set.Window)).UTC(), p.Count
	}
	a.Detail = fmt.Sprintf("%d tokens in %v; the mean is %.1f, the past peak was %.0f.", p.Count, r.set.Window, p.Mean, p.Peak)
	a.TokenID, a.LeaseID = "", ""
	emit(a)
}

// advance closes windows that have passed.
func (p *pace) advance(window int64) {
	gap := window - p.Window
	if gap <= 0 {
		return
	}
	if p.Windows == 0 {
		p.Mean = float64(p.Count)
	} else {
		p.Mean += meanWeight * (float64(p.Count) - p.Mean)
	}
	p.Peak = max(p.Peak*peakDecay, float64(p.Count))
	p.Mean *= math.Pow(1-meanWeight, float64(gap-1)) // windows without any
	p.Peak *= math.Pow(peakDecay, float64(gap-1))
	p.Windows += gap
	p.Window, p.Count = window, 0
}

type issuanceSpikeState struct {
	Window time.Duration // what the numbers of windows mean
	Roles  dump[string, *pace]
}

func (r *issuanceSpike) Save() ([]byte, error) {
	return encode(issuanceSpikeState{r.set.Window, dumpOf(r.roles)})
}

func (r *issuanceSpike) Restore(state []byte) error {
	var s issuanceSpikeState
	if err := decode(state, &s); err != nil {
		return err
	}
	if s.Window == r.set.Window {
		s.Roles.into(r.roles)
	}
	return nil
}
