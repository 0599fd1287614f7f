// Package rules implements the rules of tokenwatch. A rule is whole in the file
// that has its name: settings and their defaults, texts for the manual, and code.
// To add one, write such a file and add two lines to this one.
package rules

import (
	"errors"

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

// definitions is the one list of all rules, each with its settings in s. It has
// the order of the fields above, which is the catalog's.
func (s *Settings) definitions() []definition {
	return []definition{
		s.FailedAccess.definition(),
		s.InactiveBurst.definition(),
		s.RevokedToken.definition(),
		s.OutsideBoundCIDRs.definition(),
		s.UnexpectedLocation.definition(),
		s.IssuanceSpike.definition(),
		s.MassRevocation.definition(),
		s.RoleWidened.definition(),
		s.SigningKey.definition(),
		s.RootToken.definition(),
		s.AuditDisabled.definition(),
		s.Silence.definition(),
		s.OneAddress.definition(),
	}
}

// Defaults are the settings of an empty configuration file.
func Defaults() Settings {
	var s Settings
	for _, d := range s.definitions() {
		d.settings.setDefaults()
	}
	return s
}

// Validate reports every setting that is out of bounds.
func (s *Settings) Validate() error {
	var problems []error
	for _, d := range s.definitions() {
		problems = append(problems, validate("rules."+d.name, d.settings)...)
	}
	return errors.Join(problems...)
}

// New makes the rules that are enabled. locate may be nil.
func New(s Settings, locate geo.Locator) ([]tokenwatch.Rule, error) {
	if err := s.Validate(); err != nil {
		return nil, err
	}
	var running []tokenwatch.Rule
	for _, d := range s.definitions() {
		if common := d.settings.common(); common.Enabled {
			running = append(running, d.settings.rule(base{
				name: d.name, severity: common.Severity, ignore: newIgnoreList(common.Ignore), advice: d.advice, locate: locate,
			}))
		}
	}
	return running, nil
}

// Info describes a rule.
type Info struct {
	Name     string              `json:"name"`
	Severity tokenwatch.Severity `json:"severity"` // by default
	Meaning  string              `json:"meaning"`  // what it finds, and what that may mean
	Advice   string              `json:"advice"`   // the first response to take
	Settings []Setting           `json:"settings"`
}

// Catalog lists all rules, with their defaults.
func Catalog() []Info {
	s := Defaults()
	var catalog []Info
	for _, d := range s.definitions() {
		catalog = append(catalog, Info{
			Name:     d.name,
			Severity: d.settings.common().Severity,
			Meaning:  d.meaning,
			Advice:   d.advice,
			Settings: settingsOf(d.settings),
		})
	}
	return catalog
}

// CommonSettings lists those that every rule has.
func CommonSettings() []Setting { return settingsOf(&Common{Enabled: true}) }
