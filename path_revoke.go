package tokens

import (
	"context"
	"net/http"

	"github.com/hashicorp/vault/sdk/framework"
	"github.com/hashicorp/vault/sdk/logical"
)

func (b *tokensBackend) pathRevoke() []*framework.Path {
	return []*framework.Path{{
		Pattern: "revoke",
		Fields: map[string]*framework.FieldSchema{
			"token": secretField("The token to revoke."),
		},
		Operations: map[logical.Operation]framework.OperationHandler{
			logical.UpdateOperation: forwarded(b.pathRevokeWrite, "Revoke a token that you hold.", responds(http.StatusNoContent, nil)),
		},
		HelpSynopsis: "Revoke a token by presenting it, such as one that leaked.",
		HelpDescription: `
The answer is the same whether the token was live, or never existed (RFC 7009,
section 2.2). The token's lease stays until it ends, and then does nothing.`,
	}}
}

func (b *tokensBackend) pathRevokeWrite(ctx context.Context, req *logical.Request, data *framework.FieldData) (*logical.Response, error) {
	_, err := b.revokePresented(ctx, req, data)
	return nil, err
}
