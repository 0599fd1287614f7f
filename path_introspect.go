package tokens

import (
	"context"
	"net/http"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/vault/sdk/framework"
	"github.com/hashicorp/vault/sdk/logical"

	"github.com/vault-tokens/vault-plugin-secrets-tokens/backend/config"
	"github.com/vault-tokens/vault-plugin-secrets-tokens/backend/token"
	"github.com/vault-tokens/vault-plugin-secrets-tokens/verify/format"
)

func (b *tokensBackend) pathIntrospect() []*framework.Path {
	return []*framework.Path{{
		Pattern: "introspect",
		Fields: map[string]*framework.FieldSchema{
			"token":           secretField("The token to verify."),
			"client_ip":       field(framework.TypeString, "Address that the token was presented from, checked against its bound_cidrs. Without it, a token that is bound to networks is inactive."),
			"required_scopes": field(framework.TypeCommaStringSlice, "Scopes that the token must have."),
			"audience":        field(framework.TypeString, "API that must be among the token's audiences."),
		},
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
names the check.`,
	}}
}

func introspectionFields() map[string]*framework.FieldSchema {
	return map[string]*framework.FieldSchema{
		"active":           {Type: framework.TypeBool, Description: "Whether the token is live and passed every check.", Required: true},
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
		"status":           field(framework.TypeMap, "Where to see whether the token is still valid: status_list, with idx and uri. Absent as long as the mount has no issuer."),
		"scope_failed":     field(framework.TypeBool, "The token lacks a required scope."),
		"audience_failed":  field(framework.TypeBool, "The token is not for that audience."),
		"client_ip_failed": field(framework.TypeBool, "The token may not be used from there, or client_ip is missing."),
	}
}

func (b *tokensBackend) pathIntrospectWrite(ctx context.Context, req *logical.Request, data *framework.FieldData) (*logical.Response, error) {
	if !b.mayIntrospect(ctx, req) {
		return nil, logical.ErrReadOnly // has Vault pass the request on
	}
	question := token.Introspection{
		Token:    format.Secret(data.Get("token").(string)),
		ClientIP: optional[string](data, "client_ip"),
		Audience: optional[string](data, "audience"),
	}
	if scopes := optional[[]string](data, "required_scopes"); scopes != nil {
		question.RequiredScopes = append([]string{}, *scopes...) // given, so never nil
	}
	answer, err := b.engine.Tokens.Introspect(ctx, req.Storage, question)
	if err != nil {
		return nil, err
	}
	b.counts.introspected(answer)
	if !answer.Active {
		level := hclog.Info
		if !answer.Genuine() { // anybody can make these up
			level = hclog.Debug
		}
		b.Logger().Log(level, "introspection refused", "reason", string(answer.Reason), "token_id", answer.ID, "role", answer.Role,
			"scope_failed", answer.ScopeFailed, "audience_failed", answer.AudienceFailed, "client_ip_failed", answer.ClientIPFailed)
	}
	return &logical.Response{Data: introspectionData(answer)}, nil
}

// mayIntrospect reports whether this node may answer by itself. In a standby's copy
// of the storage a token may still be active whose revocation was acknowledged, so
// that the configuration has to ask for it.
func (b *tokensBackend) mayIntrospect(ctx context.Context, req *logical.Request) bool {
	if b.WriteSafeReplicationState() {
		return true
	}
	c, err := b.engine.Config.Get(ctx, req.Storage)
	return err == nil && c.StandbyIntrospection == config.Local
}
