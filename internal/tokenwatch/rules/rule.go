package rules

import (
	"time"

	"github.com/vault-tokens/vault-plugin-secrets-tokens/internal/tokenwatch"
	"github.com/vault-tokens/vault-plugin-secrets-tokens/internal/tokenwatch/geo"
)

// definition is what the registry has of a rule.
type definition struct {
	name     string
	meaning  string // what it finds, and what that may mean
	advice   string // the first response to take
	settings ruleSettings
}

// ruleSettings are those of one rule, a pointer to its field of Settings.
type ruleSettings interface {
	setDefaults()
	common() *Common
	rule(base) tokenwatch.Rule
}

// Common is what the settings of every rule begin with.
type Common struct {
	Enabled  bool                `yaml:"enabled" help:"Whether the rule runs."`
	Severity tokenwatch.Severity `yaml:"severity" help:"info, warning or critical."`
	Ignore   []string            `yaml:"ignore" help:"What the rule ignores: entity ids, display names, roles, token ids, mounts, addresses or networks."`
}

func enabled(severity tokenwatch.Severity) Common { return Common{Enabled: true, Severity: severity} }

func (c *Common) common() *Common { return c }

// base is what every rule runs with.
type base struct {
	name     string
	severity tokenwatch.Severity
	ignore   ignoreList
	advice   string
	locate   geo.Locator // nil without a geo database
}

func (b *base) Name() string { return b.name }

// Tick does nothing; rules go by the time in the log.
func (b *base) Tick(time.Time, func(tokenwatch.Alert)) {}

// finding begins an alert about the request in e.
func (b *base) finding(e *tokenwatch.Event, key, title string) tokenwatch.Alert {
	return tokenwatch.Alert{
		Rule: b.name, Severity: b.severity, Key: key, Title: title,
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
		id = "accessor " + tokenwatch.ShortHash(e.Accessor)
	}
	switch {
	case id == "" && e.DisplayName == "":
		return "a caller without a valid Vault token"
	case id == "":
		return e.DisplayName
	case e.DisplayName == "":
		return id
	}
	return e.DisplayName + " (" + id + ")"
}

func clientAddress(ip string) string { return "client address " + tokenwatch.ShortHash(ip) }
