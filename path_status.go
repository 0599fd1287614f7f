package tokens

import (
	"context"
	"net/http"

	"github.com/hashicorp/vault/sdk/framework"
	"github.com/hashicorp/vault/sdk/logical"

	"github.com/vault-tokens/vault-plugin-secrets-tokens/backend/usererror"
	"github.com/vault-tokens/vault-plugin-secrets-tokens/verify/format"
)

func (b *tokensBackend) pathStatus() []*framework.Path {
	return []*framework.Path{b.pathFigures(), {
		Pattern: "status/(?P<list>.+)",
		Fields: map[string]*framework.FieldSchema{
			"list": field(framework.TypeString, "Id of the list, from a JWT's status claim or an introspection."),
			"time": {Type: framework.TypeString, Query: true, Description: "Refused: there is the list of now only, and none of another time."},
		},
		Operations: map[logical.Operation]framework.OperationHandler{
			logical.ReadOperation: &framework.PathOperation{
				Callback:  b.pathStatusRead,
				Summary:   "Read a signed list of revoked tokens.",
				Responses: publishes(http.StatusNotFound, http.StatusNotImplemented),
			},
		},
		HelpSynopsis: "A Token Status List (draft-ietf-oauth-status-list): which tokens are revoked.",
		HelpDescription: `
Needs no Vault token. The body is a signed JWT (typ statuslist+jwt) that holds
one bit for each of its tokens. The status claim of a JWT names its list and its
bit; for an API key or bearer token, introspection does. A revocation changes the
list at once.`,
	}}
}

func (b *tokensBackend) pathStatusRead(ctx context.Context, req *logical.Request, data *framework.FieldData) (*logical.Response, error) {
	if _, historical := req.Data["time"]; historical {
		// As the draft asks of who has no history (§8.4, Historical Resolution): the
		// list of now could pass for the one of then.
		return nil, logical.CodedError(http.StatusNotImplemented, "there is the list of now only, and none of another time")
	}
	id := data.Get("list").(string)
	if !format.ValidID(id) {
		return nil, nil
	}
	list, maxAge, err := b.engine.StatusList(ctx, req.Storage, id)
	if err != nil || list == nil {
		return nil, err
	}
	return raw(req, "application/"+format.StatusListType, maxAge, newDocument(list)), nil
}

// pathFigures needs a Vault token: the unauthenticated paths are those below it.
func (b *tokensBackend) pathFigures() *framework.Path {
	answer := map[string]*framework.FieldSchema{
		"keys": field(framework.TypeSlice, "Signing keys in memory: name, versions (how many), and if so last_rotation and next_rotation (RFC 3339), and last_error."),
	}
	for _, f := range figures {
		answer[f.field] = field(f.fieldType, f.help)
	}
	return &framework.Path{
		Pattern: "status",
		Fields: map[string]*framework.FieldSchema{
			"format": {Type: framework.TypeString, Query: true, Description: "prometheus: answer in the text format that Prometheus scrapes."},
		},
		Operations: map[logical.Operation]framework.OperationHandler{
			// Not forwarded: each process has figures of its own.
			logical.ReadOperation: &framework.PathOperation{
				Callback:  b.pathFiguresRead,
				Summary:   "Read counts and figures of this mount, as the node that answers has them.",
				Responses: responds(http.StatusOK, answer),
			},
		},
		HelpSynopsis: "Counts and figures of this mount, for monitoring.",
		HelpDescription: `
What the plugin's process on this node has counted since started_at, what it has
in memory, and when keys were rotated and records tidied. format=prometheus gives
the same in the text format of Prometheus. Reading it costs no storage operation.`,
	}
}

func (b *tokensBackend) pathFiguresRead(_ context.Context, _ *logical.Request, data *framework.FieldData) (*logical.Response, error) {
	now := b.snapshot()
	switch data.Get("format") {
	case "":
		return &logical.Response{Data: now.data()}, nil
	case "prometheus":
		return &logical.Response{Data: map[string]any{
			logical.HTTPStatusCode:  http.StatusOK,
			logical.HTTPContentType: "text/plain; version=0.0.4",
			logical.HTTPRawBody:     now.exposition(),
		}}, nil
	}
	return nil, usererror.Field("format", "must be prometheus; leave it out for JSON")
}
