package tokens

import (
	"context"
	"errors"
	"net/http"
	"runtime/debug"
	"strings"
	"time"

	"github.com/hashicorp/vault/sdk/framework"
	"github.com/hashicorp/vault/sdk/logical"

	"github.com/vault-tokens/vault-plugin-secrets-tokens/backend"
	"github.com/vault-tokens/vault-plugin-secrets-tokens/backend/keyring"
	"github.com/vault-tokens/vault-plugin-secrets-tokens/backend/usererror"
)

// Version is the version that Vault shows for the plugin; semver with a v.
const Version = "v0.1.0"

// Factory makes the backend of one mount.
func Factory(ctx context.Context, conf *logical.BackendConfig) (logical.Backend, error) {
	return newBackend(ctx, conf, time.Now)
}

// tokensBackend is one mount of the engine, as Vault sees it.
type tokensBackend struct {
	*framework.Backend
	engine     *backend.Engine
	counts     *counts
	keySet     derived[*keyring.KeySet]
	metadata   derived[metadataSource]
	bodyFields map[*framework.Path]schemas // that a request may set
}

func newBackend(ctx context.Context, conf *logical.BackendConfig, clock func() time.Time) (*tokensBackend, error) {
	if conf == nil || conf.System == nil {
		return nil, errors.New("backend configuration is missing")
	}
	system := newCachedSystem(conf.System, clock)
	withSystem := *conf
	withSystem.System = system

	b := &tokensBackend{}
	b.Backend = &framework.Backend{
		Help:           strings.TrimSpace(backendHelp),
		BackendType:    logical.TypeLogical,
		RunningVersion: Version,
		PathsSpecial: &logical.Paths{
			Unauthenticated: []string{"jwks", pathOpenIDConfiguration, pathOAuthServer, "status/*"},
			SealWrapStorage: []string{keyring.StoragePrefix},
		},
		Secrets:    b.secrets(),
		Invalidate: func(_ context.Context, key string) { b.engine.Invalidate(key) },
		InitializeFunc: func(ctx context.Context, req *logical.InitializationRequest) error {
			return b.engine.Begin(ctx, req.Storage)
		},
		PeriodicFunc: b.periodic,
		Clean:        func(ctx context.Context) { b.engine.Stop(ctx) },
	}
	if err := b.Setup(ctx, &withSystem); err != nil {
		return nil, err
	}
	b.engine = backend.NewEngine(system, clock, b.GetRandomReader())
	b.engine.Keys.Report = b.logKeyProblem
	b.engine.Storage = conf.StorageView
	b.engine.Report = b.logTidied
	b.Paths = b.paths()
	b.bodyFields = bodyFields(b.Paths)
	b.counts = newCounts(clock(), b.Paths)
	return b, nil
}

func (b *tokensBackend) paths() []*framework.Path {
	return framework.PathAppend(
		b.pathConfig(),
		b.pathRoles(),
		b.pathCreds(),
		b.pathIntrospect(),
		b.pathTokens(),
		b.pathRevoke(),
		b.pathEntities(),
		b.pathTidy(),
		b.pathOAuth2(),
		b.pathKeys(),
		b.pathJWKS(),
		b.pathDiscovery(),
		b.pathStatus(),
	)
}

// HandleRequest refuses what no handler should see, and turns the mistakes of
// callers into a 400.
func (b *tokensBackend) HandleRequest(ctx context.Context, req *logical.Request) (resp *logical.Response, err error) {
	defer func() { b.counts.answered(ctx, req, resp, err) }()
	defer b.guard(req, &err)
	req = b.counts.withStorage(req)
	if err := b.checkRequest(req); err != nil {
		return b.refuse(req, err)
	}
	resp, err = b.Backend.HandleRequest(ctx, req)
	if err != nil {
		return b.refuse(req, err)
	}
	return resp, nil
}

// HandleExistenceCheck distinguishes a create from an update. It looks at the
// path alone; HandleRequest reports what is wrong with the body.
func (b *tokensBackend) HandleExistenceCheck(ctx context.Context, req *logical.Request) (checkFound, exists bool, err error) {
	defer func() { b.counts.answered(ctx, req, nil, err) }()
	defer b.guard(req, &err)
	if !strings.HasPrefix(req.Path, "roles/") && !strings.HasPrefix(req.Path, "keys/") {
		return false, false, nil // nothing else is created by name
	}
	pathOnly := b.counts.withStorage(req)
	pathOnly.Data = nil
	return b.Backend.HandleExistenceCheck(ctx, pathOnly)
}

// guard, deferred, keeps a panic from ending the process, which serves other
// mounts as well.
func (b *tokensBackend) guard(req *logical.Request, err *error) {
	if recover() != nil {
		// The value may hold request data; the stack holds none.
		b.Logger().Error("handler panicked", "operation", req.Operation, "stack", string(debug.Stack()))
		*err = errors.New("internal error; see the server's log")
	}
}

// refuse turns a caller's mistake into a 400; other errors pass. Vault's periodic
// request has no caller who would read an answer: its errors pass, so that they are
// in Vault's log.
func (b *tokensBackend) refuse(req *logical.Request, err error) (*logical.Response, error) {
	var mistake *usererror.Error
	if !errors.As(err, &mistake) || req.Operation == logical.RollbackOperation {
		return nil, err
	}
	if !b.unauthenticated(req.Path) { // anonymous callers must not fill the log
		b.Logger().Info("request refused", "operation", req.Operation, "field", mistake.Field, "reason", mistake.Problem)
	}
	if req.Operation == logical.RenewOperation {
		// Vault prints a response with all its fields here, but an error as it is.
		return nil, logical.CodedError(http.StatusBadRequest, mistake.Error())
	}
	if isOAuth2(req.Path) {
		return oauth2Error(http.StatusBadRequest, "invalid_request", mistake.Error()), nil
	}
	return logical.ErrorResponse(mistake.Error()), nil
}

// periodic is called by Vault every minute: keys are rotated when they are due,
// and some of what expired tokens leave is removed.
func (b *tokensBackend) periodic(ctx context.Context, req *logical.Request) error {
	if !b.WriteSafeReplicationState() {
		return nil
	}
	done, err := b.engine.Tidy(ctx, req.Storage)
	b.logTidied(done, nil) // Vault logs the error
	return err
}

const backendHelp = `
The tokens secrets engine issues API keys, bearer tokens and JWTs for your own
APIs. Each is scoped, has a TTL and a Vault lease, and stops working when that
lease is revoked or ends.

An operator writes roles (roles/<name>), an application reads tokens
(creds/<role>), and an API verifies them (introspect, or jwks for JWTs).
`
