// Package rules has what tokenwatch looks for.
package rules

import (
	"errors"
	"reflect"
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

// Info is what there is to know about a rule.
type Info struct {
	Name     string              `json:"name"`
	Severity tokenwatch.Severity `json:"severity"` // by default
	Meaning  string              `json:"meaning"`  // what it finds, and what that may mean
	Advice   string              `json:"advice"`   // the first response to take
	Settings []Setting           `json:"settings"`
}

// Catalog lists all rules, in the order of Settings.
func Catalog() []Info {
	defaults := reflect.ValueOf(Defaults())
	catalog := make([]Info, 0, defaults.NumField())
	for i := range defaults.NumField() {
		rule := defaults.Field(i)
		name := yamlName(defaults.Type().Field(i))
		text := texts[name]
		catalog = append(catalog, Info{
			Name:     name,
			Severity: rule.FieldByName("Common").Interface().(Common).Severity,
			Meaning:  text.meaning,
			Advice:   text.advice,
			Settings: settingsOf(rule),
		})
	}
	return catalog
}

// CommonSettings lists those that every rule has.
func CommonSettings() []Setting { return settingsOf(reflect.ValueOf(Common{Enabled: true})) }

var texts = map[string]struct{ meaning, advice string }{
	"failed_access": {
		"Requests to the engine are refused again and again: no permission, no valid Vault token, or a request that is not valid. Somebody tries what they may not do, or a client is misconfigured.",
		"Find out who it is by entity or address. If it is not a client of yours, revoke its Vault token (vault token revoke -accessor) and block the address; if it is, mend its policy or configuration.",
	},
	"inactive_burst": {
		"Many introspections find no live token. Somebody is guessing tokens or trying a stolen list, or a client goes on with dead ones.",
		"Block the client address at the API server or before it. If the tokens are few and yours, have the client get new ones.",
	},
	"revoked_token": {
		"A token is presented that was revoked before it expired. Its holder does not know, or is a thief whose token you took away.",
		"Find the client by its address. If it is not the token's owner, treat the token as stolen: look for what it did before it was revoked, by its token_id in the audit log.",
	},
	"outside_bound_cidrs": {
		"A live token is presented from a network that its role is not bound to: it has leaked, or a client has moved.",
		"Revoke the token by its token_id (vault delete <mount>/tokens/<token_id>) unless its owner has moved; then correct bound_cidrs of the role.",
	},
	"unexpected_location": {
		"An entity gets tokens, or a token is used, in a network or country where it has not been, or farther away than anybody travels in the time.",
		"Ask the owner. If it was not them, revoke the token, disable the entity (vault write identity/entity/id/<id> disabled=true) and have its credentials renewed.",
	},
	"issuance_spike": {
		"A role issues far more tokens than it used to: a client has lost its cache or loops, or somebody is stocking up.",
		"Look which entity asks for them. Set max_tokens on the role; if it is an attack, revoke the entity's Vault tokens and then the role's leases (vault lease revoke -prefix <mount>/creds/<role>).",
	},
	"mass_revocation": {
		"Many tokens end at once, by one caller: an incident being answered, a mistake, or sabotage.",
		"Ask the caller. If it was not meant, take away their Vault token, and have applications request new tokens: what was revoked does not come back.",
	},
	"role_widened": {
		"A role may do more or issue longer-lived tokens than before, or a mount's ceiling was raised. Tuning a mount is seen as far as its values are readable.",
		"Compare with what was approved. If it was not, write the old settings back, and revoke what the role issued since.",
	},
	"signing_key": {
		"Somebody rotated a signing key, deleted it, or dropped it in an emergency, after which every JWT that it signed is invalid.",
		"If nobody planned it, ask who it was. After an emergency, make sure that verifiers have fetched the key set again and applications new tokens.",
	},
	"root_token": {
		"A request to the engine was made with a root token, which no policy bounds and nobody should have in daily work.",
		"Find out who holds it and why, and revoke it (vault token revoke -accessor). Give them a policy for what they do.",
	},
	"audit_disabled": {
		"Somebody disabled an audit device, or tried to. It is what an attacker does first.",
		"Enable it again at once (vault audit enable), and look at everything that the caller did since, in the log of another device or at a load balancer.",
	},
	"silence": {
		"There has been no entry for a while: Vault is down or nobody uses it, its audit device was disabled, or the log goes elsewhere, for example after a rotation without SIGHUP.",
		"Look at vault status, vault audit list and the log file. When the device is gone, see audit_disabled.",
	},
	"one_address": {
		"Different callers all have the same address: Vault is behind a proxy whose X-Forwarded-For it does not trust.",
		"Set x_forwarded_for_authorized_addrs on Vault's listener to the proxy's address. Otherwise rules that go by address are blind.",
	},
}
