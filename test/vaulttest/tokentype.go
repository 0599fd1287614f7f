package vaulttest

// TokenType is a token_type and what differs between them.
type TokenType struct {
	Name      string
	Opaque    bool
	Prefix    string // of the token
	Renewable bool
}

// The token types.
var (
	APIKey     = TokenType{Name: "api_key", Opaque: true, Prefix: "vtk", Renewable: true}
	Bearer     = TokenType{Name: "bearer", Opaque: true, Prefix: "vtb", Renewable: true}
	JWT        = TokenType{Name: "jwt", Prefix: "eyJ"}
	TokenTypes = []TokenType{APIKey, Bearer, JWT}
)

// Audiences are those of RoleBody.
var Audiences = []string{"https://orders.example.com", "https://stock.example.com"}

// RoleBody is a role of the type that uses most of what roles offer.
func (k TokenType) RoleBody() Fields {
	return Fields{
		"token_type":     k.Name,
		"allowed_scopes": []string{"orders:*", "stock:read"},
		"default_scopes": []string{"orders:read", "stock:read"},
		"ttl":            "10m",
		"max_ttl":        "1h",
		"audiences":      Audiences,
		"metadata":       map[string]string{"team": "payments"},

		"allowed_metadata": []string{"job"},
	}
}
