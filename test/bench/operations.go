package main

import (
	"context"
	"fmt"
	"net/http"
	"sync/atomic"

	"github.com/vault-tokens/vault-plugin-secrets-tokens/test/vaulttest"
)

// operation is one request, made over and over.
type operation struct {
	name   string
	method string
	path   string
	token  string          // Vault token; empty: unauthenticated
	body   func() []byte   // nil: none
	want   int             // status
	peers  map[string]goal // what it is compared with
}

// goal is the least ratio to a peer; zero where the ratio is only shown.
type goal float64

// Names of the operations that others are compared with.
const (
	tokenCreate    = "auth/token/create"
	tokenLookup    = "auth/token/lookup"
	oidcToken      = "identity/oidc/token"
	oidcIntrospect = "identity/oidc/introspect"
	floorRead      = "floor: tokens/jwks"
	floorWrite     = "floor: introspect nothing"
)

const callerPolicy = `
path "tokens/creds/*"           { capabilities = ["read", "update"] }
path "tokens/introspect"        { capabilities = ["update"] }
path "auth/token/create"        { capabilities = ["update"] }
path "auth/token/lookup"        { capabilities = ["update"] }
path "identity/oidc/token/*"    { capabilities = ["read"] }
path "identity/oidc/introspect" { capabilities = ["update"] }
`

// prepare configures the server and lists the operations, each one next to its
// peer, so that the two see the machine in the same state.
func prepare(ctx context.Context, server *vaulttest.Server) ([]operation, error) {
	caller, _, err := server.NewUser(ctx, "bench", callerPolicy)
	if err != nil {
		return nil, err
	}
	root := server.Root()
	for _, setting := range []struct {
		path string
		body map[string]any
	}{
		{"tokens/config", map[string]any{"issuer": server.Addr + "/v1/tokens"}},
		{"tokens/roles/api_key", role("api_key")},
		{"tokens/roles/bearer", role("bearer")},
		{"tokens/roles/jwt", role("jwt")},
		// The same algorithm as the engine's, so that it is not compared with RSA.
		{"identity/oidc/key/bench", map[string]any{"algorithm": "ES256", "allowed_client_ids": "*"}},
		{"identity/oidc/role/bench", map[string]any{"key": "bench", "ttl": "12h"}},
	} {
		if _, err := root.Must(ctx, "POST", setting.path, setting.body); err != nil {
			return nil, err
		}
	}
	client := server.Client(caller)
	presented := map[string]func() []byte{}
	for _, kind := range []string{"api_key", "bearer", "jwt"} {
		if presented[kind], err = sample(ctx, client, "GET", "tokens/creds/"+kind, "data", "token"); err != nil {
			return nil, err
		}
	}
	oidc, err := sample(ctx, client, "GET", "identity/oidc/token/bench", "data", "token")
	if err != nil {
		return nil, err
	}
	service, err := sample(ctx, client, "POST", "auth/token/create", "auth", "client_token")
	if err != nil {
		return nil, err
	}
	issue := func(kind string, peers map[string]goal) operation {
		return operation{name: "issue " + kind, method: "GET", path: "tokens/creds/" + kind, token: caller, want: http.StatusOK, peers: peers}
	}
	introspect := func(kind string) operation {
		return operation{
			name: "introspect " + kind, method: "POST", path: "tokens/introspect", token: caller, body: presented[kind], want: http.StatusOK,
			peers: map[string]goal{oidcIntrospect: 1.0, tokenLookup: 0},
		}
	}
	return []operation{
		issue("api_key", map[string]goal{tokenCreate: 0}),
		issue("bearer", map[string]goal{tokenCreate: 1.2}),
		{name: tokenCreate, method: "POST", path: "auth/token/create", token: caller, body: constant(`{"ttl":"12h"}`), want: http.StatusOK},
		issue("jwt", map[string]goal{tokenCreate: 1.4, oidcToken: 0}),
		{name: oidcToken, method: "GET", path: "identity/oidc/token/bench", token: caller, want: http.StatusOK},
		introspect("api_key"),
		introspect("bearer"),
		{name: oidcIntrospect, method: "POST", path: "identity/oidc/introspect", token: caller, body: oidc, want: http.StatusOK},
		introspect("jwt"),
		{name: tokenLookup, method: "POST", path: "auth/token/lookup", token: caller, body: service, want: http.StatusOK},
		{name: floorWrite, method: "POST", path: "tokens/introspect", token: caller, body: constant(`{"token":"x"}`), want: http.StatusOK},
		{name: floorRead, method: "GET", path: "tokens/jwks", want: http.StatusOK},
	}, nil
}

// role is a role whose tokens outlive the run: a lease that ends during it
// would be work that no operation is to be charged with.
func role(kind string) map[string]any {
	return map[string]any{
		"token_type": kind, "allowed_scopes": "orders:*", "default_scopes": "orders:read,orders:write",
		"audiences": "https://orders.example.com", "ttl": "12h", "max_ttl": "24h",
	}
}

func constant(body string) func() []byte {
	raw := []byte(body)
	return func() []byte { return raw }
}

// sample obtains a few dozen tokens and returns bodies that present them in
// turn: an API sees many, and one alone would flatter every cache.
func sample(ctx context.Context, client *vaulttest.Client, method, path, section, field string) (func() []byte, error) {
	const count = 64
	bodies := make([][]byte, count)
	for i := range bodies {
		resp, err := client.Must(ctx, method, path, nil)
		if err != nil {
			return nil, err
		}
		found, _ := resp.Body[section].(map[string]any)
		token, _ := found[field].(string)
		if token == "" {
			return nil, fmt.Errorf("%s: no %s in the answer", path, field)
		}
		bodies[i] = fmt.Appendf(nil, `{"token":%q}`, token)
	}
	var next atomic.Uint64
	return func() []byte { return bodies[next.Add(1)%count] }, nil
}
