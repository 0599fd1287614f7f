package tokens

import (
	"context"
	"maps"
	"net/http"
	"strings"
	"time"

	"github.com/hashicorp/vault/sdk/framework"
	"github.com/hashicorp/vault/sdk/logical"

	"github.com/vault-tokens/vault-plugin-secrets-tokens/backend/role"
	"github.com/vault-tokens/vault-plugin-secrets-tokens/backend/template"
	"github.com/vault-tokens/vault-plugin-secrets-tokens/backend/token"
)

// tokenFields describe a token without its secret.
func tokenFields() map[string]*framework.FieldSchema {
	return map[string]*framework.FieldSchema{
		"token_id":   field(framework.TypeString, "Public id of the token."),
		"token_type": field(framework.TypeString, "api_key, bearer or jwt."),
		"role":       field(framework.TypeString, "Role that issued it."),
		"scopes":     field(framework.TypeStringSlice, "Scopes, as a list."),
		"scope":      field(framework.TypeString, "Scopes, separated by spaces (RFC 6749, section 3.3)."),
		"audience":   field(framework.TypeStringSlice, "APIs that the token is for."),
		"issued_at":  field(framework.TypeString, "When it was issued (RFC 3339)."),
		"expires_at": field(framework.TypeString, "When it ends, unless renewed (RFC 3339)."),
		"metadata":   field(framework.TypeMap, "Metadata, if any."),
		"cnf":        field(framework.TypeMap, "Key that the bearer must prove to hold, if any."),
	}
}

func (b *backend) pathCreds() []*framework.Path {
	issuedFields := tokenFields()
	maps.Copy(issuedFields, map[string]*framework.FieldSchema{
		"token":      {Type: framework.TypeString, Description: "The token. Shown once.", DisplayAttrs: &framework.DisplayAttributes{Sensitive: true}},
		"expires_in": field(framework.TypeInt64, "Seconds until it ends, unless renewed."),
	})
	return []*framework.Path{{
		Pattern: "creds/(?P<role>.+)",
		Fields: map[string]*framework.FieldSchema{
			"role":     field(framework.TypeString, "Name of the role."),
			"scopes":   field(framework.TypeCommaStringSlice, "Scopes instead of the role's default_scopes; each must be allowed by the role."),
			"ttl":      field(framework.TypeDurationSecond, "A shorter life than the role's ttl."),
			"audience": field(framework.TypeCommaStringSlice, "Some of the role's audiences."),
			"metadata": field(framework.TypeKVPairs, "Metadata in addition to the role's."),
			"cnf":      field(framework.TypeKVPairs, "Binds the token to a key that its bearer must prove to hold: jkt, the SHA-256 thumbprint of a DPoP key (RFC 9449), or x5t#S256, that of a client certificate (RFC 8705)."),
		},
		Operations: map[logical.Operation]framework.OperationHandler{
			logical.ReadOperation: &framework.PathOperation{
				Callback:                    b.pathCredsRead,
				Summary:                     "Issue a token as the role has it.",
				ForwardPerformanceStandby:   true,
				ForwardPerformanceSecondary: true,
				Responses:                   responds(http.StatusOK, issuedFields),
			},
			logical.UpdateOperation: &framework.PathOperation{
				Callback:                    b.pathCredsRead,
				Summary:                     "Issue a token that may do less.",
				ForwardPerformanceStandby:   true,
				ForwardPerformanceSecondary: true,
				Responses:                   responds(http.StatusOK, issuedFields),
			},
		},
		HelpSynopsis: "Issue a token of a role, under a lease.",
		HelpDescription: `
A read gives what the role has. A write can narrow it: fewer scopes, a shorter
ttl, some of the audiences, more metadata. It can widen nothing.`,
	}}
}

func (b *backend) pathCredsRead(ctx context.Context, req *logical.Request, data *framework.FieldData) (*logical.Response, error) {
	request := token.Request{
		Role:     data.Get("role").(string),
		Scopes:   optional[[]string](data, "scopes"),
		Audience: optional[[]string](data, "audience"),
		Metadata: data.Get("metadata").(map[string]string),
		Cnf:      optional[map[string]string](data, "cnf"),
		Caller:   template.Caller{EntityID: req.EntityID, DisplayName: req.DisplayName, Source: b.System()},
	}
	if _, ok := data.GetOk("ttl"); ok {
		ttl := seconds(data, "ttl")
		request.TTL = &ttl
	}
	if err := role.ValidateName("role", request.Role); err != nil {
		return nil, err
	}
	issued, err := b.tokens.Issue(ctx, req.Storage, request)
	if err != nil {
		return nil, err
	}
	b.Logger().Info("token issued", "token_id", issued.ID, "role", issued.Role, "token_type", issued.TokenType,
		"entity_id", req.EntityID, "expires_at", issued.ExpiresAt.Format(time.RFC3339), "leased", issued.Leased)
	return b.issuedResponse(issued), nil
}

func (b *backend) issuedResponse(issued *token.Issued) *logical.Response {
	shown := map[string]any{
		"token":      issued.Token.Reveal(),
		"token_id":   issued.ID,
		"token_type": string(issued.TokenType),
		"role":       issued.Role,
		"scopes":     append([]string{}, issued.Scopes...),
		"scope":      strings.Join(issued.Scopes, " "),
		"audience":   append([]string{}, issued.Audience...),
		"issued_at":  issued.IssuedAt.Format(time.RFC3339),
		"expires_at": issued.ExpiresAt.Format(time.RFC3339),
		"expires_in": int64(issued.TTL.Seconds()),
	}
	if issued.Cnf != nil {
		shown["cnf"] = issued.Cnf.Map()
	}
	if len(issued.Metadata) > 0 {
		shown["metadata"] = stringMap(issued.Metadata)
	}
	resp := &logical.Response{Data: shown}
	if issued.Leased {
		resp = b.Secret(secretTypes[issued.TokenType]).Response(shown, leaseData(issued))
		resp.Secret.TTL = issued.TTL
		resp.Secret.MaxTTL = issued.MaxTTL
	}
	resp.Warnings = issued.Warnings
	return resp
}
