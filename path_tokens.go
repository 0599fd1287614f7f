package tokens

import (
	"context"
	"maps"

	"github.com/hashicorp/vault/sdk/framework"
	"github.com/hashicorp/vault/sdk/logical"

	"github.com/vault-tokens/vault-plugin-secrets-tokens/backend/token"
	"github.com/vault-tokens/vault-plugin-secrets-tokens/backend/usererror"
	"github.com/vault-tokens/vault-plugin-secrets-tokens/verify/format"
)

// maxPage bounds one page of a list.
const maxPage = 1000

func (b *tokensBackend) pathTokens() []*framework.Path {
	recordFields := tokenFields()
	maps.Copy(recordFields, map[string]*framework.FieldSchema{
		"subject":      field(framework.TypeString, "Subject."),
		"client_id":    field(framework.TypeString, "Who asked for the token."),
		"entity_id":    field(framework.TypeString, "Entity that asked for the token, if it has one."),
		"display_name": field(framework.TypeString, "Display name of the login that asked for the token."),
		"bound_cidrs":  field(framework.TypeStringSlice, "Networks that the token may be used from."),
	})
	return []*framework.Path{
		{
			Pattern: "tokens/?$",
			Fields: map[string]*framework.FieldSchema{
				"after": {Type: framework.TypeString, Query: true, Description: "Last id of the previous page."},
				"limit": {Type: framework.TypeInt, Query: true, Description: "Ids on a page, 1 to 1000.", Default: maxPage},
			},
			Operations: map[logical.Operation]framework.OperationHandler{
				logical.ListOperation: forwarded(b.pathTokensList, "List the ids of opaque tokens, in pages.", finds(listFields("Ids of the tokens."))),
			},
			HelpSynopsis: "List the ids of API keys and bearer tokens, in pages.",
			HelpDescription: `
A page has at most 1000 ids; ask for the next with after=<last id of this one>.
The order is stable and means nothing. JWTs have no record and are not listed.`,
		},
		{
			Pattern: "tokens/(?P<id>.+)",
			Fields:  map[string]*framework.FieldSchema{"id": field(framework.TypeString, "token_id of the token.")},
			Operations: map[logical.Operation]framework.OperationHandler{
				logical.ReadOperation:   forwarded(b.pathTokensRead, "Read what is known of a token; never the token itself.", finds(recordFields)),
				logical.DeleteOperation: forwarded(b.pathTokensDelete, "Revoke a token by its id.", changes()),
			},
			HelpSynopsis: "Look up or revoke an API key or bearer token by its id.",
			HelpDescription: `
The id is the 22 characters after the token's prefix. A JWT has no record here:
revoke it by its lease, or with the token itself at revoke.`,
		},
	}
}

func (b *tokensBackend) pathTokensList(ctx context.Context, req *logical.Request, data *framework.FieldData) (*logical.Response, error) {
	after, limit := data.Get("after").(string), data.Get("limit").(int)
	switch {
	case after != "" && !format.ValidID(after):
		return nil, usererror.Field("after", "must be a token id: the last one of the previous page")
	case limit < 1 || limit > maxPage:
		return nil, usererror.Field("limit", "must be between 1 and %d", maxPage)
	}
	ids, more, err := b.engine.Tokens.List(ctx, req.Storage, after, limit)
	if err != nil {
		return nil, err
	}
	resp := logical.ListResponse(ids)
	if more {
		resp.AddWarning("there are more tokens; list the next page with after=" + ids[len(ids)-1])
	}
	return resp, nil
}

// tokenID reads the id from the path. What was typed is not repeated: it may
// be a whole token.
func tokenID(data *framework.FieldData) (string, error) {
	id := data.Get("id").(string)
	if !format.ValidID(id) {
		return "", usererror.Field("id", "must be a token_id: 22 letters and digits")
	}
	return id, nil
}

func (b *tokensBackend) pathTokensRead(ctx context.Context, req *logical.Request, data *framework.FieldData) (*logical.Response, error) {
	id, err := tokenID(data)
	if err != nil {
		return nil, err
	}
	r, err := b.engine.Tokens.Get(ctx, req.Storage, id)
	if err != nil || r == nil {
		return nil, err
	}
	shown := tokenData(r)
	maps.Copy(shown, map[string]any{
		"subject":      r.Subject,
		"client_id":    r.ClientID,
		"entity_id":    r.EntityID,
		"display_name": r.DisplayName,
		"bound_cidrs":  prefixStrings(r.BoundCIDRs),
	})
	return &logical.Response{Data: shown}, nil
}

func (b *tokensBackend) pathTokensDelete(ctx context.Context, req *logical.Request, data *framework.FieldData) (*logical.Response, error) {
	id, err := tokenID(data)
	if err != nil {
		return nil, err
	}
	ended, err := b.engine.Tokens.Revoke(ctx, req.Storage, token.Lease{ID: id})
	b.logEnded(ended, err)
	if ended != nil || err != nil {
		return nil, err
	}
	return &logical.Response{Warnings: []string{
		"no API key or bearer token has this id, so nothing was revoked; a JWT is revoked by its lease, or by presenting it at revoke",
	}}, nil
}
