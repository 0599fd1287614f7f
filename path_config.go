package tokens

import (
	"context"
	"maps"
	"net/http"
	"slices"
	"time"

	"github.com/hashicorp/vault/sdk/framework"
	"github.com/hashicorp/vault/sdk/logical"

	"github.com/vault-tokens/vault-plugin-secrets-tokens/backend/config"
	"github.com/vault-tokens/vault-plugin-secrets-tokens/backend/store"
	"github.com/vault-tokens/vault-plugin-secrets-tokens/backend/usererror"
)

func configFields() map[string]*framework.FieldSchema {
	return map[string]*framework.FieldSchema{
		"issuer":                field(framework.TypeString, "Public URL of this mount, such as https://vault.example.com/v1/tokens. Required to issue JWTs. https, or http for a loopback host."),
		"allowed_scopes":        field(framework.TypeCommaStringSlice, "Ceiling over all roles: no other scope is ever issued. * matches any run of characters. Default *; empty allows nothing."),
		"allowed_audiences":     field(framework.TypeCommaStringSlice, "Ceiling over all roles: no token is for another audience. * matches any run of characters. Default *; empty allows none."),
		"max_ttl":               field(framework.TypeDurationSecond, "Ceiling over all roles: no token lives longer. Default 0: Vault's own maximum."),
		"status_list_ttl":       field(framework.TypeDurationSecond, "How long a verifier may use a copy of a status list before it fetches a new one, and so the longest time until it notices a revocation. Default 5s."),
		"status_list_lifetime":  field(framework.TypeDurationSecond, "How long a verifier may use a copy while it cannot fetch a new one. Default 1h."),
		"standby_introspection": field(framework.TypeString, "Who answers an introspection that reaches a standby: forward (the active node; the default) or local (the standby, from its copy of the storage, in which a token may still be active whose revocation was acknowledged)."),
	}
}

func (b *tokensBackend) pathConfig() []*framework.Path {
	return []*framework.Path{{
		Pattern: "config",
		Fields:  configFields(),
		Operations: map[logical.Operation]framework.OperationHandler{
			logical.ReadOperation: &framework.PathOperation{
				Callback:  b.pathConfigRead,
				Summary:   "Read the mount's configuration.",
				Responses: responds(http.StatusOK, configFields()),
			},
			logical.UpdateOperation: forwarded(b.pathConfigWrite, "Change the mount's configuration.", changes()),
		},
		HelpSynopsis: "The mount's issuer and its ceilings.",
		HelpDescription: `
A write changes only the fields that it names. What is stored and cannot be read
is replaced by a write that names all. Lowering a ceiling bounds new
tokens and renewals at once; tokens that were issued keep what they have.`,
	}}
}

func (b *tokensBackend) pathConfigRead(ctx context.Context, req *logical.Request, _ *framework.FieldData) (*logical.Response, error) {
	c, err := b.engine.Config.Get(ctx, req.Storage)
	if err != nil {
		return nil, err
	}
	return &logical.Response{Data: map[string]any{
		"issuer":                c.Issuer,
		"allowed_scopes":        append([]string{}, c.AllowedScopes...), // an empty list, never null
		"allowed_audiences":     append([]string{}, c.AllowedAudiences...),
		"max_ttl":               int64(c.MaxTTL.Seconds()),
		"status_list_ttl":       int64(c.StatusListTTL.Seconds()),
		"status_list_lifetime":  int64(c.StatusListLifetime.Seconds()),
		"standby_introspection": string(c.StandbyIntrospection),
	}}, nil
}

func (b *tokensBackend) pathConfigWrite(ctx context.Context, req *logical.Request, data *framework.FieldData) (*logical.Response, error) {
	set := func(c *config.Config) { setConfigFields(c, data) }
	before, c, err := b.engine.Config.Change(ctx, req.Storage, set)
	if store.Replaceable(err) {
		before, c, err = b.replaceConfig(ctx, req, set)
	}
	if err != nil {
		return nil, err
	}
	b.Logger().Info("configuration written", "issuer", c.Issuer, "allowed_scopes", c.AllowedScopes, "allowed_audiences", c.AllowedAudiences,
		"max_ttl", c.MaxTTL, "standby_introspection", c.StandbyIntrospection)
	listKey, err := b.engine.EnsureListKey(ctx, req.Storage, c)
	if err != nil {
		return nil, err
	}
	b.logListKey(listKey)
	return warn(append(configWarnings(before, c), listKeyWarnings(listKey)...)), nil
}

// replaceConfig replaces a configuration that cannot be read. Nothing of it can be
// kept, and a default in the place of a ceiling would be wider, so that all fields
// have to be named.
func (b *tokensBackend) replaceConfig(ctx context.Context, req *logical.Request, set func(*config.Config)) (before, after *config.Config, err error) {
	for _, name := range slices.Sorted(maps.Keys(configFields())) {
		if _, named := req.Data[name]; !named {
			return nil, nil, usererror.Field(name, "is missing: the stored configuration cannot be decoded, so that nothing of it can be kept; name all fields to replace it")
		}
	}
	after, err = b.engine.Config.Replace(ctx, req.Storage, set)
	return config.Default(), after, err
}

func setConfigFields(c *config.Config, data *framework.FieldData) {
	if issuer := optional[string](data, "issuer"); issuer != nil {
		c.Issuer = *issuer
	}
	if introspection := optional[string](data, "standby_introspection"); introspection != nil {
		c.StandbyIntrospection = config.StandbyIntrospection(*introspection)
	}
	for name, at := range map[string]*[]string{
		"allowed_scopes":    &c.AllowedScopes,
		"allowed_audiences": &c.AllowedAudiences,
	} {
		if patterns := optional[[]string](data, name); patterns != nil {
			*at = *patterns
		}
	}
	for name, at := range map[string]*time.Duration{
		"max_ttl":              &c.MaxTTL,
		"status_list_ttl":      &c.StatusListTTL,
		"status_list_lifetime": &c.StatusListLifetime,
	} {
		if d := optionalSeconds(data, name); d != nil {
			*at = *d
		}
	}
}

func configWarnings(before, after *config.Config) (warnings []string) {
	if len(after.AllowedScopes) == 0 && len(before.AllowedScopes) > 0 {
		warnings = append(warnings, "allowed_scopes is empty now: no role can issue a token with a scope")
	}
	if len(after.AllowedAudiences) == 0 && len(before.AllowedAudiences) > 0 {
		warnings = append(warnings, "allowed_audiences is empty now: no role can issue a token for an audience, and so no JWT at all")
	}
	if after.StandbyIntrospection == config.Local && before.StandbyIntrospection != config.Local {
		warnings = append(warnings, "standbys answer introspections from their own copy of the storage now: one that lags behind calls a token active whose revocation was acknowledged")
	}
	if before.Issuer != "" && before.Issuer != after.Issuer {
		warnings = append(warnings, "JWTs that were issued before name the old issuer, "+before.Issuer+": servers that verify by themselves refuse them once they expect the new one, and new ones until then")
	}
	return warnings
}
