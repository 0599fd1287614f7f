// Package rules has what tokenwatch looks for.
package rules

import (
	"errors"
	"fmt"
	"net/netip"
	"reflect"
	"strings"
	"time"

	"github.com/vault-tokens/vault-plugin-secrets-tokens/internal/tokenwatch"
	"github.com/vault-tokens/vault-plugin-secrets-tokens/internal/tokenwatch/geo"
)

// Settings are those of all rules, as they stand under `rules:` in the
// configuration file. The tag `help` is what the manual says.
type Settings struct {
	FailedAccess       FailedAccess       `yaml:"failed_access"`
	InactiveBurst      InactiveBurst      `yaml:"inactive_burst"`
	RevokedToken       RevokedToken       `yaml:"revoked_token"`
	OutsideBoundCIDRs  OutsideBoundCIDRs  `yaml:"outside_bound_cidrs"`
	UnexpectedLocation UnexpectedLocation `yaml:"unexpected_location"`
	IssuanceSpike      IssuanceSpike      `yaml:"issuance_spike"`
	MassRevocation     MassRevocation     `yaml:"mass_revocation"`
	RoleWidened        RoleWidened        `yaml:"role_widened"`
	SigningKey         SigningKey         `yaml:"signing_key"`
	RootToken          RootToken          `yaml:"root_token"`
	AuditDisabled      AuditDisabled      `yaml:"audit_disabled"`
	Silence            Silence            `yaml:"silence"`
	OneAddress         OneAddress         `yaml:"one_address"`
}

// Common is what every rule has.
type Common struct {
	Enabled  bool                `yaml:"enabled" help:"Whether the rule is looked at."`
	Severity tokenwatch.Severity `yaml:"severity" help:"info, warning or critical."`
	Ignore   []string            `yaml:"ignore" help:"What the rule leaves alone: entity ids, display names, roles, token ids, mounts, addresses or networks."`
}

// Defaults are the settings of an empty configuration file.
func Defaults() Settings {
	on := func(severity tokenwatch.Severity) Common { return Common{Enabled: true, Severity: severity} }
	return Settings{
		FailedAccess:       FailedAccess{Common: on(tokenwatch.SeverityWarning), Threshold: 10, MountThreshold: 200, Window: 5 * time.Minute, MaxClients: 20_000},
		InactiveBurst:      InactiveBurst{Common: on(tokenwatch.SeverityWarning), Threshold: 20, Window: time.Minute, MaxClients: 20_000},
		RevokedToken:       RevokedToken{Common: on(tokenwatch.SeverityCritical), Grace: 10 * time.Second, MaxTokens: 50_000},
		OutsideBoundCIDRs:  OutsideBoundCIDRs{Common: on(tokenwatch.SeverityCritical)},
		UnexpectedLocation: UnexpectedLocation{Common: on(tokenwatch.SeverityWarning), Learning: 7 * 24 * time.Hour, IPv4Prefix: 24, IPv6Prefix: 48, MaxNetworks: 16, Speed: 1000, Distance: 500, MaxClients: 20_000},
		IssuanceSpike:      IssuanceSpike{Common: on(tokenwatch.SeverityWarning), Window: 5 * time.Minute, Learning: 2 * time.Hour, Factor: 5, Minimum: 50, MaxRoles: 5_000},
		MassRevocation:     MassRevocation{Common: on(tokenwatch.SeverityCritical), Threshold: 50, Window: 5 * time.Minute, MaxClients: 20_000},
		RoleWidened:        RoleWidened{Common: on(tokenwatch.SeverityWarning), MaxRoles: 5_000},
		SigningKey:         SigningKey{Common: on(tokenwatch.SeverityCritical), RotatedSeverity: tokenwatch.SeverityInfo},
		RootToken:          RootToken{Common: on(tokenwatch.SeverityWarning)},
		AuditDisabled:      AuditDisabled{Common: on(tokenwatch.SeverityCritical)},
		Silence:            Silence{Common: on(tokenwatch.SeverityCritical), After: 15 * time.Minute},
		OneAddress:         OneAddress{Common: on(tokenwatch.SeverityInfo), Requests: 1000, Clients: 3},
	}
}

// base is what rules have in common when they run.
type base struct {
	name   string
	common Common
	ignore ignoreList
	advice string
}

func (b *base) Name() string { return b.name }

// Tick does nothing; rules go by the time in the log.
func (b *base) Tick(time.Time, func(tokenwatch.Alert)) {}

// finding begins an alert about the request in e.
func (b *base) finding(e *tokenwatch.Event, key, title string) tokenwatch.Alert {
	return tokenwatch.Alert{
		Rule: b.name, Severity: b.common.Severity, Key: key, Title: title,
		Who: who(e), EntityID: e.EntityID, Where: e.RemoteAddress,
		Namespace: e.Namespace, Mount: e.Mount, Path: e.Path, Role: e.Role, TokenID: e.TokenID, LeaseID: e.LeaseID,
		RequestID: e.RequestID, First: e.Time, Last: e.Time, Count: 1, Advice: b.advice,
	}
}

func who(e *tokenwatch.Event) string {
	id := e.EntityID
	switch {
	case id != "":
		id = "entity " + id
	case e.Accessor != "":
		id = "accessor " + shorten(e.Accessor)
	}
	switch {
	case id == "" && e.DisplayName == "":
		return "somebody without a valid Vault token"
	case id == "":
		return e.DisplayName
	case e.DisplayName == "":
		return id
	}
	return e.DisplayName + " (" + id + ")"
}

// shorten keeps enough of a hash to find it in the log.
func shorten(s string) string {
	const keep = len(tokenwatch.HashPrefix) + 12
	if strings.HasPrefix(s, tokenwatch.HashPrefix) && len(s) > keep {
		return s[:keep] + "…"
	}
	return s
}

// ignoreList tells what a rule leaves alone.
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

func parseNetwork(s string) (netip.Prefix, error) {
	if addr, err := netip.ParseAddr(s); err == nil {
		return addr.Prefix(addr.BitLen())
	}
	return netip.ParsePrefix(s)
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
	addr, err := netip.ParseAddr(s)
	if err != nil {
		return false
	}
	for _, n := range l.networks {
		if n.Contains(addr.Unmap()) {
			return true
		}
	}
	return false
}

// New makes the rules that are enabled. locate may be nil.
func New(s Settings, locate geo.Locator) ([]tokenwatch.Rule, error) {
	if err := s.Validate(); err != nil {
		return nil, err
	}
	all := []struct {
		common Common
		make   func(base) tokenwatch.Rule
	}{
		{s.FailedAccess.Common, s.FailedAccess.rule},
		{s.InactiveBurst.Common, s.InactiveBurst.rule},
		{s.RevokedToken.Common, s.RevokedToken.rule},
		{s.OutsideBoundCIDRs.Common, s.OutsideBoundCIDRs.rule},
		{s.UnexpectedLocation.Common, func(b base) tokenwatch.Rule { return s.UnexpectedLocation.rule(b, locate) }},
		{s.IssuanceSpike.Common, s.IssuanceSpike.rule},
		{s.MassRevocation.Common, s.MassRevocation.rule},
		{s.RoleWidened.Common, s.RoleWidened.rule},
		{s.SigningKey.Common, s.SigningKey.rule},
		{s.RootToken.Common, s.RootToken.rule},
		{s.AuditDisabled.Common, s.AuditDisabled.rule},
		{s.Silence.Common, s.Silence.rule},
		{s.OneAddress.Common, s.OneAddress.rule},
	}
	var enabled []tokenwatch.Rule
	for i, info := range Catalog() {
		if r := all[i]; r.common.Enabled {
			enabled = append(enabled, r.make(base{name: info.Name, common: r.common, ignore: newIgnoreList(r.common.Ignore), advice: info.Advice}))
		}
	}
	return enabled, nil
}

// Validate names every setting that cannot be.
func (s *Settings) Validate() error {
	var problems []error
	v := reflect.ValueOf(s).Elem()
	for i := range v.NumField() {
		name := yamlName(v.Type().Field(i))
		problems = append(problems, validateRule(name, v.Field(i))...)
	}
	return errors.Join(problems...)
}

// validateRule holds every setting to the bounds in its tags.
func validateRule(rule string, v reflect.Value) []error {
	var problems []error
	for i := range v.NumField() {
		f := v.Type().Field(i)
		if f.Anonymous {
			problems = append(problems, validateRule(rule, v.Field(i))...)
			continue
		}
		name := "rules." + rule + "." + yamlName(f)
		switch value := v.Field(i).Interface().(type) {
		case tokenwatch.Severity:
			if _, err := tokenwatch.ParseSeverity(string(value)); err != nil {
				problems = append(problems, fmt.Errorf("%s: %w", name, err))
			} else {
				v.Field(i).SetString(strings.ToLower(string(value)))
			}
		case int:
			low, high := bounds(f)
			if value < low || value > high {
				problems = append(problems, fmt.Errorf("%s: %d is not between %d and %d", name, value, low, high))
			}
		case float64:
			if !(value >= 1) {
				problems = append(problems, fmt.Errorf("%s: %v is less than 1", name, value))
			}
		case time.Duration:
			if least := leastDuration(f); value < least {
				problems = append(problems, fmt.Errorf("%s: %v is less than %v", name, value, least))
			}
		}
	}
	return problems
}

func bounds(f reflect.StructField) (low, high int) {
	low, high = 1, 10_000_000
	if tag := f.Tag.Get("range"); tag != "" {
		_, _ = fmt.Sscanf(tag, "%d-%d", &low, &high)
	}
	return low, high
}

func leastDuration(f reflect.StructField) time.Duration {
	if f.Tag.Get("range") == "0" {
		return 0
	}
	return time.Second
}

func yamlName(f reflect.StructField) string {
	name, _, _ := strings.Cut(f.Tag.Get("yaml"), ",")
	return name
}
