package tokens

import (
	"context"

	"github.com/hashicorp/vault/sdk/framework"
	"github.com/hashicorp/vault/sdk/logical"
)

func (b *tokensBackend) pathJWKS() []*framework.Path {
	return []*framework.Path{{
		Pattern: "jwks",
		Operations: map[logical.Operation]framework.OperationHandler{
			logical.ReadOperation: &framework.PathOperation{
				Callback:  b.pathJWKSRead,
				Summary:   "Read the public keys that verify JWTs.",
				Responses: publishes(),
			},
		},
		HelpSynopsis: "The JSON Web Key Set (RFC 7517) that verifies JWTs.",
		HelpDescription: `
Needs no Vault token. The body is the key set itself, not wrapped in Vault's
usual answer, so that any JWT library can read it.`,
	}}
}

func (b *tokensBackend) pathJWKSRead(ctx context.Context, req *logical.Request, _ *framework.FieldData) (*logical.Response, error) {
	set, err := b.engine.Keys.KeySet(ctx, req.Storage)
	if err != nil {
		return nil, err
	}
	jwks, err := b.keySet.get(set, func() ([]byte, error) { return set.JWKS, nil })
	if err != nil {
		return nil, err
	}
	return raw(req, "application/jwk-set+json", keySetMaxAge(), jwks), nil
}
