// Package config holds what is set once for a mount.
package config

import (
	"context"
	"net"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/hashicorp/vault/sdk/logical"

	"github.com/vault-tokens/vault-plugin-secrets-tokens/backend/scope"
	"github.com/vault-tokens/vault-plugin-secrets-tokens/backend/store"
	"github.com/vault-tokens/vault-plugin-secrets-tokens/backend/usererror"
)

// Config is the mount's configuration. The ceilings bound every role and every
// token, whatever the role says.
type Config struct {
	// Issuer is the public URL of the mount, without a trailing slash, such as
	// https://vault.example.com/v1/tokens. JWTs cannot be issued without it.
	Issuer string `json:"issuer"`
	// AllowedScopes are patterns; a scope that none of them matches is never
	// issued. Empty allows nothing.
	AllowedScopes []string `json:"allowed_scopes"`
	// MaxTTL bounds every token's life; zero leaves that to Vault.
	MaxTTL time.Duration `json:"max_ttl"`
	// StatusListTTL is how long a verifier may use a copy of a status list before
	// it fetches a new one. A revocation is noticed after that time at the latest.
	StatusListTTL time.Duration `json:"status_list_ttl"`
	// StatusListLifetime is how long it may use a copy while it cannot fetch.
	StatusListLifetime time.Duration `json:"status_list_lifetime"`
	// ListsValidUntil is until when lists may be used that were published with a
	// longer lifetime than the present one. It is set when that is lowered.
	ListsValidUntil time.Time `json:"lists_valid_until,omitzero"`
}

// MaxStatusListLifetime bounds StatusListLifetime.
const MaxStatusListLifetime = 24 * time.Hour

// Default is the configuration of a mount that nobody has configured.
func Default() *Config {
	return &Config{AllowedScopes: []string{"*"}, StatusListTTL: 5 * time.Second, StatusListLifetime: time.Hour}
}

// Validate checks the configuration and brings it into its stored form.
func (c *Config) Validate() error {
	issuer, err := cleanIssuer(c.Issuer)
	if err != nil {
		return err
	}
	c.Issuer = issuer
	if c.MaxTTL < 0 {
		return usererror.Field("max_ttl", "must not be negative; 0 sets no ceiling")
	}
	switch {
	case c.StatusListTTL < time.Second || c.StatusListTTL > time.Hour:
		return usererror.Field("status_list_ttl", "must be between 1s and 1h")
	case c.StatusListLifetime < 2*c.StatusListTTL || c.StatusListLifetime < time.Minute || c.StatusListLifetime > MaxStatusListLifetime:
		return usererror.Field("status_list_lifetime", "must be between 1m and 24h, and at least twice status_list_ttl (%s)", c.StatusListTTL)
	}
	return scope.ValidatePatterns("allowed_scopes", c.AllowedScopes)
}

// keepListsValid remembers until when lists may be used that were published before
// their lifetime was lowered.
func (c *Config) keepListsValid(before *Config, now time.Time) {
	if c.StatusListLifetime >= before.StatusListLifetime {
		return
	}
	if until := now.Add(before.StatusListLifetime); until.After(c.ListsValidUntil) {
		c.ListsValidUntil = until.UTC().Truncate(time.Second).Add(time.Second)
	}
}

// PublishedUntil returns until when status lists may be used that are published now,
// or were before.
func (c *Config) PublishedUntil(now time.Time) time.Time {
	until := now.Add(c.StatusListLifetime)
	if c.ListsValidUntil.After(until) {
		until = c.ListsValidUntil
	}
	if latest := now.Add(MaxStatusListLifetime); until.After(latest) {
		return latest // the clock was wrong when that was set
	}
	return until
}

// cleanIssuer checks an issuer by the rules of RFC 8414 §2: https, no query,
// no fragment. Plain http is accepted for a loopback host, for development.
func cleanIssuer(issuer string) (string, error) {
	if issuer == "" {
		return "", nil
	}
	const example = "give the mount's public URL, such as https://vault.example.com/v1/tokens"
	if len(issuer) > 512 {
		return "", usererror.Field("issuer", "is longer than 512 bytes; %s", example)
	}
	u, err := url.Parse(issuer)
	switch {
	case err != nil || u.Host == "" || u.Hostname() == "":
		return "", usererror.Field("issuer", "is not an absolute URL; %s", example)
	case strings.ContainsFunc(issuer, func(c rune) bool { return c <= ' ' || c > '~' }):
		return "", usererror.Field("issuer", "must be plain ASCII, with other characters percent-encoded; %s", example)
	case !validPort(u.Port()):
		return "", usererror.Field("issuer", "has no valid port; %s", example)
	case u.User != nil:
		return "", usererror.Field("issuer", "must not hold a user or password; %s", example)
	case u.RawQuery != "" || u.ForceQuery || u.Fragment != "" || strings.Contains(issuer, "#"):
		return "", usererror.Field("issuer", "must have neither a query nor a fragment (RFC 8414, section 2); %s", example)
	case u.Scheme == "https", u.Scheme == "http" && isLoopback(u.Hostname()):
		return strings.TrimRight(issuer, "/"), nil
	default:
		return "", usererror.Field("issuer", "must use https (http is for loopback hosts only); %s", example)
	}
}

func validPort(port string) bool {
	_, err := strconv.ParseUint(port, 10, 16)
	return port == "" || err == nil
}

func isLoopback(host string) bool {
	ip := net.ParseIP(host)
	return host == "localhost" || ip != nil && ip.IsLoopback()
}

const entryName = "config"

// Store keeps the one configuration of a mount.
type Store struct {
	Clock func() time.Time // time.Now unless set

	entries store.Entries[Config]
	current store.Snapshot[Config]
	changes sync.Mutex
}

// NewStore returns an empty store.
func NewStore() *Store {
	return &Store{Clock: time.Now, entries: store.Entries[Config]{Prefix: entryName + "/", Format: 1}}
}

// Get returns the configuration, or the default one if none was written.
func (s *Store) Get(ctx context.Context, storage logical.Storage) (*Config, error) {
	return s.current.Get(func() (*Config, error) {
		c, err := s.entries.Read(ctx, storage, entryName)
		if err == nil && c == nil {
			c = Default()
		}
		return c, err
	})
}

// Change stores what change makes of the configuration, if that is valid, and
// returns it as it was and as it is.
func (s *Store) Change(ctx context.Context, storage logical.Storage, change func(*Config)) (before, after *Config, err error) {
	s.changes.Lock()
	defer s.changes.Unlock()
	before, err = s.Get(ctx, storage)
	if err != nil {
		return nil, nil, err
	}
	changed := *before
	change(&changed)
	if err := changed.Validate(); err != nil {
		return nil, nil, err
	}
	changed.keepListsValid(before, s.Clock())
	defer s.current.Drop()
	return before, &changed, s.entries.Put(ctx, storage, entryName, &changed)
}

// Invalidate drops what is cached of a storage key that changed elsewhere.
func (s *Store) Invalidate(key string) bool {
	ours := strings.HasPrefix(key, s.entries.Prefix)
	if ours {
		s.current.Drop()
	}
	return ours
}
