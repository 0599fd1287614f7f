package tokens

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/netip"
	"time"

	"github.com/hashicorp/vault/sdk/framework"
	"github.com/hashicorp/vault/sdk/logical"

	"github.com/vault-tokens/vault-plugin-secrets-tokens/backend/role"
	"github.com/vault-tokens/vault-plugin-secrets-tokens/backend/usererror"
)

// roleField is one field of a role: how it is declared, read from a request,
// put back to its default, and shown.
type roleField struct {
	name   string
	schema *framework.FieldSchema
	set    func(r *role.Role, value any) error
	reset  func(r, defaults *role.Role)
	show   func(r *role.Role) any
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
		reset: func(r, defaults *role.Role) { *at(r) = *at(defaults) },
		show:  func(r *role.Role) any { return show(*at(r)) },
	}
}

func plainField[T any](name string, schema *framework.FieldSchema, at func(*role.Role) *T) roleField {
	return newRoleField(name, schema, at,
		func(v T) (T, error) { return v, nil },
		func(v T) any { return v })
}

func listField(name, description string, at func(*role.Role) *[]string) roleField {
	return newRoleField(name, field(framework.TypeCommaStringSlice, description), at,
		func(v []string) ([]string, error) { return v, nil },
		func(v []string) any { return append([]string{}, v...) })
}

func durationField(name, description string, at func(*role.Role) *time.Duration) roleField {
	return newRoleField(name, field(framework.TypeDurationSecond, description), at,
		func(v int) (time.Duration, error) { return time.Duration(v) * time.Second, nil },
		func(v time.Duration) any { return int64(v.Seconds()) })
}

// roleFields are all fields of a role but its name and token_type.
var roleFields = []roleField{
	listField("allowed_scopes", "Scopes that tokens of the role may have. * matches any run of characters. Empty allows none.",
		func(r *role.Role) *[]string { return &r.AllowedScopes }),
	listField("default_scopes", "Scopes of a token when none are asked for; each must be allowed.",
		func(r *role.Role) *[]string { return &r.DefaultScopes }),
	durationField("ttl", "Life of a token. Default: the mount's for api_key, 1h for bearer, 15m for jwt.",
		func(r *role.Role) *time.Duration { return &r.TTL }),
	durationField("max_ttl", "Life of a token over all renewals. Default 0: the mount's maximum.",
		func(r *role.Role) *time.Duration { return &r.MaxTTL }),
	listField("audiences", "APIs that the tokens are for (aud). A jwt role needs at least one.",
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
	plainField("key", field(framework.TypeString, "jwt: the signing key. Default \"default\", which is created on first use."),
		func(r *role.Role) *string { return &r.Key }),
	durationField("not_before_leeway", "jwt: how far nbf lies before the time of issue, for clocks that are behind. Default 30s.",
		func(r *role.Role) *time.Duration { return &r.NotBeforeLeeway }),
	plainField("prefix", field(framework.TypeString, "api_key, bearer: what tokens start with. Default vtk for api_key, vtb for bearer."),
		func(r *role.Role) *string { return &r.Prefix }),
	plainField("max_tokens", field(framework.TypeInt, "api_key, bearer: how many tokens of the role may be live at once. Default 0: no cap."),
		func(r *role.Role) *int { return &r.MaxTokens }),
	newRoleField("bound_cidrs", field(framework.TypeCommaStringSlice, "Networks that the tokens may be used from. Default: any."),
		func(r *role.Role) *[]netip.Prefix { return &r.BoundCIDRs },
		func(v []string) ([]netip.Prefix, error) { return role.ParseCIDRs("bound_cidrs", v) },
		func(v []netip.Prefix) any { return prefixStrings(v) }),
	newRoleField("metadata", field(framework.TypeKVPairs, "Metadata of every token, shown by introspection. Not for secrets."),
		func(r *role.Role) *map[string]string { return &r.Metadata },
		func(v map[string]string) (map[string]string, error) { return v, nil },
		func(v map[string]string) any { return stringMap(v) }),
	plainField("generate_lease", field(framework.TypeBool, "Whether tokens have a Vault lease, and so end with the Vault login that asked for them. Default true."),
		func(r *role.Role) *bool { return &r.GenerateLease }),
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
		return forwarded(callback, summary, responds(http.StatusNoContent, nil))
	}
	return []*framework.Path{
		{
			Pattern: "roles/?$",
			Operations: map[logical.Operation]framework.OperationHandler{
				logical.ListOperation: &framework.PathOperation{
					Callback:  b.pathRolesList,
					Summary:   "List the roles.",
					Responses: responds(http.StatusOK, listFields("Names of the roles.")),
				},
			},
			HelpSynopsis:    "List the roles.",
			HelpDescription: "Roles decide what tokens are issued; see roles/<name>.",
		},
		{
			Pattern:        "roles/(?P<name>.+)",
			Fields:         fields,
			ExistenceCheck: b.roleExists,
			Operations: map[logical.Operation]framework.OperationHandler{
				logical.ReadOperation: &framework.PathOperation{
					Callback:  b.pathRolesRead,
					Summary:   "Read a role.",
					Responses: responds(http.StatusOK, roleFieldSchemas()),
				},
				logical.CreateOperation: write(b.pathRolesWrite, "Create a role."),
				logical.UpdateOperation: write(b.pathRolesWrite, "Change a role."),
				logical.PatchOperation:  write(b.pathRolesPatch, "Change a role that exists; null resets a field."),
				logical.DeleteOperation: write(b.pathRolesDelete, "Delete a role."),
			},
			HelpSynopsis: "What tokens of a role may do, and for how long they live.",
			HelpDescription: `
A write changes only the fields that it names. Tokens that were issued keep what
they have, but a renewal is checked against the role as it is then.

Deleting a role stops issue and renewal. It does not revoke tokens: those end
with their leases. Revoke them with: vault lease revoke -prefix <mount>/creds/<name>`,
		},
	}
}

func (b *tokensBackend) roleExists(ctx context.Context, req *logical.Request, data *framework.FieldData) (bool, error) {
	name, err := nameParameter(data)
	if err != nil {
		return false, nil // the handler refuses it
	}
	r, err := b.engine.Roles.Get(ctx, req.Storage, name)
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
		return nil, usererror.Field("name", "role %q does not exist; a patch changes what is there, so create it with a write", name)
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
		func(r *role.Role, created bool) error { return setRoleFields(r, req.Data, data, created) })
	if done != nil && done.NewKey != nil {
		b.logKeyCreated(done.NewKey)
	}
	if err != nil {
		return nil, err
	}
	b.Logger().Info("role written", "role", name, "token_type", done.Role.TokenType, "created", done.Created)
	return warnYoungKey(b.warnCapped(done.Role, done.Ceilings.MaxTTL), done), nil
}

// setRoleFields sets the fields that the request names; null, which only a
// patch may hold, puts one back to its default.
func setRoleFields(r *role.Role, named map[string]any, data *framework.FieldData, created bool) error {
	if value, ok := named["token_type"]; ok && value != string(r.TokenType) {
		return usererror.Field("token_type", "cannot change from %s; delete the role, or write one with another name", r.TokenType)
	}
	defaults := role.New(r.Name, r.TokenType)
	for _, f := range roleFields {
		value, ok := named[f.name]
		if !ok {
			continue
		}
		if value == nil {
			f.reset(r, defaults)
			continue
		}
		if err := f.set(r, data.Get(f.name)); err != nil {
			return err
		}
	}
	ttl, ok := named["ttl"]
	if isDefault := ok && ttl == nil || !ok && created; isDefault && r.MaxTTL > 0 {
		r.TTL = min(r.TTL, r.MaxTTL) // a default gives way to a maximum
	}
	return nil
}

// warnCapped warns of lifetimes of a role that a lower maximum will cut.
func (b *tokensBackend) warnCapped(r *role.Role, ceiling time.Duration) *logical.Response {
	var warnings []string
	warn := func(name string, value, limit time.Duration, whose string) {
		if limit > 0 && value > limit {
			warnings = append(warnings, fmt.Sprintf("%s is %s, but tokens are capped by %s: %s", name, value, whose, limit))
		}
	}
	mount := b.System().MaxLeaseTTL()
	warn("ttl", r.TTL, ceiling, "max_ttl in config")
	warn("ttl", r.TTL, mount, "the mount's max_lease_ttl")
	warn("max_ttl", r.MaxTTL, ceiling, "max_ttl in config")
	warn("max_ttl", r.MaxTTL, mount, "the mount's max_lease_ttl")
	if len(warnings) == 0 {
		return nil
	}
	return &logical.Response{Warnings: warnings}
}

func (b *tokensBackend) pathRolesDelete(ctx context.Context, req *logical.Request, data *framework.FieldData) (*logical.Response, error) {
	name, err := nameParameter(data)
	if err != nil {
		return nil, err
	}
	deleted, err := b.engine.DeleteRole(ctx, req.Storage, name)
	if err != nil || !deleted {
		return nil, err
	}
	b.Logger().Info("role deleted", "role", name)
	return nil, nil
}
