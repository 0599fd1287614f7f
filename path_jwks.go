package tokens

import (
	"context"
	"crypto/sha256"
	"encoding/base64"
	"fmt"
	"math/rand/v2"
	"net/http"
	"slices"
	"time"

	"github.com/hashicorp/vault/sdk/framework"
	"github.com/hashicorp/vault/sdk/logical"

	"github.com/vault-tokens/vault-plugin-secrets-tokens/backend/keyring"
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
	return raw(req, "application/jwk-set+json", keySetMaxAge(), jwks), nil
}

// keySetMaxAge is for how long a key set may be cached. It varies, so that
// verifiers which started together do not fetch together for ever.
func keySetMaxAge() time.Duration {
	return keyring.MaxCacheTime - rand.N(keyring.MaxCacheTime/5)
}

// raw answers with a body that Vault passes on as it is. The entity tag works
// where the mount passes ETag and If-None-Match; all works without.
func raw(req *logical.Request, contentType string, maxAge time.Duration, body []byte) *logical.Response {
	digest := sha256.Sum256(body)
	tag := `"` + base64.RawURLEncoding.EncodeToString(digest[:16]) + `"`
	resp := &logical.Response{
		Data: map[string]any{
			logical.HTTPStatusCode:         http.StatusOK,
			logical.HTTPContentType:        contentType,
			logical.HTTPCacheControlHeader: fmt.Sprintf("public, max-age=%d", int(maxAge.Seconds())),
			logical.HTTPRawBody:            body,
		},
		Headers: map[string][]string{"ETag": {tag}},
	}
	if slices.Contains(req.Headers["If-None-Match"], tag) {
		resp.Data[logical.HTTPStatusCode] = http.StatusNotModified
		delete(resp.Data, logical.HTTPRawBody)
	}
	return resp
}
