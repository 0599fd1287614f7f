package tokens

import (
	"context"
	"fmt"
	"net/http"
	"strings"

	"github.com/hashicorp/vault/sdk/framework"
	"github.com/hashicorp/vault/sdk/logical"

	"github.com/vault-tokens/vault-plugin-secrets-tokens/backend"
)

func (b *tokensBackend) pathEntities() []*framework.Path {
	id := map[string]*framework.FieldSchema{"id": field(framework.TypeString, "Id of a Vault entity: the client_id of its tokens.")}
	cutoff := func(own map[string]*framework.FieldSchema) map[string]*framework.FieldSchema {
		own["entity_id"] = field(framework.TypeString, "Id of the entity.")
		own["revoked_at"] = field(framework.TypeString, "Tokens that were issued until then, to the second, are revoked (RFC 3339).")
		return own
	}
	return []*framework.Path{
		{
			Pattern: "entities/(?P<id>[^/]+)/revoke",
			Fields:  id,
			Operations: map[logical.Operation]framework.OperationHandler{
				logical.UpdateOperation: forwarded(b.pathEntitiesRevoke, "Revoke every token that an entity was issued until now.", responds(http.StatusOK, cutoff(map[string]*framework.FieldSchema{
					"untracked_roles": field(framework.TypeStringSlice, "JWT roles whose tokens are not tracked, at most 100 of them: no status list says that such a token of the entity is revoked."),
					"untracked_count": field(framework.TypeInt, "How many such roles there are."),
				}))),
			},
			HelpSynopsis: "Revoke every token that a Vault entity was issued until now.",
			HelpDescription: `
Introspection refuses them when this is answered: API keys, bearer tokens and
JWTs of every role. In the background their records are removed, and the tokens
that are tracked marked in their status lists; see tidy/status. Tokens that the
entity is issued later are not affected.`,
		},
		{
			Pattern: "entities/(?P<id>.+)",
			Fields:  id,
			Operations: map[logical.Operation]framework.OperationHandler{
				logical.ReadOperation: forwarded(b.pathEntitiesRead, "Read until when the tokens of an entity are revoked.", finds(cutoff(map[string]*framework.FieldSchema{
					"tidied": field(framework.TypeBool, "Whether all records have been looked at since: those of the entity are gone, and its tracked tokens marked in their status lists."),
				}))),
			},
			HelpSynopsis: "Read until when the tokens of a Vault entity are revoked.",
			HelpDescription: `
The answer is a 404 for an entity whose tokens were never revoked by
entities/<id>/revoke, or so long ago that they would all have expired.`,
		},
	}
}

func (b *tokensBackend) pathEntitiesRevoke(ctx context.Context, req *logical.Request, data *framework.FieldData) (*logical.Response, error) {
	end, err := b.engine.EndEntity(ctx, req.Storage, data.Get("id").(string))
	if err != nil {
		return nil, err
	}
	b.Logger().Info("tokens of an entity revoked", "entity_id", end.ID, "revoked_at", rfc3339(end.RevokedAt))
	resp := &logical.Response{Data: map[string]any{"entity_id": end.ID, "revoked_at": rfc3339(end.RevokedAt)}}
	resp.AddWarning("introspection refuses these tokens from now on; their records are removed in the background: see tidy/status, and entities/" + end.ID + ", which says when that is done")
	untracked, err := b.engine.Untracked(ctx, req.Storage)
	if err != nil { // it says no more than what an API server may miss
		b.Logger().Error("listing untracked roles failed", "error", err)
		untracked = &backend.Untracked{Roles: []string{}, More: true}
	}
	resp.Data["untracked_roles"], resp.Data["untracked_count"] = untracked.Roles, untracked.Count
	if warning := untrackedWarning(untracked); warning != "" {
		resp.AddWarning(warning)
	}
	return resp, nil
}

// untrackedWarning says what a cut-off does not do: "" if there is nothing.
func untrackedWarning(u *backend.Untracked) string {
	const offline = "JWTs that the entity has of them are refused by introspection, but no status list says so: an API server that verifies JWTs by itself accepts them until they expire, unless all tokens of the role are revoked with roles/<name>/revoke"
	switch {
	case u.Count == 0 && u.More:
		return "not all roles could be looked at for whether their tokens are tracked; of those that are not: " + offline
	case u.Count == 0:
		return ""
	case u.More:
		return fmt.Sprintf("tokens of at least %d JWT roles are not tracked (%s); %s", u.Count, someNames(u.Roles), offline)
	}
	return fmt.Sprintf("tokens of %d JWT roles are not tracked (%s); %s", u.Count, someNames(u.Roles), offline)
}

// someNames keeps a warning short; the answer has more of the names.
func someNames(names []string) string {
	const most = 5
	if len(names) > most {
		return strings.Join(names[:most], ", ") + ", …"
	}
	return strings.Join(names, ", ")
}

func (b *tokensBackend) pathEntitiesRead(ctx context.Context, req *logical.Request, data *framework.FieldData) (*logical.Response, error) {
	end, err := b.engine.Entity(ctx, req.Storage, data.Get("id").(string))
	if err != nil || end == nil {
		return nil, err
	}
	return &logical.Response{Data: map[string]any{
		"entity_id":  end.ID,
		"revoked_at": rfc3339(end.RevokedAt),
		"tidied":     end.Tidied,
	}}, nil
}
