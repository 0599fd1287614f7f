package tokens

import (
	"context"

	"github.com/hashicorp/vault/sdk/framework"
	"github.com/hashicorp/vault/sdk/logical"

	"github.com/vault-tokens/vault-plugin-secrets-tokens/backend/config"
	"github.com/vault-tokens/vault-plugin-secrets-tokens/backend/token"
	"github.com/vault-tokens/vault-plugin-secrets-tokens/backend/usererror"
	"github.com/vault-tokens/vault-plugin-secrets-tokens/verify/format"
)

// What the doors share to which a token is presented: to ask about it, or to
// revoke it.

// questionFields declare what is asked about one token.
func questionFields() schemas {
	return schemas{
		"token":           secretField("The token to verify."),
		"client_ip":       field(framework.TypeString, "Address that the token was presented from, checked against its bound_cidrs. Without it, a token that is bound to networks is inactive."),
		"required_scopes": field(framework.TypeCommaStringSlice, "Scopes that the token must have."),
		"audience":        field(framework.TypeString, "API that must be among the token's audiences."),
	}
}

// question reads the fields that questionFields declare.
func question(data *framework.FieldData) token.Introspection {
	asked := token.Introspection{
		Token:    format.Secret(data.Get("token").(string)),
		ClientIP: optional[string](data, "client_ip"),
		Audience: optional[string](data, "audience"),
	}
	if scopes := optional[[]string](data, "required_scopes"); scopes != nil {
		asked.RequiredScopes = append([]string{}, *scopes...) // given, so never nil
	}
	return asked
}

// introspect answers one question, and logs why a token is inactive. It returns
// logical.ErrReadOnly if another node has to answer.
func (b *tokensBackend) introspect(ctx context.Context, req *logical.Request, data *framework.FieldData) (*token.Answer, error) {
	if !b.mayIntrospect(ctx, req) {
		return nil, logical.ErrReadOnly // has Vault pass the request on
	}
	answer, err := b.engine.Tokens.Introspect(ctx, req.Storage, question(data))
	if err == nil {
		b.note(answer)
		b.logInactive(answer)
	}
	return answer, err
}

// note counts an answer, and remembers when a token was used, if it has a record to
// show that with.
func (b *tokensBackend) note(answer *token.Answer) {
	b.counts.introspected(answer)
	if answer.Active && answer.Recorded {
		b.engine.Seen.Note(answer.ID, answer.ExpiresAt)
	}
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

// revokePresented revokes the token that a request holds. It returns nil if there
// was nothing to revoke.
func (b *tokensBackend) revokePresented(ctx context.Context, req *logical.Request, data *framework.FieldData) (*token.Ended, error) {
	presented := format.Secret(data.Get("token").(string))
	if presented == "" {
		return nil, usererror.Field("token", "is required: the token to revoke")
	}
	ended, err := b.engine.Tokens.RevokePossessed(ctx, req.Storage, presented)
	b.logEnded(ended, err)
	return ended, err
}
