package main

import (
	"context"
	"encoding/json"
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
	tokens int             // that one request is about; 0: one
	peers  map[string]goal // what it is compared with
	old    bool            // by the build that the operation before it is compared with
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

const (
	peersPolicy = `
path "auth/token/create"        { capabilities = ["update"] }
path "auth/token/lookup"        { capabilities = ["update"] }
path "identity/oidc/token/*"    { capabilities = ["read"] }
path "identity/oidc/introspect" { capabilities = ["update"] }
`
	enginePolicy = `
path "%[1]s/creds/*"    { capabilities = ["read", "update"] }
path "%[1]s/introspect" { capabilities = ["update"] }
`
)

// engine is a mount of the engine, with tokens to introspect by kind.
type engine struct {
	path      string
	presented map[string]func() []byte
	batch     func() []byte // presents batchSize tokens at once
}

// batchSize is how many tokens an API gateway might collect for one request.
const batchSize = 100

// prepare configures the server and lists the operations. With another build on
// oldMount, its are among them.
func prepare(ctx context.Context, server *vaulttest.Server, withOld bool) ([]operation, error) {
	paths := []string{vaulttest.MountPath}
	if withOld {
		paths = append(paths, oldMount)
	}
	policy := peersPolicy
	for _, path := range paths {
		policy += fmt.Sprintf(enginePolicy, path)
	}
	caller, _, err := server.NewUser(ctx, "bench", policy)
	if err != nil {
		return nil, err
	}
	client := server.Client(caller)
	var engines []engine
	for _, path := range paths {
		e, err := prepareEngine(ctx, server, client, path)
		if err != nil {
			return nil, err
		}
		engines = append(engines, e)
	}
	oidc, service, err := preparePeers(ctx, server, client)
	if err != nil {
		return nil, err
	}
	return list(caller, engines, oidc, service), nil
}

// list lists the operations, each one next to its peer, so that the two see the
// machine in the same state. One of the engine's is followed by the other
// build's.
func list(caller string, engines []engine, oidc, service func() []byte) []operation {
	var operations []operation
	add := func(op operation) { operations = append(operations, op) }
	each := func(operationOf func(engine) operation) {
		for _, e := range engines {
			op := operationOf(e)
			if op.old = e.path == oldMount; op.old {
				op.name, op.peers = op.name+", old build", nil
			}
			add(op)
		}
	}
	issue := func(kind string, peers map[string]goal) {
		each(func(e engine) operation {
			return operation{name: "issue " + kind, method: "GET", path: e.path + "/creds/" + kind, token: caller, want: http.StatusOK, peers: peers}
		})
	}
	introspect := func(kind string) {
		each(func(e engine) operation {
			return operation{
				name: "introspect " + kind, method: "POST", path: e.path + "/introspect", token: caller, body: e.presented[kind], want: http.StatusOK,
				peers: map[string]goal{oidcIntrospect: 1.0, tokenLookup: 0},
			}
		})
	}
	issue("api_key", map[string]goal{tokenCreate: 0})
	issue("bearer", map[string]goal{tokenCreate: 1.2})
	add(operation{name: tokenCreate, method: "POST", path: "auth/token/create", token: caller, body: constant(`{"ttl":"12h"}`), want: http.StatusOK})
	issue("jwt", map[string]goal{tokenCreate: 1.4, oidcToken: 0})
	add(operation{name: oidcToken, method: "GET", path: "identity/oidc/token/bench", token: caller, want: http.StatusOK})
	introspect("api_key")
	introspect("bearer")
	add(operation{name: oidcIntrospect, method: "POST", path: "identity/oidc/introspect", token: caller, body: oidc, want: http.StatusOK})
	add(operation{ // which another build may not know
		name: fmt.Sprintf("introspect %d bearer at once", batchSize), method: "POST", path: engines[0].path + "/introspect", token: caller, body: engines[0].batch, want: http.StatusOK,
		tokens: batchSize, peers: map[string]goal{"introspect bearer": 20},
	})
	introspect("jwt")
	add(operation{name: tokenLookup, method: "POST", path: "auth/token/lookup", token: caller, body: service, want: http.StatusOK})
	each(func(e engine) operation {
		return operation{name: floorWrite, method: "POST", path: e.path + "/introspect", token: caller, body: constant(`{"token":"x"}`), want: http.StatusOK}
	})
	each(func(e engine) operation {
		return operation{name: floorRead, method: "GET", path: e.path + "/jwks", want: http.StatusOK}
	})
	return operations
}

// prepareEngine writes the roles of one mount and issues tokens of each.
func prepareEngine(ctx context.Context, server *vaulttest.Server, client *vaulttest.Client, path string) (engine, error) {
	e := engine{path: path, presented: map[string]func() []byte{}}
	if _, err := server.Root().Must(ctx, "POST", path+"/config", map[string]any{"issuer": server.Addr + "/v1/" + path}); err != nil {
		return e, err
	}
	for _, kind := range []string{"api_key", "bearer", "jwt"} {
		if _, err := server.Root().Must(ctx, "POST", path+"/roles/"+kind, role(kind)); err != nil {
			return e, err
		}
		var err error
		if e.presented[kind], err = sample(ctx, client, "GET", path+"/creds/"+kind, "data", "token"); err != nil {
			return e, err
		}
	}
	items := make([]json.RawMessage, batchSize)
	for i := range items {
		items[i] = e.presented["bearer"]()
	}
	batch, err := json.Marshal(map[string]any{"batch_input": items})
	e.batch = constant(string(batch))
	return e, err
}

// preparePeers returns bodies that present Vault's own tokens.
func preparePeers(ctx context.Context, server *vaulttest.Server, client *vaulttest.Client) (oidc, service func() []byte, err error) {
	root := server.Root()
	// The same algorithm as the engine's, so that it is not compared with RSA.
	if _, err := root.Must(ctx, "POST", "identity/oidc/key/bench", map[string]any{"algorithm": "ES256", "allowed_client_ids": "*"}); err != nil {
		return nil, nil, err
	}
	if _, err := root.Must(ctx, "POST", "identity/oidc/role/bench", map[string]any{"key": "bench", "ttl": "12h"}); err != nil {
		return nil, nil, err
	}
	if oidc, err = sample(ctx, client, "GET", "identity/oidc/token/bench", "data", "token"); err != nil {
		return nil, nil, err
	}
	service, err = sample(ctx, client, "POST", "auth/token/create", "auth", "client_token")
	return oidc, service, err
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
