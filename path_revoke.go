package tokens

import (
	"context"
	"net/http"

	"github.com/hashicorp/vault/sdk/framework"
	"github.com/hashicorp/vault/sdk/logical"

	"github.com/vault-tokens/vault-plugin-secrets-tokens/backend/usererror"
	"github.com/vault-tokens/vault-plugin-secrets-tokens/verify/format"
)

func (b *backend) pathRevoke() []*framework.Path {
	return []*framework.Path{{
		Pattern: "revoke",
		Fields: map[string]*framework.FieldSchema{
			"token": {Type: framework.TypeString, Description: "The token to revoke.", DisplayAttrs: &framework.DisplayAttributes{Sensitive: true}},
		},
		Operations: map[logical.Operation]framework.OperationHandler{
			logical.UpdateOperation: &framework.PathOperation{
				Callback:                    b.pathRevokeWrite,
				Summary:                     "Revoke a token that you hold.",
				ForwardPerformanceStandby:   true,
				ForwardPerformanceSecondary: true,
				Responses:                   responds(http.StatusNoContent, nil),
			},
		},
		HelpSynopsis: "Revoke a token by presenting it, such as one that leaked.",
		HelpDescription: `
The answer is the same whether the token was live, or never existed (RFC 7009,
section 2.2). The token's lease stays until it ends, and then does nothing.`,
	}}
}

func (b *backend) pathRevokeWrite(ctx context.Context, req *logical.Request, data *framework.FieldData) (*logical.Response, error) {
	presented := format.Secret(data.Get("token").(string))
	if presented == "" {
		return nil, usererror.Field("token", "is needed: the token to revoke")
	}
	revoked, err := b.tokens.RevokePossessed(ctx, req.Storage, presented)
	b.logRevoked(revoked, err)
	return nil, err
}
