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
		Fields: map[string]*framework.FieldSchema{
			"list": field(framework.TypeString, "Id of the list, from a token's status claim."),
			"time": {Type: framework.TypeString, Query: true, Description: "Refused: there is the list of now only, and none of another time."},
		},
		Operations: map[logical.Operation]framework.OperationHandler{
			logical.ReadOperation: &framework.PathOperation{
				Callback:  b.pathStatusRead,
				Summary:   "Read a signed list of revoked JWTs.",
				Responses: publishes(http.StatusNotFound, http.StatusNotImplemented),
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
	if _, historical := req.Data["time"]; historical {
		// As the draft asks of who has no history (§8.4, Historical Resolution): the
		// list of now could pass for the one of then.
		return nil, logical.CodedError(http.StatusNotImplemented, "there is the list of now only, and none of another time")
	}
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
