package tokens

import (
	"context"
	"net/http"
	"time"

	"github.com/hashicorp/vault/sdk/framework"
	"github.com/hashicorp/vault/sdk/logical"

	"github.com/vault-tokens/vault-plugin-secrets-tokens/backend/config"
)

func configFields() map[string]*framework.FieldSchema {
	return map[string]*framework.FieldSchema{
		"issuer":               field(framework.TypeString, "Public URL of this mount, such as https://vault.example.com/v1/tokens. Required to issue JWTs. https, or http for a loopback host."),
		"allowed_scopes":       field(framework.TypeCommaStringSlice, "Ceiling over all roles: no other scope is ever issued. * matches any run of characters. Default *; empty allows nothing."),
		"max_ttl":              field(framework.TypeDurationSecond, "Ceiling over all roles: no token lives longer. Default 0: Vault's own maximum."),
		"status_list_ttl":      field(framework.TypeDurationSecond, "How long a verifier may use a copy of a status list before it fetches a new one, and so the longest time until it notices a revocation. Default 5s."),
		"status_list_lifetime": field(framework.TypeDurationSecond, "How long a verifier may use a copy while it cannot fetch a new one. Default 1h."),
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
			logical.UpdateOperation: forwarded(b.pathConfigWrite, "Change the mount's configuration.", responds(http.StatusNoContent, nil)),
		},
		HelpSynopsis: "The mount's issuer and its ceilings.",
		HelpDescription: `
A write changes only the fields that it names. Lowering a ceiling bounds new
tokens and renewals at once; tokens that were issued keep what they have.`,
	}}
}

func (b *tokensBackend) pathConfigRead(ctx context.Context, req *logical.Request, _ *framework.FieldData) (*logical.Response, error) {
	c, err := b.engine.Config.Get(ctx, req.Storage)
	if err != nil {
		return nil, err
	}
	return &logical.Response{Data: map[string]any{
		"issuer":               c.Issuer,
		"allowed_scopes":       c.AllowedScopes,
		"max_ttl":              int64(c.MaxTTL.Seconds()),
		"status_list_ttl":      int64(c.StatusListTTL.Seconds()),
		"status_list_lifetime": int64(c.StatusListLifetime.Seconds()),
	}}, nil
}

func (b *tokensBackend) pathConfigWrite(ctx context.Context, req *logical.Request, data *framework.FieldData) (*logical.Response, error) {
	before, c, err := b.engine.Config.Change(ctx, req.Storage, func(c *config.Config) {
		if issuer := optional[string](data, "issuer"); issuer != nil {
			c.Issuer = *issuer
		}
		if scopes := optional[[]string](data, "allowed_scopes"); scopes != nil {
			c.AllowedScopes = *scopes
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
	})
	if err != nil {
		return nil, err
	}
	b.Logger().Info("configuration written", "issuer", c.Issuer, "allowed_scopes", c.AllowedScopes, "max_ttl", c.MaxTTL)
	if before.Issuer == "" || before.Issuer == c.Issuer {
		return nil, nil
	}
	return &logical.Response{Warnings: []string{
		"JWTs that were issued before name the old issuer, " + before.Issuer + ": servers that verify by themselves refuse them once they expect the new one, and new ones until then",
	}}, nil
}
