package tokens

import (
	"context"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"strings"
	"time"

	"github.com/hashicorp/vault/sdk/framework"
	"github.com/hashicorp/vault/sdk/logical"

	"github.com/vault-tokens/vault-plugin-secrets-tokens/backend/keyring"
	"github.com/vault-tokens/vault-plugin-secrets-tokens/backend/store"
)

// keyFields declares the settings of a key, as written or read.
func keyFields() map[string]*framework.FieldSchema {
	return map[string]*framework.FieldSchema{
		"algorithm":         field(framework.TypeString, "Signature algorithm: "+strings.Join(keyring.AlgorithmNames(), ", ")+". Default ES256. Cannot change."),
		"rotation_period":   field(framework.TypeDurationSecond, "How often the key is rotated automatically, at least 25m. Default 0: on demand only."),
		"allowed_roles":     field(framework.TypeCommaStringSlice, "Roles that may use the key. * matches any run of characters. Default *; empty allows none."),
		"allowed_audiences": field(framework.TypeCommaStringSlice, "Audiences that tokens signed with the key may have. * matches any run of characters. Default *; empty allows none."),
	}
}

func keyNameField() *framework.FieldSchema {
	return field(framework.TypeString, "Name of the key. Case matters.")
}

func (b *tokensBackend) pathKeys() []*framework.Path {
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
		b.pathKeyRotate(),
		b.pathKeyRotateEmergency(),
		b.pathKey(),
	}
}

func (b *tokensBackend) pathKeyRotate() *framework.Path {
	return &framework.Path{
		Pattern: "keys/(?P<name>[^/]+)/rotate",
		Fields: map[string]*framework.FieldSchema{
			"name":  keyNameField(),
			"force": field(framework.TypeBool, "Rotate even if the next version has been published for so short that verifiers may not have it. Default false."),
		},
		Operations: map[logical.Operation]framework.OperationHandler{
			logical.UpdateOperation: forwarded(b.pathKeysRotate, "Rotate a signing key now.", responds(http.StatusOK, rotated(map[string]*framework.FieldSchema{
				"retired":   field(framework.TypeString, "Id of the version that no longer signs, and stays published until not_after."),
				"not_after": field(framework.TypeString, "When the last token that the retired version signed has expired (RFC 3339)."),
			}))),
		},
		HelpSynopsis: "Rotate a signing key now.",
		HelpDescription: `
The next version, which is published already, begins to sign; the one that
signed stays published until every token that it signed has expired. Nothing
breaks. It is refused while the next version has been published for less than
25 minutes, so that a request which is repeated does not rotate twice.`,
	}
}

func (b *tokensBackend) pathKeyRotateEmergency() *framework.Path {
	return &framework.Path{
		Pattern: "keys/(?P<name>[^/]+)/rotate-emergency",
		Fields:  map[string]*framework.FieldSchema{"name": keyNameField()},
		Operations: map[logical.Operation]framework.OperationHandler{
			logical.UpdateOperation: forwarded(b.pathKeysRotateEmergency, "Drop every version of a key that leaked.", responds(http.StatusOK, rotated(nil))),
		},
		HelpSynopsis: "Drop every version of a key that leaked.",
		HelpDescription: `
Every version is dropped at once, the next one included, and new ones are made.
All tokens that the key signed stop working. It has a path of its own, so that a
policy can allow routine rotation without it.`,
	}
}

func (b *tokensBackend) pathKey() *framework.Path {
	fields := keyFields()
	fields["name"] = keyNameField()
	shown := keyFields()
	maps.Copy(shown, map[string]*framework.FieldSchema{
		"next_rotation": field(framework.TypeString, "When it is rotated automatically, if it is (RFC 3339)."),
		"created_at":    field(framework.TypeString, "When the key was created (RFC 3339)."),
		"versions":      field(framework.TypeSlice, "Versions, oldest first: version, kid, state, created_at, public_key (PEM) or problem, and not_after once retired."),
		"last_error":    field(framework.TypeString, "Why the key cannot be read, sign, or be rotated automatically, if so, and what to do."),
	})
	write := forwarded(b.pathKeysWrite, "Create or change a signing key.", changes())
	return &framework.Path{
		Pattern:        "keys/(?P<name>.+)",
		Fields:         fields,
		ExistenceCheck: b.keyExists,
		Operations: map[logical.Operation]framework.OperationHandler{
			// The node that rotates knows why it could not.
			logical.ReadOperation:   forwarded(b.pathKeysRead, "Read a key's public halves.", responds(http.StatusOK, shown)),
			logical.CreateOperation: write,
			logical.UpdateOperation: write,
			logical.DeleteOperation: forwarded(b.pathKeysDelete, "Delete a key that nothing uses.", responds(http.StatusNoContent, nil)),
		},
		HelpSynopsis: "A key that signs JWTs and status lists.",
		HelpDescription: `
The private half is made here and never leaves. A key can be deleted once no
role names it and every token that it signed has expired; default, which signs the
status lists of opaque tokens, once these have expired too. One that cannot be read
is replaced by a write with algorithm, allowed_roles and allowed_audiences, or
deleted.`,
	}
}

// rotated declares the answer to a rotation, with fields of its own.
func rotated(own map[string]*framework.FieldSchema) map[string]*framework.FieldSchema {
	fields := map[string]*framework.FieldSchema{
		"kid":      field(framework.TypeString, "Id of the version that signs now."),
		"next_kid": field(framework.TypeString, "Id of the version that is published to sign next."),
		"dropped":  field(framework.TypeStringSlice, "Ids of versions that are no longer published."),
	}
	maps.Copy(fields, own)
	return fields
}

func (b *tokensBackend) keyExists(ctx context.Context, req *logical.Request, data *framework.FieldData) (bool, error) {
	name, err := nameParameter(data)
	if err != nil {
		return false, nil // the handler refuses it
	}
	key, err := b.engine.Keys.Get(ctx, req.Storage, name)
	if errors.Is(err, store.ErrUndecodable) {
		return true, nil
	}
	return key != nil, err
}

func (b *tokensBackend) pathKeysList(ctx context.Context, req *logical.Request, _ *framework.FieldData) (*logical.Response, error) {
	names, err := b.engine.Keys.List(ctx, req.Storage)
	if err != nil {
		return nil, err
	}
	return logical.ListResponse(names), nil
}

func (b *tokensBackend) pathKeysRead(ctx context.Context, req *logical.Request, data *framework.FieldData) (*logical.Response, error) {
	name, err := nameParameter(data)
	if err != nil {
		return nil, err
	}
	key, err := b.engine.Keys.Get(ctx, req.Storage, name)
	if errors.Is(err, store.ErrUndecodable) {
		return &logical.Response{Data: map[string]any{"last_error": err.Error()}}, nil
	}
	if err != nil || key == nil {
		return nil, err
	}
	versions := make([]map[string]any, len(key.Versions))
	for i, v := range key.Versions {
		if versions[i], err = versionData(v); err != nil {
			return nil, err
		}
	}
	shown := map[string]any{
		"algorithm":         key.Algorithm,
		"rotation_period":   int64(key.RotationPeriod.Seconds()),
		"allowed_roles":     append([]string{}, key.AllowedRoles...),
		"allowed_audiences": append([]string{}, key.AllowedAudiences...),
		"created_at":        rfc3339(key.CreatedAt),
		"versions":          versions,
	}
	if at := key.NextRotation(); !at.IsZero() {
		shown["next_rotation"] = rfc3339(at)
	}
	if problem := b.engine.Keys.Problem(name); problem != "" {
		shown["last_error"] = problem
	}
	return &logical.Response{Data: shown}, nil
}

func versionData(v *keyring.Version) (map[string]any, error) {
	shown := map[string]any{
		"version":    v.Number,
		"kid":        v.ID,
		"state":      string(v.State),
		"created_at": rfc3339(v.CreatedAt),
	}
	if !v.NotAfter.IsZero() {
		shown["not_after"] = rfc3339(v.NotAfter)
	}
	if v.Problem != "" {
		shown["problem"] = v.Problem
		return shown, nil
	}
	public, err := publicPEM(v)
	shown["public_key"] = public
	return shown, err
}

func publicPEM(v *keyring.Version) (string, error) {
	der, err := x509.MarshalPKIXPublicKey(v.Public())
	if err != nil {
		return "", fmt.Errorf("encode public key %s: %w", v.ID, err)
	}
	return string(pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der})), nil
}

func (b *tokensBackend) pathKeysWrite(ctx context.Context, req *logical.Request, data *framework.FieldData) (*logical.Response, error) {
	name, err := nameParameter(data)
	if err != nil {
		return nil, err
	}
	settings := keyring.Settings{
		Algorithm:        optional[string](data, "algorithm"),
		RotationPeriod:   optionalSeconds(data, "rotation_period"),
		AllowedRoles:     optional[[]string](data, "allowed_roles"),
		AllowedAudiences: optional[[]string](data, "allowed_audiences"),
	}
	key, created, err := b.engine.WriteKey(ctx, req.Storage, name, settings)
	if err != nil {
		return nil, err
	}
	if created {
		b.logKeyCreated(key)
	} else {
		b.Logger().Info("key written", "key", name, "rotation_period", key.RotationPeriod, "allowed_roles", key.AllowedRoles, "allowed_audiences", key.AllowedAudiences)
	}
	if named := settings.AllowedAudiences; named != nil && len(*named) == 0 {
		return warn([]string{"allowed_audiences is empty: no token can be issued with the key"}), nil
	}
	return nil, nil
}

func (b *tokensBackend) pathKeysRotate(ctx context.Context, req *logical.Request, data *framework.FieldData) (*logical.Response, error) {
	name, err := nameParameter(data)
	if err != nil {
		return nil, err
	}
	rotation, err := b.engine.RotateKey(ctx, req.Storage, name, data.Get("force").(bool))
	if err != nil {
		return nil, err
	}
	b.logRotation(rotation)
	resp := rotationResponse(rotation)
	resp.Data["retired"] = rotation.Retired.ID
	resp.Data["not_after"] = rfc3339(rotation.Retired.NotAfter)
	if rotation.Published < keyring.MaxCacheTime {
		resp.AddWarning("the version that signs now has been published for " + rotation.Published.Round(time.Second).String() + " only; verifiers that do not fetch the key set again for an unknown kid may refuse new tokens for up to " + keyring.MaxCacheTime.String())
	}
	return resp, nil
}

func (b *tokensBackend) pathKeysRotateEmergency(ctx context.Context, req *logical.Request, data *framework.FieldData) (*logical.Response, error) {
	name, err := nameParameter(data)
	if err != nil {
		return nil, err
	}
	rotation, err := b.engine.Keys.EmergencyRotate(ctx, req.Storage, name)
	if err != nil {
		return nil, err
	}
	b.logRotation(rotation)
	resp := rotationResponse(rotation)
	resp.AddWarning("every JWT that key \"" + name + "\" signed before now is invalid: introspection refuses it at once, and a verifier as soon as it fetches the key set again, which may be cached for up to " + keyring.MaxCacheTime.String() + ", or longer by a library that ignores Cache-Control; restart verifiers to be sure")
	resp.AddWarning("verifiers that do not fetch the key set again for an unknown kid refuse new tokens for as long; applications must request new tokens now")
	return resp, nil
}

func rotationResponse(rotation *keyring.Rotation) *logical.Response {
	dropped := make([]string, len(rotation.Dropped))
	for i, v := range rotation.Dropped {
		dropped[i] = v.ID
	}
	return &logical.Response{Data: map[string]any{
		"kid":      rotation.Signing.ID,
		"next_kid": rotation.Next.ID,
		"dropped":  dropped,
	}}
}

func (b *tokensBackend) pathKeysDelete(ctx context.Context, req *logical.Request, data *framework.FieldData) (*logical.Response, error) {
	name, err := nameParameter(data)
	if err != nil {
		return nil, err
	}
	deleted, err := b.engine.DeleteKey(ctx, req.Storage, name)
	if deleted {
		b.Logger().Info("key deleted", "key", name)
	}
	return nil, err
}
