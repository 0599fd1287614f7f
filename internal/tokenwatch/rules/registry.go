package rules

import (
	"fmt"
	"reflect"
	"strings"
	"time"

	"github.com/vault-tokens/vault-plugin-secrets-tokens/internal/tokenwatch"
)

// Info is what there is to know about a rule.
type Info struct {
	Name     string              `json:"name"`
	Severity tokenwatch.Severity `json:"severity"` // by default
	Meaning  string              `json:"meaning"`  // what it finds, and what that may mean
	Advice   string              `json:"advice"`   // the first response to take
	Settings []Setting           `json:"settings"`
}

// Setting is one of a rule's, besides those in Common.
type Setting struct {
	Name    string `json:"name"`
	Type    string `json:"type"` // duration, integer, number, severity
	Default string `json:"default"`
	Help    string `json:"help"`
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

func settingsOf(v reflect.Value) (list []Setting) {
	for i := range v.NumField() {
		f := v.Type().Field(i)
		if f.Anonymous {
			continue
		}
		s := Setting{Name: yamlName(f), Help: f.Tag.Get("help")}
		switch value := v.Field(i).Interface().(type) {
		case time.Duration:
			s.Type, s.Default = "duration", shortDuration(value)
		case int:
			s.Type, s.Default = "integer", fmt.Sprint(value)
		case float64:
			s.Type, s.Default = "number", fmt.Sprint(value)
		case tokenwatch.Severity:
			s.Type, s.Default = "severity", string(value)
		case bool:
			s.Type, s.Default = "bool", fmt.Sprint(value)
		case []string:
			s.Type, s.Default = "list", "[]"
		}
		list = append(list, s)
	}
	return list
}

// shortDuration writes 5m instead of 5m0s.
func shortDuration(d time.Duration) string {
	s := d.String()
	if strings.HasSuffix(s, "m0s") {
		s = strings.TrimSuffix(s, "0s")
	}
	if strings.HasSuffix(s, "h0m") {
		s = strings.TrimSuffix(s, "0m")
	}
	return s
}

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
