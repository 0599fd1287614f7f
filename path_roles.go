package tokens

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"net/netip"
	"slices"
	"time"

	"github.com/hashicorp/vault/sdk/framework"
	"github.com/hashicorp/vault/sdk/logical"

	"github.com/vault-tokens/vault-plugin-secrets-tokens/backend"
	"github.com/vault-tokens/vault-plugin-secrets-tokens/backend/keyring"
	"github.com/vault-tokens/vault-plugin-secrets-tokens/backend/role"
	"github.com/vault-tokens/vault-plugin-secrets-tokens/backend/store"
	"github.com/vault-tokens/vault-plugin-secrets-tokens/backend/usererror"
)

// roleField is one field of a role: how it is declared, read from a request,
// put back to its default, and shown.
type roleField struct {
	name   string
	schema *framework.FieldSchema
	set    func(r *role.Role, value any) error
	reset  func(r *role.Role)
	show   func(r *role.Role) any
	// emptied warns of what a role allows or restricts no longer once the field,
	// a list, is empty.
	emptied string
}

// newRoleField makes a field of the value that at points to. Parse turns what
// the framework read into that value; show turns it into what is answered.
func newRoleField[T, V any](name string, schema *framework.FieldSchema, at func(*role.Role) *T, parse func(V) (T, error), show func(T) any) roleField {
	return roleField{
		name:   name,
		schema: schema,
		set: func(r *role.Role, value any) error {
			parsed, err := parse(value.(V))
			if err == nil {
				*at(r) = parsed
			}
			return err
		},
		reset: func(r *role.Role) { *at(r) = *at(role.New(r.Name, r.TokenType)) },
		show:  func(r *role.Role) any { return show(*at(r)) },
	}
}

func plainField[T any](name string, schema *framework.FieldSchema, at func(*role.Role) *T) roleField {
	return newRoleField(name, schema, at,
		func(v T) (T, error) { return v, nil },
		func(v T) any { return v })
}

func listField(name, description, emptied string, at func(*role.Role) *[]string) roleField {
	f := newRoleField(name, field(framework.TypeCommaStringSlice, description), at,
		func(v []string) ([]string, error) { return v, nil },
		func(v []string) any { return append([]string{}, v...) })
	f.emptied = emptied
	return f
}

func durationField(name, description string, at func(*role.Role) *time.Duration) roleField {
	return newRoleField(name, field(framework.TypeDurationSecond, description), at,
		func(v int) (time.Duration, error) { return time.Duration(v) * time.Second, nil },
		func(v time.Duration) any { return int64(v.Seconds()) })
}

// roleFields are all fields of a role but its name and token_type.
var roleFields = []roleField{
	listField("allowed_scopes", "Scopes that tokens of the role may have. * matches any run of characters. Empty allows none.",
		"tokens can have no scope",
		func(r *role.Role) *[]string { return &r.AllowedScopes }),
	listField("default_scopes", "Scopes of a token when none are asked for; each must be allowed.",
		"tokens have no scope unless the request names some",
		func(r *role.Role) *[]string { return &r.DefaultScopes }),
	durationField("max_ttl", "Life of a token over all renewals. Default 0: the mount's maximum.",
		func(r *role.Role) *time.Duration { return &r.MaxTTL }),
	ttlField(), // after max_ttl, to which a default gives way
	listField("audiences", "APIs that the tokens are for (aud). A jwt role needs at least one, and each must be within allowed_audiences of config.",
		"tokens are for no API in particular, so that an audience asked for at introspection refuses them, and an API that asks for none accepts them",
		func(r *role.Role) *[]string { return &r.Audiences }),
	plainField("subject", field(framework.TypeString, "Subject (sub), with Vault identity templating. Default: the caller's entity id."),
		func(r *role.Role) *string { return &r.Subject }),
	newRoleField("claims", field(framework.TypeMap, "jwt: claims that every token has, as a JSON object."),
		func(r *role.Role) *json.RawMessage { return &r.Claims },
		func(v map[string]any) (json.RawMessage, error) {
			if len(v) == 0 {
				return nil, nil
			}
			return json.Marshal(v)
		},
		func(v json.RawMessage) any {
			shown := map[string]any{}
			if v != nil {
				decoder := json.NewDecoder(bytes.NewReader(v))
				decoder.UseNumber()        // large numbers stay as they are
				_ = decoder.Decode(&shown) // it was encoded from such a map
			}
			return shown
		}),
	plainField("claims_template", field(framework.TypeString, "jwt: a JSON object of claims, with Vault identity templating."),
		func(r *role.Role) *string { return &r.ClaimsTemplate }),
	plainField("key", field(framework.TypeString, "jwt: the signing key. Default \"default\", which is created if it is missing."),
		func(r *role.Role) *string { return &r.Key }),
	durationField("not_before_leeway", "jwt: how far nbf lies before the time of issue, for clocks that are behind. Default 30s.",
		func(r *role.Role) *time.Duration { return &r.NotBeforeLeeway }),
	plainField("prefix", field(framework.TypeString, "api_key, bearer: what tokens start with. Default vtk for api_key, vtb for bearer."),
		func(r *role.Role) *string { return &r.Prefix }),
	plainField("max_tokens", field(framework.TypeInt, "api_key, bearer: how many tokens of the role may be live at once. Default 0: no cap."),
		func(r *role.Role) *int { return &r.MaxTokens }),
	networksField(),
	newRoleField("metadata", field(framework.TypeKVPairs, "Metadata of every token, shown by introspection. Not for secrets."),
		func(r *role.Role) *map[string]string { return &r.Metadata },
		func(v map[string]string) (map[string]string, error) { return v, nil },
		func(v map[string]string) any { return stringMap(v) }),
	listField("allowed_metadata", "Names of metadata that a request may add. * matches any run of characters. Default empty: none.",
		"requests can add no metadata",
		func(r *role.Role) *[]string { return &r.AllowedMetadata }),
	plainField("require_cnf", field(framework.TypeBool, "Whether a request must bind its token to a key, by cnf. Default false."),
		func(r *role.Role) *bool { return &r.RequireCnf }),
	plainField("track", field(framework.TypeBool, "jwt: whether each token has a record, without the token, so that it can be listed, looked up and revoked by its id. Costs one storage write per token. Default false."),
		func(r *role.Role) *bool { return &r.Track }),
	plainField("generate_lease", field(framework.TypeBool, "Whether tokens have a Vault lease, and so end with the Vault login that asked for them. Default true."),
		func(r *role.Role) *bool { return &r.GenerateLease }),
}

// ttlField is the ttl, of which 0 is the type's default: a token that cannot be
// renewed or moved, such as a JWT, should not silently live as long as a mount
// allows.
func ttlField() roleField {
	f := durationField("ttl", "Life of a token. Default, and 0: the mount's for api_key, 1h for bearer, 15m for jwt.",
		func(r *role.Role) *time.Duration { return &r.TTL })
	set := f.set
	f.set = func(r *role.Role, value any) error {
		if value == 0 {
			r.SetDefaultTTL()
			return nil
		}
		return set(r, value)
	}
	f.reset = (*role.Role).SetDefaultTTL
	return f
}

func networksField() roleField {
	f := newRoleField("bound_cidrs", field(framework.TypeCommaStringSlice, "Networks that the tokens may be used from. Default: any."),
		func(r *role.Role) *[]netip.Prefix { return &r.BoundCIDRs },
		func(v []string) ([]netip.Prefix, error) { return role.ParseCIDRs("bound_cidrs", v) },
		func(v []netip.Prefix) any { return prefixStrings(v) })
	f.emptied = "tokens may be used from anywhere"
	return f
}

// roleFieldSchemas declares a role's fields, as read or written.
func roleFieldSchemas() map[string]*framework.FieldSchema {
	schemas := map[string]*framework.FieldSchema{
		"token_type": field(framework.TypeString, "What the role issues: api_key, bearer or jwt. Required to create a role; cannot change."),
	}
	for _, f := range roleFields {
		schemas[f.name] = f.schema
	}
	return schemas
}

func (b *tokensBackend) pathRoles() []*framework.Path {
	fields := roleFieldSchemas()
	fields["name"] = field(framework.TypeString, "Name of the role. Case matters.")
	write := func(callback framework.OperationFunc, summary string) *framework.PathOperation {
		return forwarded(callback, summary, changes())
	}
	return []*framework.Path{
		{
			Pattern: "roles/?$",
			Operations: map[logical.Operation]framework.OperationHandler{
				logical.ListOperation: &framework.PathOperation{
					Callback:  b.pathRolesList,
					Summary:   "List the roles.",
					Responses: finds(listFields("Names of the roles.")),
				},
			},
			HelpSynopsis:    "List the roles.",
			HelpDescription: "Roles decide what tokens are issued; see roles/<name>.",
		},
		b.pathRoleRevoke(fields["name"]),
		{
			Pattern:        "roles/(?P<name>.+)",
			Fields:         fields,
			ExistenceCheck: b.roleExists,
			Operations: map[logical.Operation]framework.OperationHandler{
				logical.ReadOperation: &framework.PathOperation{
					Callback:  b.pathRolesRead,
					Summary:   "Read a role.",
					Responses: finds(roleFieldSchemas()),
				},
				logical.CreateOperation: write(b.pathRolesWrite, "Create a role."),
				logical.UpdateOperation: write(b.pathRolesWrite, "Change a role."),
				logical.PatchOperation:  write(b.pathRolesPatch, "Change a role that exists; null resets a field, or removes a member of an object."),
				logical.DeleteOperation: write(b.pathRolesDelete, "Delete a role."),
			},
			HelpSynopsis: "What tokens of a role may do, and for how long they live.",
			HelpDescription: `
A write changes only the fields that it names; a patch does so for the members of
claims and metadata too (RFC 7396). A role that is stored and cannot be read is
replaced by a write that names its token_type, or deleted. Tokens that were issued keep what
they have, but a renewal is checked against the role as it is then.

Deleting a role stops issue and renewal. It does not revoke tokens: roles/<name>/revoke
does, before or after.`,
		},
	}
}

func (b *tokensBackend) roleExists(ctx context.Context, req *logical.Request, data *framework.FieldData) (bool, error) {
	name, err := nameParameter(data)
	if err != nil {
		return false, nil // the handler refuses it
	}
	r, err := b.engine.Roles.Get(ctx, req.Storage, name)
	if errors.Is(err, store.ErrUndecodable) {
		return true, nil // there is one, and who may write it needs the right to change it
	}
	return r != nil, err
}

func (b *tokensBackend) pathRolesList(ctx context.Context, req *logical.Request, _ *framework.FieldData) (*logical.Response, error) {
	names, err := b.engine.Roles.List(ctx, req.Storage, "")
	if err != nil {
		return nil, err
	}
	return logical.ListResponse(names), nil
}

func (b *tokensBackend) pathRolesRead(ctx context.Context, req *logical.Request, data *framework.FieldData) (*logical.Response, error) {
	name, err := nameParameter(data)
	if err != nil {
		return nil, err
	}
	r, err := b.engine.Roles.Get(ctx, req.Storage, name)
	if err != nil || r == nil {
		return nil, err
	}
	shown := map[string]any{"token_type": string(r.TokenType)}
	for _, f := range roleFields {
		shown[f.name] = f.show(r)
	}
	return &logical.Response{Data: shown}, nil
}

func (b *tokensBackend) pathRolesWrite(ctx context.Context, req *logical.Request, data *framework.FieldData) (*logical.Response, error) {
	return b.changeRole(ctx, req, data, func(name string) (*role.Role, error) {
		tokenType, err := role.ParseTokenType(data.Get("token_type").(string))
		if err != nil {
			return nil, err
		}
		return role.New(name, tokenType), nil
	})
}

func (b *tokensBackend) pathRolesPatch(ctx context.Context, req *logical.Request, data *framework.FieldData) (*logical.Response, error) {
	return b.changeRole(ctx, req, data, func(name string) (*role.Role, error) {
		return nil, usererror.Field("name", "role %q does not exist, or cannot be decoded; a patch changes what is there, so create it with a write", name)
	})
}

// changeRole sets what the request names on the role, or on the one that
// create returns if there is none, and stores the result if it is valid.
func (b *tokensBackend) changeRole(ctx context.Context, req *logical.Request, data *framework.FieldData, create func(name string) (*role.Role, error)) (*logical.Response, error) {
	name, err := nameParameter(data)
	if err != nil {
		return nil, err
	}
	done, err := b.engine.ChangeRole(ctx, req.Storage, name,
		func() (*role.Role, error) { return create(name) },
		func(r *role.Role, created bool) error { return setRoleFields(r, req, data, created) })
	if done != nil && done.NewKey != nil {
		b.logKeyCreated(done.NewKey)
	}
	if done != nil && done.Stored {
		b.Logger().Info("role written", "role", name, "token_type", done.Role.TokenType, "created", done.Created, "replaced", done.Replaced)
	}
	if err != nil {
		return nil, err
	}
	b.logListKey(done.ListKey)
	return warn(slices.Concat(replacedWarning(done), emptiedWarnings(done), b.cappedWarnings(done.Role, done.Ceilings.MaxTTL), youngKeyWarning(done), listKeyWarnings(done.ListKey))), nil
}

// setRoleFields sets the fields that the request names. In a patch, null puts one
// back to its default, and an object changes the members that it names.
func setRoleFields(r *role.Role, req *logical.Request, data *framework.FieldData, created bool) error {
	if value, ok := req.Data["token_type"]; ok && value != string(r.TokenType) {
		return usererror.Field("token_type", "cannot change from %s; delete the role, or write one with another name", r.TokenType)
	}
	for _, f := range roleFields {
		value, ok := req.Data[f.name]
		if !ok {
			continue
		}
		if value == nil {
			f.reset(r)
			continue
		}
		if err := f.set(r, f.read(r, req, data)); err != nil {
			return err
		}
	}
	if _, named := req.Data["ttl"]; created && !named {
		r.SetDefaultTTL()
	}
	return nil
}

// read returns what the request wants the field to be.
func (f *roleField) read(r *role.Role, req *logical.Request, data *framework.FieldData) any {
	if req.Operation != logical.PatchOperation || f.schema.Type != framework.TypeMap && f.schema.Type != framework.TypeKVPairs {
		return data.Get(f.name)
	}
	patch, isObject := req.Data[f.name].(map[string]any)
	if !isObject { // key=value pairs
		patch = stringMap(data.Get(f.name).(map[string]string))
	}
	merged := framework.FieldData{
		Raw:    map[string]any{f.name: mergePatch(f.show(r), patch)},
		Schema: map[string]*framework.FieldSchema{f.name: f.schema},
	}
	return merged.Get(f.name)
}

// mergePatch applies a patch to a value (RFC 7396 §2).
func mergePatch(target, patch any) any {
	members, isObject := patch.(map[string]any)
	if !isObject {
		return patch
	}
	merged, isObject := target.(map[string]any)
	if !isObject {
		merged = map[string]any{}
	}
	merged = maps.Clone(merged)
	for name, value := range members {
		if value == nil {
			delete(merged, name)
		} else {
			merged[name] = mergePatch(merged[name], value)
		}
	}
	return merged
}

func replacedWarning(done *backend.RoleChange) []string {
	if !done.Replaced {
		return nil
	}
	return []string{"the role that was stored could not be decoded, so nothing of it was kept: fields that were not named have their defaults"}
}

// emptiedWarnings warns of lists that the write emptied: most likely by a variable
// that was not set.
func emptiedWarnings(done *backend.RoleChange) (warnings []string) {
	if done.Before == nil {
		return nil
	}
	for _, f := range roleFields {
		if f.emptied != "" && isEmpty(f.show(done.Role)) && !isEmpty(f.show(done.Before)) {
			warnings = append(warnings, f.name+" is empty now: "+f.emptied)
		}
	}
	return warnings
}

func isEmpty(list any) bool { return len(list.([]string)) == 0 }

// cappedWarnings warns of lifetimes of a role that a lower maximum will cut.
func (b *tokensBackend) cappedWarnings(r *role.Role, ceiling time.Duration) (warnings []string) {
	capped := func(name string, value, limit time.Duration, whose string) {
		if limit > 0 && value > limit {
			warnings = append(warnings, fmt.Sprintf("%s is %s, but tokens are capped by %s: %s", name, value, whose, limit))
		}
	}
	mount := b.System().MaxLeaseTTL()
	capped("ttl", r.TTL, ceiling, "max_ttl in config")
	capped("ttl", r.TTL, mount, "the mount's max_lease_ttl")
	capped("max_ttl", r.MaxTTL, ceiling, "max_ttl in config")
	capped("max_ttl", r.MaxTTL, mount, "the mount's max_lease_ttl")
	return warnings
}

func (b *tokensBackend) pathRolesDelete(ctx context.Context, req *logical.Request, data *framework.FieldData) (*logical.Response, error) {
	name, err := nameParameter(data)
	if err != nil {
		return nil, err
	}
	deleted, err := b.engine.DeleteRole(ctx, req.Storage, name)
	if deleted {
		b.Logger().Info("role deleted", "role", name)
	}
	return nil, err
}

// youngKeyWarning warns that verifiers may not have the key that the role was
// given.
func youngKeyWarning(done *backend.RoleChange) []string {
	if done.Young == nil {
		return nil
	}
	return []string{"the version of key \"" + done.Role.Key + "\" that signs has been published for " + done.Young.Round(time.Second).String() + " only; verifiers that do not fetch the key set again for an unknown kid may refuse tokens of the role for up to " + keyring.MaxCacheTime.String()}
}

func (b *tokensBackend) pathRoleRevoke(name *framework.FieldSchema) *framework.Path {
	return &framework.Path{
		Pattern: "roles/(?P<name>[^/]+)/revoke$",
		Fields:  map[string]*framework.FieldSchema{"name": name},
		Operations: map[logical.Operation]framework.OperationHandler{
			logical.UpdateOperation: forwarded(b.pathRolesRevoke, "Revoke every token of a role.", responds(http.StatusOK, map[string]*framework.FieldSchema{
				"status_lists": field(framework.TypeInt, "Status lists on which the role had tokens that were not revoked as a whole before."),
				"revoked_at":   field(framework.TypeString, "When, to the second."),
				"tokens":       field(framework.TypeInt, "Tokens that were live, where they are counted: under max_tokens."),
			})),
		},
		HelpSynopsis: "Revoke every token of a role that was issued until now.",
		HelpDescription: `
All are inactive once the call has returned: API keys, bearer tokens and JWTs, with
a lease or without, also of a role that was deleted. Verifiers that go by status
lists see it within status_list_ttl of config. Tokens that are issued afterwards
are not concerned: to stop these, delete the role, or take the policy away that
lets callers use it. After an error, some tokens may be revoked: try again.

It costs one write, and one for each status list that the role has tokens on. The
records are removed in the background; see tidy/status.`,
	}
}

func (b *tokensBackend) pathRolesRevoke(ctx context.Context, req *logical.Request, data *framework.FieldData) (*logical.Response, error) {
	name := data.Get("name").(string)
	if err := role.ValidateName("name", name); err != nil {
		return nil, err
	}
	ended, err := b.engine.EndRole(ctx, req.Storage, name)
	if err != nil {
		return nil, err
	}
	b.Logger().Info("tokens of role revoked", "role", name, "status_lists", ended.Lists)
	resp := &logical.Response{Data: map[string]any{"status_lists": ended.Lists, "revoked_at": rfc3339(ended.RevokedAt)}}
	if ended.Tokens != nil {
		resp.Data["tokens"] = *ended.Tokens
	}
	if ended.Lists == 0 {
		resp.AddWarning("the role had no tokens that were not revoked before")
	}
	if n := len(ended.Unreadable); n > 0 {
		resp.AddWarning(fmt.Sprintf("%d status lists cannot be decoded, such as %s: the tokens on them are inactive, and verifiers that go by a copy notice once it has expired", n, ended.Unreadable[0]))
	}
	return resp, nil
}
