package tokens

import (
	"context"
	"maps"
	"net/http"
	"time"

	"github.com/hashicorp/vault/sdk/framework"
	"github.com/hashicorp/vault/sdk/logical"

	"github.com/vault-tokens/vault-plugin-secrets-tokens/backend/role"
	"github.com/vault-tokens/vault-plugin-secrets-tokens/backend/template"
	"github.com/vault-tokens/vault-plugin-secrets-tokens/backend/token"
)

func (b *tokensBackend) pathCreds() []*framework.Path {
	issuedFields := tokenFields()
	maps.Copy(issuedFields, map[string]*framework.FieldSchema{
		"token":      secretField("The token. Shown once."),
		"expires_in": field(framework.TypeInt64, "Seconds until it ends, unless renewed."),
	})
	return []*framework.Path{{
		Pattern: "creds/(?P<role>.+)",
		Fields: map[string]*framework.FieldSchema{
			"role":     field(framework.TypeString, "Name of the role."),
			"scopes":   field(framework.TypeCommaStringSlice, "Scopes instead of the role's default_scopes; each must be allowed by the role."),
			"ttl":      field(framework.TypeDurationSecond, "A shorter lifetime than the role's ttl."),
			"audience": field(framework.TypeCommaStringSlice, "Some of the role's audiences."),
			"metadata": field(framework.TypeKVPairs, "Metadata in addition to the role's; each name must be in its allowed_metadata."),
			"cnf":      field(framework.TypeKVPairs, "Binds the token to a key that its bearer must prove to hold: jkt, the SHA-256 thumbprint of a DPoP key (RFC 9449), or x5t#S256, that of a client certificate (RFC 8705)."),
		},
		Operations: map[logical.Operation]framework.OperationHandler{
			logical.ReadOperation:   forwarded(b.pathCredsRead, "Issue a token as the role has it.", responds(http.StatusOK, issuedFields)),
			logical.UpdateOperation: forwarded(b.pathCredsRead, "Issue a token that may do less.", responds(http.StatusOK, issuedFields)),
		},
		HelpSynopsis: "Issue a token of a role, under a lease.",
		HelpDescription: `
A read gives what the role has. A write can narrow it: fewer scopes, a shorter
ttl, some of the audiences. It can add the metadata that the role allows, and
widen nothing.`,
	}}
}

func (b *tokensBackend) pathCredsRead(ctx context.Context, req *logical.Request, data *framework.FieldData) (*logical.Response, error) {
	request := token.Request{
		Role:     data.Get("role").(string),
		Scopes:   optional[[]string](data, "scopes"),
		Audience: optional[[]string](data, "audience"),
		Metadata: data.Get("metadata").(map[string]string),
		Cnf:      optional[map[string]string](data, "cnf"),
		TTL:      optionalSeconds(data, "ttl"),
		Caller:   template.Caller{EntityID: req.EntityID, DisplayName: req.DisplayName, Source: b.System()},
	}
	if err := role.ValidateName("role", request.Role); err != nil {
		return nil, err
	}
	issued, err := b.engine.Tokens.Issue(ctx, req.Storage, request)
	if err != nil {
		return nil, err
	}
	b.counts.issued.add(string(issued.TokenType))
	b.Logger().Info("token issued", "token_id", issued.ID, "role", issued.Role, "token_type", issued.TokenType,
		"entity_id", req.EntityID, "expires_at", issued.ExpiresAt.Format(time.RFC3339), "leased", issued.Leased)
	return b.issuedResponse(issued), nil
}

func (b *tokensBackend) issuedResponse(issued *token.Issued) *logical.Response {
	shown := tokenData(issued.Record)
	shown["token"] = issued.Token.Reveal()
	shown["expires_in"] = int64(issued.TTL.Seconds())
	resp := &logical.Response{Data: shown}
	if issued.Leased {
		resp = b.Secret(secretTypes[issued.TokenType]).Response(shown, leaseData(issued))
		resp.Secret.TTL = issued.TTL
		resp.Secret.MaxTTL = issued.MaxTTL
	}
	resp.Warnings = issued.Warnings
	return resp
}
