package tokens

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strings"

	"github.com/hashicorp/vault/sdk/framework"
	"github.com/hashicorp/vault/sdk/logical"

	"github.com/vault-tokens/vault-plugin-secrets-tokens/backend/token"
	"github.com/vault-tokens/vault-plugin-secrets-tokens/backend/usererror"
	"github.com/vault-tokens/vault-plugin-secrets-tokens/verify/format"
)

// These doors speak RFC 7662 and RFC 7009 as they stand, for clients that know
// nothing of Vault but can send a bearer token, which is a Vault token here. They
// take forms, which Vault decodes, as well as JSON.
func (b *tokensBackend) pathOAuth2() []*framework.Path {
	return []*framework.Path{
		{
			Pattern: oauth2Prefix + "introspect",
			Fields:  withHint(questionFields()),
			Operations: map[logical.Operation]framework.OperationHandler{
				// Forwarded by the handler, if the configuration says so.
				logical.UpdateOperation: &framework.PathOperation{
					Callback:  b.orUnavailable(b.pathOAuth2Introspect),
					Summary:   "Verify a token, as OAuth 2.0 clients ask.",
					Responses: answersOAuth2(),
				},
			},
			HelpSynopsis: "Token introspection exactly as in RFC 7662.",
			HelpDescription: `
Takes a form or JSON. Parameters that it does not know are ignored, as OAuth 2.0
demands: a misspelt check is not made. introspect refuses them.`,
		},
		{
			Pattern: oauth2Prefix + "revoke",
			Fields:  withHint(schemas{"token": secretField("The token to revoke.")}),
			Operations: map[logical.Operation]framework.OperationHandler{
				logical.UpdateOperation: forwarded(b.orUnavailable(b.pathOAuth2Revoke), "Revoke a token, as OAuth 2.0 clients do.", answersOAuth2()),
			},
			HelpSynopsis: "Token revocation exactly as in RFC 7009.",
			HelpDescription: `
Takes a form or JSON. The answer is the same whether the token was live, or never
existed. A 503 means that the token may be live still.`,
		},
	}
}

func withHint(fields schemas) schemas {
	fields["token_type_hint"] = field(framework.TypeString, "Accepted and ignored: every kind of token is found without it.")
	return fields
}

func answersOAuth2() map[int][]framework.Response {
	return with(responds(http.StatusOK, nil), http.StatusBadRequest, http.StatusServiceUnavailable)
}

func (b *tokensBackend) pathOAuth2Introspect(ctx context.Context, req *logical.Request, data *framework.FieldData) (*logical.Response, error) {
	if err := checkRepeated(data, "token", "token_type_hint", "client_ip", "audience"); err != nil {
		return nil, err
	}
	answer, err := b.introspect(ctx, req, data)
	if err != nil {
		return nil, err
	}
	body, err := json.Marshal(rfc7662(answer))
	if err != nil {
		return nil, fmt.Errorf("encode introspection: %w", err)
	}
	return oauth2Answer(http.StatusOK, body, introspectionData(answer)), nil
}

// rfc7662 is the body of an introspection's answer (RFC 7662 §2.2). Of an inactive
// token it says nothing else, not even which check failed. token_id, role and
// metadata are members of this engine's own, as that section allows: what a server
// needs to log, to limit and to revoke.
func rfc7662(answer *token.Answer) map[string]any {
	if !answer.Active {
		return map[string]any{"active": false}
	}
	body := introspectionData(answer)
	body["jti"] = answer.ID
	body["token_type"] = "Bearer" // RFC 6750; also with a certificate (RFC 8705 §3.2)
	if answer.Cnf != nil && answer.Cnf.JKT != "" {
		body["token_type"] = "DPoP" // RFC 9449 §6.2
	}
	return body
}

func (b *tokensBackend) pathOAuth2Revoke(ctx context.Context, req *logical.Request, data *framework.FieldData) (*logical.Response, error) {
	if err := checkRepeated(data, "token", "token_type_hint"); err != nil {
		return nil, err
	}
	ended, err := b.revokePresented(ctx, req, data)
	if err != nil {
		return nil, err
	}
	audited := map[string]any{}
	if ended != nil {
		audited = map[string]any{"token_id": ended.ID, "role": ended.Role, "token_type": string(ended.TokenType)}
	}
	return oauth2Answer(http.StatusOK, nil, audited), nil
}

// checkRepeated refuses a parameter that is given more than once (RFC 6749 §3.1).
// Vault joins the values of a form by commas, and of these only an audience may have
// one of its own: introspect takes it.
func checkRepeated(data *framework.FieldData, names ...string) error {
	for _, name := range names {
		if value, _ := data.Get(name).(string); strings.Contains(value, ",") {
			return usererror.Field(name, "is given more than once, or has a comma; give one value")
		}
	}
	return nil
}

// orUnavailable turns what is nobody's mistake into a 503: the token may be live
// still, and the client may ask again (RFC 7009 §2.2.1). Vault would answer with a
// 500 in a format of its own.
func (b *tokensBackend) orUnavailable(handle framework.OperationFunc) framework.OperationFunc {
	return func(ctx context.Context, req *logical.Request, data *framework.FieldData) (*logical.Response, error) {
		resp, err := handle(ctx, req, data)
		var mistake *usererror.Error
		if err == nil || errors.As(err, &mistake) || errors.Is(err, logical.ErrReadOnly) {
			return resp, err
		}
		b.Logger().Error("request not answered", "path", req.Path, "problem", format.Redact(err.Error()))
		resp = oauth2Error(http.StatusServiceUnavailable, "temporarily_unavailable", "the server's log says why; ask again")
		resp.Headers = map[string][]string{"Retry-After": {retryAfter}}
		return resp, nil
	}
}

// retryAfter is in seconds: about what a failover takes.
const retryAfter = "5"
