package tokens

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"strings"
	"time"

	"github.com/hashicorp/vault/sdk/framework"
	"github.com/hashicorp/vault/sdk/logical"

	"github.com/vault-tokens/vault-plugin-secrets-tokens/backend/role"
	"github.com/vault-tokens/vault-plugin-secrets-tokens/backend/store"
	"github.com/vault-tokens/vault-plugin-secrets-tokens/backend/token"
	"github.com/vault-tokens/vault-plugin-secrets-tokens/backend/usererror"
	"github.com/vault-tokens/vault-plugin-secrets-tokens/verify/format"
)

// maxPage bounds one page of a list.
const maxPage = 1000

func (b *tokensBackend) pathTokens() []*framework.Path {
	recordFields := tokenFields()
	maps.Copy(recordFields, map[string]*framework.FieldSchema{
		"subject":              field(framework.TypeString, "Subject."),
		"client_id":            field(framework.TypeString, "Who asked for the token."),
		"entity_id":            field(framework.TypeString, "Entity that asked for the token, if it has one."),
		"display_name":         field(framework.TypeString, "Display name of the login that asked for the token."),
		"bound_cidrs":          field(framework.TypeStringSlice, "Networks that the token may be used from."),
		"last_introspected_at": field(framework.TypeString, "When introspection last said that it is active (RFC 3339), if it did; after a crash up to an hour too early."),
	})
	pageFields := listFields("Ids of the tokens.")
	pageFields["key_info"] = field(framework.TypeMap, "Details of each token, by its id.")
	pageFields["next"] = field(framework.TypeString, "Where the next page goes on, to be given as after; not there on the last page.")
	return []*framework.Path{
		{
			Pattern: "tokens/?$",
			Fields: map[string]*framework.FieldSchema{
				"after":          {Type: framework.TypeString, Query: true, Description: "Where to go on: next of the previous page."},
				"limit":          {Type: framework.TypeInt, Query: true, Description: "Ids on a page, 1 to 1000.", Default: maxPage},
				"role":           {Type: framework.TypeString, Query: true, Description: "List the tokens of this role only."},
				"entity_id":      {Type: framework.TypeString, Query: true, Description: "List the tokens that this entity asked for only."},
				"token_type":     {Type: framework.TypeString, Query: true, Description: "List the tokens of this type only."},
				"expires_before": {Type: framework.TypeString, Query: true, Description: "List the tokens that expire before this time only (RFC 3339)."},
			},
			Operations: map[logical.Operation]framework.OperationHandler{
				logical.ListOperation: forwarded(b.pathTokensList, "List tokens that have a record, in pages.", finds(pageFields)),
			},
			HelpSynopsis: "List tokens that have a record, in pages, and filtered.",
			HelpDescription: `
Lists the ids of live tokens, with details in key_info. A page looks at no more
than 1000 records, whatever matches, so that it may be empty and yet not be the
last: there is more while it has next, which the next page takes as after. The
order is stable and means nothing. API keys and bearer tokens have a record, and
JWTs of roles with track; other JWTs are not listed.`,
		},
		{
			Pattern: "tokens/(?P<id>.+)",
			Fields:  map[string]*framework.FieldSchema{"id": field(framework.TypeString, "token_id of the token.")},
			Operations: map[logical.Operation]framework.OperationHandler{
				logical.ReadOperation:   forwarded(b.pathTokensRead, "Read what is known of a token; never the token itself.", finds(recordFields)),
				logical.DeleteOperation: forwarded(b.pathTokensDelete, "Revoke a token by its id.", changes()),
			},
			HelpSynopsis: "Look up or revoke a token that has a record by its id.",
			HelpDescription: `
The id is the 22 characters after an opaque token's prefix, and the jti of a JWT.
A JWT has a record if its role tracks its tokens. Any other is revoked by its
lease, or with the token itself at revoke.`,
		},
	}
}

func (b *tokensBackend) pathTokensList(ctx context.Context, req *logical.Request, data *framework.FieldData) (*logical.Response, error) {
	after, limit := data.Get("after").(string), data.Get("limit").(int)
	switch {
	case after != "" && !format.ValidID(after):
		return nil, usererror.Field("after", "must be a token id: next, or the last one, of the previous page")
	case limit < 1 || limit > maxPage:
		return nil, usererror.Field("limit", "must be between 1 and %d", maxPage)
	}
	filter, err := tokenFilter(data)
	if err != nil {
		return nil, err
	}
	page, err := b.engine.Tokens.List(ctx, req.Storage, after, limit, filter)
	if err != nil {
		return nil, err
	}
	return pageOfTokens(page, filter), nil
}

// tokenFilter reads the filters of a list. One that is named and empty is most
// likely a variable that was not set: it must not pass for one that is left out.
func tokenFilter(data *framework.FieldData) (filter token.Filter, err error) {
	for _, f := range []struct {
		name string
		set  func(value string) error
	}{
		{"role", func(value string) error {
			filter.Role = value
			return role.ValidateName("role", value)
		}},
		{"entity_id", func(value string) error {
			filter.EntityID = value
			return nil
		}},
		{"token_type", func(value string) (err error) {
			filter.TokenType, err = role.ParseTokenType(value)
			return err
		}},
		{"expires_before", func(value string) error {
			before, err := time.Parse(time.RFC3339, value)
			if err != nil {
				return usererror.Field("expires_before", "must be a time in RFC 3339, such as 2027-01-31T00:00:00Z; in a URL, + is written %%2B")
			}
			filter.ExpiresBefore = &before
			return nil
		}},
	} {
		switch value := optional[string](data, f.name); {
		case value == nil:
		case *value == "":
			return filter, usererror.Field(f.name, "is empty; say what to list, or leave it out")
		default:
			if err := f.set(*value); err != nil {
				return filter, err
			}
		}
	}
	return filter, nil
}

// pageOfTokens is the answer to a list. Where there is something to go on after, it
// has data even without a key, since Vault makes a 404 of a list without.
func pageOfTokens(page *token.Page, filter token.Filter) *logical.Response {
	keys, info, unreadable := []string{}, map[string]any{}, []string{}
	for _, listed := range page.Tokens {
		switch {
		case listed.Err == nil:
			info[listed.ID] = tokenInfo(listed.Record)
		case filter != token.Filter{}:
			unreadable = append(unreadable, listed.ID)
			continue
		default:
			info[listed.ID] = map[string]any{"error": unreadableReason(listed.Err)}
		}
		keys = append(keys, listed.ID)
	}
	resp := logical.ListResponseWithInfo(keys, info)
	if page.Next != "" {
		resp.Data["next"] = page.Next
		resp.AddWarning("there are more tokens; list the next page with after=" + page.Next)
	}
	if n := len(unreadable); n > 0 {
		resp.AddWarning(fmt.Sprintf("%d records cannot be read and may match; the first: %s. A list without filters says why", n, strings.Join(unreadable[:min(n, 10)], ", ")))
	}
	return resp
}

// tokenInfo is what a list shows of a token.
func tokenInfo(r *token.Record) map[string]any {
	return map[string]any{
		"token_type":   string(r.TokenType),
		"role":         r.Role,
		"entity_id":    r.EntityID,
		"display_name": r.DisplayName,
		"issued_at":    rfc3339(r.IssuedAt),
		"expires_at":   rfc3339(r.ExpiresAt),
	}
}

// unreadableReason says why a record cannot be decoded, without any of it.
func unreadableReason(err error) string {
	if errors.Is(err, store.ErrNewer) {
		return store.ErrNewer.Error()
	}
	return "record cannot be decoded, so that the token is not active; delete it by its id"
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
	resp := &logical.Response{Data: shown}
	seen, err := b.engine.Seen.Last(ctx, req.Storage, id)
	switch {
	case errors.Is(err, store.ErrUndecodable):
		resp.AddWarning("last_introspected_at is not known, since what is stored of it cannot be read")
	case err != nil:
		return nil, err
	case !seen.IsZero():
		shown["last_introspected_at"] = rfc3339(seen)
	}
	return resp, nil
}

func (b *tokensBackend) pathTokensDelete(ctx context.Context, req *logical.Request, data *framework.FieldData) (*logical.Response, error) {
	id, err := tokenID(data)
	if err != nil {
		return nil, err
	}
	ended, err := b.engine.Tokens.Revoke(ctx, req.Storage, token.Lease{ID: id})
	b.logEnded(ended, err)
	switch {
	case err != nil:
		return nil, err
	case ended != nil && ended.Unmarked:
		return warn([]string{
			"the record could not be decoded, and is removed; the token's bit in a status list was in it: a JWT, or a token that verifiers remember, may be taken for valid until it expires. If you know its role, roles/<name>/revoke ends it",
		}), nil
	case ended != nil:
		return nil, nil
	}
	return &logical.Response{Warnings: []string{
		"no token that has a record has this id, so nothing was revoked; a JWT of a role without track is revoked by its lease, or by presenting it at revoke",
	}}, nil
}
