package tokens

import (
	"context"
	"net/http"

	"github.com/hashicorp/vault/sdk/framework"
	"github.com/hashicorp/vault/sdk/logical"

	"github.com/vault-tokens/vault-plugin-secrets-tokens/verify/format"
)

func (b *tokensBackend) pathStatus() []*framework.Path {
	return []*framework.Path{{
		Pattern: "status/(?P<list>.+)",
		Fields:  map[string]*framework.FieldSchema{"list": field(framework.TypeString, "Id of the list, from a token's status claim.")},
		Operations: map[logical.Operation]framework.OperationHandler{
			logical.ReadOperation: &framework.PathOperation{
				Callback:  b.pathStatusRead,
				Summary:   "Read a signed list of revoked JWTs.",
				Responses: responds(http.StatusOK, nil),
			},
		},
		HelpSynopsis: "A Token Status List (draft-ietf-oauth-status-list): which JWTs are revoked.",
		HelpDescription: `
Needs no Vault token. The body is a signed JWT (typ statuslist+jwt) that holds
one bit for each token of a role; a token's status claim names its list and its
bit. A revocation changes the list at once.`,
	}}
}

func (b *tokensBackend) pathStatusRead(ctx context.Context, req *logical.Request, data *framework.FieldData) (*logical.Response, error) {
	id := data.Get("list").(string)
	if !format.ValidID(id) {
		return nil, nil
	}
	list, maxAge, err := b.engine.StatusList(ctx, req.Storage, id)
	if err != nil || list == nil {
		return nil, err
	}
	return raw(req, "application/"+format.StatusListType, maxAge, newDocument(list)), nil
}
