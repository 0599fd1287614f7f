package tokens

import (
	"context"
	"net/http"

	"github.com/hashicorp/vault/sdk/framework"
	"github.com/hashicorp/vault/sdk/logical"
)

func (b *backend) pathJWKS() []*framework.Path {
	return []*framework.Path{{
		Pattern: "jwks",
		Operations: map[logical.Operation]framework.OperationHandler{
			logical.ReadOperation: &framework.PathOperation{
				Callback:  b.pathJWKSRead,
				Summary:   "Read the public keys that verify JWTs.",
				Responses: responds(http.StatusOK, nil),
			},
		},
		HelpSynopsis: "The JSON Web Key Set (RFC 7517) that verifies JWTs.",
		HelpDescription: `
Needs no Vault token. The body is the key set itself, not wrapped in Vault's
usual answer, so that any JWT library can read it.`,
	}}
}

func (b *backend) pathJWKSRead(ctx context.Context, req *logical.Request, _ *framework.FieldData) (*logical.Response, error) {
	jwks, err := b.tokens.Keys.JWKS(ctx, req.Storage)
	if err != nil {
		return nil, err
	}
	return raw("application/jwk-set+json", "public, max-age=60", jwks), nil
}

// raw answers with a body that Vault passes on as it is.
func raw(contentType, cacheControl string, body []byte) *logical.Response {
	return &logical.Response{Data: map[string]any{
		logical.HTTPStatusCode:         http.StatusOK,
		logical.HTTPContentType:        contentType,
		logical.HTTPCacheControlHeader: cacheControl,
		logical.HTTPRawBody:            body,
	}}
}
