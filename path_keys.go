package tokens

import (
	"context"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"net/http"
	"strings"
	"time"

	"github.com/hashicorp/vault/sdk/framework"
	"github.com/hashicorp/vault/sdk/logical"

	"github.com/vault-tokens/vault-plugin-secrets-tokens/backend/badinput"
	"github.com/vault-tokens/vault-plugin-secrets-tokens/backend/keyring"
)

func (b *backend) pathKeys() []*framework.Path {
	name := field(framework.TypeString, "Name of the key. Case matters.")
	algorithm := field(framework.TypeString, "Signature algorithm: "+strings.Join(keyring.AlgorithmNames(), ", ")+". Cannot change.")
	algorithm.Default = keyring.DefaultAlgorithm
	write := &framework.PathOperation{
		Callback:                    b.pathKeysWrite,
		Summary:                     "Create a signing key.",
		ForwardPerformanceStandby:   true,
		ForwardPerformanceSecondary: true,
		Responses:                   responds(http.StatusNoContent, nil),
	}
	return []*framework.Path{
		{
			Pattern: "keys/?$",
			Operations: map[logical.Operation]framework.OperationHandler{
				logical.ListOperation: &framework.PathOperation{
					Callback:  b.pathKeysList,
					Summary:   "List the signing keys.",
					Responses: responds(http.StatusOK, listFields("Names of the keys.")),
				},
			},
			HelpSynopsis:    "List the signing keys.",
			HelpDescription: "Signing keys sign JWTs; see keys/<name>.",
		},
		{
			Pattern:        "keys/(?P<name>.+)",
			Fields:         map[string]*framework.FieldSchema{"name": name, "algorithm": algorithm},
			ExistenceCheck: b.keyExists,
			Operations: map[logical.Operation]framework.OperationHandler{
				logical.ReadOperation: &framework.PathOperation{
					Callback: b.pathKeysRead,
					Summary:  "Read a key's public halves.",
					Responses: responds(http.StatusOK, map[string]*framework.FieldSchema{
						"algorithm":  algorithm,
						"created_at": field(framework.TypeString, "When the key was created (RFC 3339)."),
						"versions":   field(framework.TypeSlice, "Versions, oldest first: version, kid, state, created_at, public_key (PEM), and not_after once retired."),
					}),
				},
				logical.CreateOperation: write,
				logical.UpdateOperation: write,
				logical.DeleteOperation: &framework.PathOperation{
					Callback:                    b.pathKeysDelete,
					Summary:                     "Delete a key that nothing uses.",
					ForwardPerformanceStandby:   true,
					ForwardPerformanceSecondary: true,
					Responses:                   responds(http.StatusNoContent, nil),
				},
			},
			HelpSynopsis: "A signing key of JWTs.",
			HelpDescription: `
The private half is made here and never leaves. A key can be deleted once no
role names it and every token that it signed has expired.`,
		},
	}
}

func (b *backend) keyExists(ctx context.Context, req *logical.Request, data *framework.FieldData) (bool, error) {
	name, err := nameParameter(data)
	if err != nil {
		return false, nil // the handler refuses it
	}
	key, err := b.tokens.Keys.Get(ctx, req.Storage, name)
	return key != nil, err
}

func (b *backend) pathKeysList(ctx context.Context, req *logical.Request, _ *framework.FieldData) (*logical.Response, error) {
	names, err := b.tokens.Keys.List(ctx, req.Storage)
	if err != nil {
		return nil, err
	}
	return logical.ListResponse(names), nil
}

func (b *backend) pathKeysRead(ctx context.Context, req *logical.Request, data *framework.FieldData) (*logical.Response, error) {
	name, err := nameParameter(data)
	if err != nil {
		return nil, err
	}
	key, err := b.tokens.Keys.Get(ctx, req.Storage, name)
	if err != nil || key == nil {
		return nil, err
	}
	versions := make([]map[string]any, len(key.Versions))
	for i, v := range key.Versions {
		public, err := publicPEM(v)
		if err != nil {
			return nil, err
		}
		versions[i] = map[string]any{
			"version":    v.Number,
			"kid":        v.ID,
			"state":      string(v.State),
			"created_at": v.CreatedAt.UTC().Format(time.RFC3339),
			"public_key": public,
		}
		if !v.NotAfter.IsZero() {
			versions[i]["not_after"] = v.NotAfter.UTC().Format(time.RFC3339)
		}
	}
	return &logical.Response{Data: map[string]any{
		"algorithm":  key.Algorithm,
		"created_at": key.CreatedAt.UTC().Format(time.RFC3339),
		"versions":   versions,
	}}, nil
}

func publicPEM(v *keyring.Version) (string, error) {
	der, err := x509.MarshalPKIXPublicKey(v.Public())
	if err != nil {
		return "", fmt.Errorf("encode public key %s: %w", v.ID, err)
	}
	return string(pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der})), nil
}

func (b *backend) pathKeysWrite(ctx context.Context, req *logical.Request, data *framework.FieldData) (*logical.Response, error) {
	name, err := nameParameter(data)
	if err != nil {
		return nil, err
	}
	algorithm := data.Get("algorithm").(string)
	if _, named := data.GetOk("algorithm"); !named {
		// Whatever an existing key has, rather than the default.
		if key, err := b.tokens.Keys.Get(ctx, req.Storage, name); err != nil {
			return nil, err
		} else if key != nil {
			algorithm = key.Algorithm
		}
	}
	key, created, err := b.tokens.Keys.Create(ctx, req.Storage, name, algorithm)
	if err != nil {
		return nil, err
	}
	if created {
		b.logKeyCreated(key)
	}
	return nil, nil
}

func (b *backend) logKeyCreated(key *keyring.Key) {
	b.Logger().Info("key created", "key", key.Name, "algorithm", key.Algorithm, "kid", key.Versions[0].ID)
}

func (b *backend) pathKeysDelete(ctx context.Context, req *logical.Request, data *framework.FieldData) (*logical.Response, error) {
	name, err := nameParameter(data)
	if err != nil {
		return nil, err
	}
	user, err := b.roleWithKey(ctx, req.Storage, name)
	if err != nil {
		return nil, err
	}
	if user != "" {
		return nil, badinput.Field("name", "key %q is used by role %q; delete the role or give it another key first", name, user)
	}
	if err := b.tokens.Keys.Delete(ctx, req.Storage, name); err != nil {
		return nil, err
	}
	b.Logger().Info("key deleted", "key", name)
	return nil, nil
}

// roleWithKey returns a role that names the key, or "".
func (b *backend) roleWithKey(ctx context.Context, storage logical.Storage, key string) (string, error) {
	names, err := b.tokens.Roles.List(ctx, storage, "")
	if err != nil {
		return "", err
	}
	for _, name := range names {
		r, err := b.tokens.Roles.Get(ctx, storage, name)
		if err != nil {
			return "", err
		}
		if r != nil && r.Key == key {
			return name, nil
		}
	}
	return "", nil
}
