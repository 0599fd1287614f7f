package tokens

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"

	"github.com/hashicorp/vault/sdk/framework"
	"github.com/hashicorp/vault/sdk/logical"

	"github.com/vault-tokens/vault-plugin-secrets-tokens/backend/keyring"
)

const (
	pathOpenIDConfiguration = ".well-known/openid-configuration"
	pathOAuthServer         = ".well-known/oauth-authorization-server"
)

// issuerMetadata is the Authorization Server Metadata of RFC 8414 §2, and what
// OpenID Connect Discovery 1.0 §3 requires in addition. There is no token
// endpoint: Vault issues the tokens.
//
// RFC 8414 §3.2 has members without elements left out. For two of them that cannot
// be: response_types_supported is required (RFC 8414 §2), and clients refuse
// metadata without it; and without grant_types_supported the default counts, which
// names two grants that do not exist here. An empty list says what is so. Nor is
// RS256 among the algorithms unless a key has it, though OpenID Connect Discovery
// wants it there: no ID tokens are issued, and a verifier must not expect it.
type issuerMetadata struct {
	Issuer            string   `json:"issuer"`
	JWKSURI           string   `json:"jwks_uri"`
	ResponseTypes     []string `json:"response_types_supported"`
	GrantTypes        []string `json:"grant_types_supported"`
	SubjectTypes      []string `json:"subject_types_supported"`
	SigningAlgorithms []string `json:"id_token_signing_alg_values_supported,omitempty"`
	Claims            []string `json:"claims_supported"`

	Introspection     string   `json:"introspection_endpoint"`
	IntrospectionAuth []string `json:"introspection_endpoint_auth_methods_supported"`
	Revocation        string   `json:"revocation_endpoint"`
	RevocationAuth    []string `json:"revocation_endpoint_auth_methods_supported"`
}

// endpointAuth is how clients authenticate to the endpoints: with a Vault token as
// a bearer token (RFC 6750). Of introspection RFC 8414 §2 allows such a method, from
// the registry of access token types. Of revocation it does not, but a client that
// finds none takes client_secret_basic for granted, which Vault ignores; and "none"
// would have it send no Vault token. RFC 8414 §7.2 keeps the two registries apart, so
// that Bearer cannot be taken for anything else.
var endpointAuth = []string{"Bearer"}

// metadataSource is what the metadata are made from.
type metadataSource struct {
	issuer string
	keys   *keyring.KeySet
}

func (s metadataSource) encode() ([]byte, error) {
	body, err := json.Marshal(issuerMetadata{
		Issuer:            s.issuer,
		JWKSURI:           s.issuer + "/jwks",
		ResponseTypes:     []string{},
		GrantTypes:        []string{},
		SubjectTypes:      []string{"public"},
		SigningAlgorithms: s.keys.Algorithms,
		Claims:            []string{"iss", "sub", "aud", "exp", "nbf", "iat", "jti", "client_id", "scope", "status", "cnf"},

		Introspection:     s.issuer + "/oauth2/introspect",
		IntrospectionAuth: endpointAuth,
		Revocation:        s.issuer + "/oauth2/revoke",
		RevocationAuth:    endpointAuth,
	})
	if err != nil {
		return nil, fmt.Errorf("encode metadata: %w", err)
	}
	return body, nil
}

func (b *tokensBackend) pathDiscovery() []*framework.Path {
	operations := map[logical.Operation]framework.OperationHandler{
		logical.ReadOperation: &framework.PathOperation{
			Callback:  b.pathDiscoveryRead,
			Summary:   "Read the issuer's metadata.",
			Responses: publishes(http.StatusNotFound),
		},
	}
	help := "The issuer's metadata, from which clients configure themselves (RFC 8414)."
	return []*framework.Path{
		{Pattern: `\.well-known/openid-configuration`, Operations: operations, HelpSynopsis: help, HelpDescription: discoveryHelp},
		{Pattern: `\.well-known/oauth-authorization-server`, Operations: operations, HelpSynopsis: help, HelpDescription: discoveryHelp},
	}
}

const discoveryHelp = `
Needs no Vault token. Found at the issuer, followed by this path. There is
nothing here until issuer is set in config.`

func (b *tokensBackend) pathDiscoveryRead(ctx context.Context, req *logical.Request, _ *framework.FieldData) (*logical.Response, error) {
	c, err := b.engine.Config.Get(ctx, req.Storage)
	if err != nil {
		return nil, err
	}
	if c.Issuer == "" {
		return nil, nil
	}
	set, err := b.engine.Keys.KeySet(ctx, req.Storage)
	if err != nil {
		return nil, err
	}
	source := metadataSource{c.Issuer, set}
	metadata, err := b.metadata.get(source, source.encode)
	if err != nil {
		return nil, err
	}
	return raw(req, "application/json", keySetMaxAge(), metadata), nil
}
