// Package backend is the engine behind Vault's doors: everything that one mount
// knows and does, over Vault's storage and a clock. Each noun of the API is a
// package below it; what concerns several of them is here.
package backend

import (
	"context"
	"io"
	"sync/atomic"
	"time"

	"github.com/hashicorp/vault/sdk/helper/consts"
	"github.com/hashicorp/vault/sdk/logical"

	"github.com/vault-tokens/vault-plugin-secrets-tokens/backend/config"
	"github.com/vault-tokens/vault-plugin-secrets-tokens/backend/cutoff"
	"github.com/vault-tokens/vault-plugin-secrets-tokens/backend/keyring"
	"github.com/vault-tokens/vault-plugin-secrets-tokens/backend/lastseen"
	"github.com/vault-tokens/vault-plugin-secrets-tokens/backend/role"
	"github.com/vault-tokens/vault-plugin-secrets-tokens/backend/statuslist"
	"github.com/vault-tokens/vault-plugin-secrets-tokens/backend/token"
)

// followedAge is how long a node that follows the writes of another caches a
// record or a status list: what tells it of a change can be lost.
const followedAge = 30 * time.Second

// Engine is one mount.
type Engine struct {
	Config  *config.Store
	Roles   *role.Store
	Keys    *keyring.Keyring
	Lists   *statuslist.Lists
	Cutoffs *cutoff.Cutoffs
	Tokens  *token.Tokens
	Seen    *lastseen.Times

	// Storage is what work in the background uses: the mount's, which lasts as long as
	// the engine, not one of a request. Nil leaves that work to Tidy. Set it, and
	// Report, before the first request.
	Storage logical.Storage
	// Report is told what was done in the background, and why that failed.
	Report func(*TidyResult, error)

	background background
	tidying    tidying
	settler    *settler
	system     logical.SystemView
	clock      func() time.Time
	// allReferred is set once it is known that every role that names a key refers
	// to it.
	allReferred atomic.Bool
	stale       stale
}

// NewEngine returns the engine of a mount. The clock decides what has expired;
// random is the source of ids and secrets.
func NewEngine(system logical.SystemView, clock func() time.Time, random io.Reader) *Engine {
	maxAge := func() time.Duration {
		if writeSafe(system) {
			return 0
		}
		return followedAge
	}
	e := &Engine{
		system: system,
		clock:  clock,
		Config: config.NewStore(),
		Roles:  role.NewStore(),
		Keys:   keyring.New(clock),
		Lists:  statuslist.New(clock, random, maxAge),

		Seen: lastseen.New(clock, func() bool { return writeSafe(system) }),
	}
	e.Config.Clock = clock
	e.Cutoffs = cutoff.New(func() time.Time { return e.Tokens.IssueClock() }, maxAge)
	e.Report = func(*TidyResult, error) {}
	e.background.do = e.inBackground
	e.background.failed = func(err error) { e.Report(&TidyResult{Tokens: &token.TidyResult{}}, err) }
	e.Tokens = token.New(token.Dependencies{
		Config:  e.Config,
		Roles:   e.Roles,
		Keys:    e.Keys,
		Lists:   e.Lists,
		Cutoffs: e.Cutoffs,
		System:  system,
		Clock:   clock,
		Random:  random,
		MaxAge:  maxAge,
	})
	e.settler = &settler{lists: e.Lists}
	e.Tokens.Visitor = e.settler
	return e
}

// Begin announces this instance of the engine to the nodes that follow it. It
// does nothing on a node that must not write.
func (e *Engine) Begin(ctx context.Context, storage logical.Storage) error {
	if !writeSafe(e.system) {
		return nil
	}
	return e.Lists.Begin(ctx, storage)
}

// writeSafe reports whether this node may write the mount's storage, as
// framework.Backend.WriteSafeReplicationState does.
func writeSafe(system logical.SystemView) bool {
	state := system.ReplicationState()
	return !state.HasState(consts.ReplicationDRSecondary|consts.ReplicationPerformanceStandby) &&
		(system.LocalMount() || !state.HasState(consts.ReplicationPerformanceSecondary))
}

// Invalidate drops what is cached of a storage key that changed elsewhere.
func (e *Engine) Invalidate(key string) {
	if key == e.references().Key(referencesName) {
		e.allReferred.Store(false) // to be read again
		return
	}
	_ = e.Config.Invalidate(key) ||
		e.Roles.Invalidate(key) ||
		e.Keys.Invalidate(key) ||
		e.Lists.Invalidate(key) ||
		e.Cutoffs.Invalidate(key) ||
		e.Tokens.Invalidate(key)
}

// StatusList returns a signed status list, nil if there is none of this id, and
// for how long it may be cached.
func (e *Engine) StatusList(ctx context.Context, storage logical.Storage, id string) ([]byte, time.Duration, error) {
	c, err := e.Config.Get(ctx, storage)
	if err != nil {
		return nil, 0, err
	}
	settings := statuslist.Settings{TTL: c.StatusListTTL, Lifetime: c.StatusListLifetime, Issuer: c.Issuer, Key: role.DefaultKey}
	body, err := e.Lists.Publish(ctx, storage, id, settings, func(name string) (*keyring.Version, error) {
		key, err := e.Keys.Get(ctx, storage, name)
		if err != nil || key == nil {
			return nil, err
		}
		return key.Signing()
	})
	return body, c.StatusListTTL, err
}
