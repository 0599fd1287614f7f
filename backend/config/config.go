// Package config holds what is set once for a mount.
package config

import (
	"context"
	"encoding/hex"
	"net"
	"net/url"
	"regexp"
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
	// AllowedAudiences are patterns; an audience that none of them matches is never
	// named in a token. Empty allows none.
	AllowedAudiences []string `json:"allowed_audiences"`
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
	// StandbyIntrospection says who answers an introspection that a standby gets.
	StandbyIntrospection StandbyIntrospection `json:"standby_introspection"`
}

// StandbyIntrospection is who answers an introspection that reaches a node which
// follows another's writes.
type StandbyIntrospection string

const (
	// Forward has the active node answer, so that a token whose revocation was
	// acknowledged is never called active.
	Forward StandbyIntrospection = "forward"
	// Local has the standby answer from its own copy of the storage, which may lag
	// behind: introspection then scales with nodes, and a revocation takes effect
	// there when it arrives.
	Local StandbyIntrospection = "local"
)

// MaxStatusListLifetime bounds StatusListLifetime.
const MaxStatusListLifetime = 24 * time.Hour

// Default is the configuration of a mount that nobody has configured.
func Default() *Config {
	return &Config{
		AllowedScopes:        []string{"*"},
		AllowedAudiences:     []string{"*"},
		StatusListTTL:        5 * time.Second,
		StatusListLifetime:   time.Hour,
		StandbyIntrospection: Forward,
	}
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
	if c.StandbyIntrospection != Forward && c.StandbyIntrospection != Local {
		return usererror.Field("standby_introspection", "must be forward or local")
	}
	if err := scope.ValidateAudiencePatterns("allowed_audiences", c.AllowedAudiences); err != nil {
		return err
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
//
// Clients compare issuers as strings (§3.3), and many bring an address into its
// normal form before they fetch it. So only the normal form is accepted.
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
	case strings.Contains(u.Host, "%"):
		return "", usererror.Field("issuer", "must not have an IPv6 zone or an escape in its host; %s", example)
	case strings.ContainsFunc(issuer, func(c rune) bool { return c <= ' ' || c > '~' }):
		return "", usererror.Field("issuer", "must be plain ASCII, with other characters percent-encoded; %s", example)
	case !validPort(u.Port()), strings.HasSuffix(u.Host, ":"):
		return "", usererror.Field("issuer", "has no valid port; %s", example)
	case u.User != nil:
		return "", usererror.Field("issuer", "must not hold a user or password; %s", example)
	case u.RawQuery != "" || u.ForceQuery || u.Fragment != "" || strings.Contains(issuer, "#"):
		return "", usererror.Field("issuer", "must have neither a query nor a fragment (RFC 8414, section 2); %s", example)
	case u.Scheme != "https" && (u.Scheme != "http" || !isLoopback(u.Hostname())):
		return "", usererror.Field("issuer", "must use https (http is for loopback hosts only); %s", example)
	}
	issuer = strings.TrimRight(issuer, "/")
	if normal := strings.TrimRight(u.JoinPath().String(), "/"); normal != issuer || u.Host != strings.ToLower(u.Host) || hidesCharacter(u.EscapedPath()) {
		return "", usererror.Field("issuer", "is not in the form that clients bring it into before they compare it: scheme and host in small letters; a path without empty segments, dot segments, backslashes and quotes; and no escapes of characters that need none (RFC 3986, section 6.2.2); %s", example)
	}
	return issuer, nil
}

// escape finds percent-encoded bytes.
var escape = regexp.MustCompile(`%[0-9A-Fa-f]{2}`)

// hidesCharacter reports whether a path escapes a character that is the same
// without, such as a dot, one that separates segments, or a control character:
// some clients decode these, and then see another path.
func hidesCharacter(path string) bool {
	for _, found := range escape.FindAllString(path, -1) {
		decoded, _ := hex.DecodeString(found[1:]) // it was found as such
		c := decoded[0]
		if c < ' ' || c == 0x7F || strings.IndexByte(`/\-._~`, c) >= 0 || isAlphanumeric(c) {
			return true
		}
	}
	return false
}

func isAlphanumeric(c byte) bool {
	return c >= '0' && c <= '9' || c >= 'A' && c <= 'Z' || c >= 'a' && c <= 'z'
}

// validPort reports whether an address may have this port: none, or a number
// that clients write as it is here.
func validPort(port string) bool {
	n, err := strconv.ParseUint(port, 10, 16)
	return port == "" || err == nil && n > 0 && strconv.FormatUint(n, 10) == port
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
	return &Store{Clock: time.Now, entries: store.Entries[Config]{
		Prefix: entryName + "/",
		Format: 1, // allowed_audiences, standby_introspection
		New:    func(string) *Config { return Default() },
	}}
}

// Get returns the configuration, or the default one if none was written. One that
// cannot be read is an error: nothing is issued under ceilings that nobody knows.
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
	changed.keepListsValid(before, s.Clock())
	return before, &changed, s.write(ctx, storage, &changed)
}

// Replace stores what set makes of the default configuration, if that is valid,
// in place of one that cannot be decoded. One that a newer version of the plugin
// wrote stays.
func (s *Store) Replace(ctx context.Context, storage logical.Storage, set func(*Config)) (*Config, error) {
	s.changes.Lock()
	defer s.changes.Unlock()
	if _, err := s.Get(ctx, storage); err != nil && !store.Replaceable(err) {
		return nil, err
	}
	replacement := Default()
	set(replacement)
	replacement.ListsValidUntil = s.Clock().Add(MaxStatusListLifetime) // whatever it was
	return replacement, s.write(ctx, storage, replacement)
}

func (s *Store) write(ctx context.Context, storage logical.Storage, c *Config) error {
	if err := c.Validate(); err != nil {
		return err
	}
	defer s.current.Drop()
	return s.entries.Put(ctx, storage, entryName, c)
}

// Invalidate drops what is cached of a storage key that changed elsewhere.
func (s *Store) Invalidate(key string) bool {
	ours := strings.HasPrefix(key, s.entries.Prefix)
	if ours {
		s.current.Drop()
	}
	return ours
}
