package tokens

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"slices"

	"github.com/hashicorp/vault/sdk/framework"
	"github.com/hashicorp/vault/sdk/logical"

	"github.com/vault-tokens/vault-plugin-secrets-tokens/backend/token"
	"github.com/vault-tokens/vault-plugin-secrets-tokens/backend/usererror"
	"github.com/vault-tokens/vault-plugin-secrets-tokens/verify/format"
)

func (b *tokensBackend) pathIntrospect() []*framework.Path {
	fields := questionFields()
	fields["batch_input"] = field(framework.TypeSlice, fmt.Sprintf("Asks about up to %d tokens: a list of objects with the fields of a single question and, optionally, reference, which is repeated in the result.", maxBatch))
	return []*framework.Path{{
		Pattern: "introspect",
		Fields:  fields,
		Operations: map[logical.Operation]framework.OperationHandler{
			// Forwarded by the handler, if the configuration says so.
			logical.UpdateOperation: &framework.PathOperation{
				Callback:  b.pathIntrospectWrite,
				Summary:   "Verify a token.",
				Responses: responds(http.StatusOK, introspectionFields()),
			},
		},
		HelpSynopsis: "Whether a token is active, and what it may do (RFC 7662).",
		HelpDescription: `
A standby passes the request on unless standby_introspection in config is local.
The answer for a token that is unknown, malformed, expired or revoked is the
same: active=false and nothing else. A live token that fails a check which was
asked for is inactive too; scope_failed, audience_failed or client_ip_failed
names the check.

batch_input asks about many tokens. batch_results has a result for each, in the
same order: what a single question would be answered, or an error.`,
	}}
}

func introspectionFields() map[string]*framework.FieldSchema {
	return map[string]*framework.FieldSchema{
		"active":           {Type: framework.TypeBool, Description: "Whether the token is live and passed every check. In every answer about a token."},
		"token_id":         field(framework.TypeString, "Public id of the token."),
		"token_type":       field(framework.TypeString, "api_key, bearer or jwt."),
		"role":             field(framework.TypeString, "Role that issued it."),
		"scope":            field(framework.TypeString, "Scopes, separated by spaces."),
		"client_id":        field(framework.TypeString, "Who asked for the token: the entity id, or the display name of a login without entity."),
		"sub":              field(framework.TypeString, "Subject."),
		"aud":              field(framework.TypeStringSlice, "Audiences."),
		"iss":              field(framework.TypeString, "Issuer, if configured."),
		"iat":              field(framework.TypeInt64, "Time of issue, in seconds since 1970."),
		"exp":              field(framework.TypeInt64, "Expiry, in seconds since 1970."),
		"nbf":              field(framework.TypeInt64, "jwt: start of validity, in seconds since 1970."),
		"jti":              field(framework.TypeString, "jwt: the same as token_id."),
		"cnf":              field(framework.TypeMap, "Key that the bearer must prove to hold, if any: jkt (DPoP) or x5t#S256 (mTLS)."),
		"metadata":         field(framework.TypeMap, "Metadata, if any."),
		"status":           field(framework.TypeMap, "Where to see whether the token is still valid: status_list, with idx and uri. Absent for an opaque token as long as the mount has no issuer, or no key default that can sign the list."),
		"batch_results":    field(framework.TypeSlice, "The only field of the answer to batch_input: for each item, in its order, the fields above and below, or error; and reference, if given."),
		"scope_failed":     field(framework.TypeBool, "The token lacks a required scope."),
		"audience_failed":  field(framework.TypeBool, "The token is not for that audience."),
		"client_ip_failed": field(framework.TypeBool, "The token may not be used from there, or client_ip is missing."),
	}
}

func (b *tokensBackend) pathIntrospectWrite(ctx context.Context, req *logical.Request, data *framework.FieldData) (*logical.Response, error) {
	if items, ok := data.GetOk("batch_input"); ok {
		return b.introspectBatch(ctx, req, items.([]any))
	}
	answer, err := b.introspect(ctx, req, data)
	if err != nil {
		return nil, err
	}
	return &logical.Response{Data: introspectionData(answer)}, nil
}

// maxBatch is how many tokens one request may ask about.
const maxBatch = 1000

// maxReference bounds the reference of an item, in bytes.
const maxReference = 256

// batchFields declare the fields of one item.
var batchFields = func() schemas {
	fields := questionFields()
	fields["reference"] = field(framework.TypeString, "Repeated in the item's result.")
	return fields
}()

// introspectBatch answers the items one after the other. What is wrong with one, or
// cannot be found out about it, is an error in its result, and the others are
// answered: who presents a broken token to an API server must not keep it from
// serving everybody else.
func (b *tokensBackend) introspectBatch(ctx context.Context, req *logical.Request, items []any) (*logical.Response, error) {
	if err := checkBatch(req.Data, items); err != nil {
		return nil, err
	}
	if !b.mayIntrospect(ctx, req) {
		return nil, logical.ErrReadOnly // has Vault pass the request on
	}
	results := make([]map[string]any, len(items))
	log := batchLog{backend: b}
	defer log.end()
	for i, item := range items {
		results[i] = b.introspectItem(ctx, req, item.(map[string]any), &log)
		if err := ctx.Err(); err != nil {
			return nil, err // nobody is waiting for the rest
		}
	}
	return &logical.Response{Data: map[string]any{"batch_results": results}}, nil
}

// checkBatch checks the request around the items, whose type checkValue has checked.
func checkBatch(data map[string]any, items []any) error {
	for _, name := range slices.Sorted(maps.Keys(data)) {
		if name != "batch_input" {
			return usererror.Field(name, "belongs into the items of batch_input, if that is given")
		}
	}
	switch {
	case len(items) == 0:
		return usererror.Field("batch_input", "is empty; give an object for each token to introspect")
	case len(items) > maxBatch:
		return usererror.Field("batch_input", "has %d items; at most %d are allowed", len(items), maxBatch)
	}
	return nil
}

// introspectItem returns the result of one item: the answer to a single question, or
// error and nothing that could be read as an answer.
func (b *tokensBackend) introspectItem(ctx context.Context, req *logical.Request, item map[string]any, log *batchLog) map[string]any {
	reference, answer, err := b.answerItem(ctx, req, item)
	result := map[string]any{"error": itemProblem(err)}
	if err == nil {
		b.note(answer)
		result = introspectionData(answer)
	}
	if reference != nil {
		result["reference"] = *reference
	}
	log.add(answer, err)
	return result
}

// answerItem returns the item's reference too, if it has one that may be repeated.
func (b *tokensBackend) answerItem(ctx context.Context, req *logical.Request, item map[string]any) (reference *string, answer *token.Answer, err error) {
	if text, ok := item["reference"].(string); ok && checkReference(text) == nil {
		reference = &text
	}
	if err := checkFields(batchFields, item, req.Operation); err != nil {
		return reference, nil, err
	}
	data := &framework.FieldData{Raw: item, Schema: batchFields}
	if err := checkReference(data.Get("reference").(string)); err != nil {
		return nil, nil, err
	}
	answer, err = b.engine.Tokens.Introspect(ctx, req.Storage, question(data))
	return reference, answer, err
}

// checkReference refuses what is no reference: it is repeated in the answer.
func checkReference(reference string) error {
	switch {
	case len(reference) > maxReference:
		return usererror.Field("reference", "is %d bytes long; at most %d are allowed", len(reference), maxReference)
	case format.Redact(reference) != reference:
		return usererror.Field("reference", "looks like a token; use a number or a name that says nothing")
	}
	return nil
}

// itemProblem is what an item's result says of an error. A fault is explained in the
// server's log only, as its text may name what is stored.
func itemProblem(err error) string {
	var mistake *usererror.Error
	if errors.As(err, &mistake) {
		return mistake.Error()
	}
	return "internal error, which the server's log explains: whether the token is active is not known; ask again"
}
