package rules

import (
	"encoding/hex"
	"strings"
	"time"

	"github.com/hashicorp/golang-lru/v2/simplelru"

	"github.com/vault-tokens/vault-plugin-secrets-tokens/internal/tokenwatch"
)

// RevokedToken finds tokens that are presented after they were revoked.
//
// The introspection of a dead token says only that it is not active. But the
// token's HMAC is the same as when it was issued or last active, and the log
// showed its expiry then: a token that is inactive earlier was revoked, by
// whatever means.
type RevokedToken struct {
	Common    `yaml:",inline"`
	Grace     time.Duration `yaml:"grace" range:"0" help:"How long after a revocation in the log use of the token is not reported, which spares requests under way."`
	MaxTokens int           `yaml:"max_tokens" help:"Tokens remembered, about 400 bytes each; the least recently used are dropped."`
}

func (s *RevokedToken) definition() definition {
	return definition{
		name:     "revoked_token",
		settings: s,
		meaning:  "A revoked token is presented before it would have expired. Its holder does not know that it was revoked, or stole it.",
		advice:   "Find the client by its address. If it does not own the token, treat the token as stolen: search the audit log for its token_id to see what was done with it before it was revoked.",
	}
}

func (s *RevokedToken) setDefaults() {
	*s = RevokedToken{Common: enabled(tokenwatch.SeverityCritical), Grace: 10 * time.Second, MaxTokens: 50_000}
}

func (s *RevokedToken) rule(b base) tokenwatch.Rule {
	return &revokedToken{
		base: b, grace: s.Grace,
		tokens: newLRU[tokenKey, *knownToken](s.MaxTokens),
		ends:   newLRU[string, revocation](s.MaxTokens),
	}
}

// tokenKey is half of the token's HMAC, and the mount: a token of one mount is
// inactive at any other.
type tokenKey struct {
	Hash  [16]byte
	Mount uint64
}

func keyOf(e *tokenwatch.Event) (tokenKey, bool) {
	digits, ok := strings.CutPrefix(e.TokenHash, tokenwatch.HashPrefix)
	key := tokenKey{Mount: hash(e.Namespace + "/" + e.Mount)}
	if !ok || len(digits) < 2*len(key.Hash) {
		return key, false
	}
	_, err := hex.Decode(key.Hash[:], []byte(digits[:2*len(key.Hash)]))
	return key, err == nil
}

type knownToken struct {
	ID, Role, Kind, Lease string
	Expires               time.Time
}

// revocation is one that the log shows.
type revocation struct {
	At  time.Time
	How string
}

type revokedToken struct {
	base
	grace  time.Duration
	tokens *simplelru.LRU[tokenKey, *knownToken]
	ends   *simplelru.LRU[string, revocation] // by HMAC, token id or lease id
}

func (r *revokedToken) Observe(e *tokenwatch.Event, emit func(tokenwatch.Alert)) {
	if e.Failed() {
		return
	}
	switch e.Kind {
	case tokenwatch.KindIssue:
		r.learn(e)
	case tokenwatch.KindIntrospect:
		if e.Active != nil && *e.Active {
			r.learn(e)
		} else if e.Outcome() == tokenwatch.OutcomeInactive && !r.ignore.has(e) {
			r.check(e, emit)
		}
	case tokenwatch.KindRevoke:
		how := "by its id, by " + who(e)
		if e.TokenHash != "" {
			how = "by possession, by " + who(e)
		}
		r.ended(e, how, e.TokenHash, e.TokenID)
	case tokenwatch.KindLeaseRevoke:
		r.ended(e, "through its lease, by "+who(e), e.LeaseID)
	}
}

func (r *revokedToken) learn(e *tokenwatch.Event) {
	key, ok := keyOf(e)
	if !ok || e.Expires.IsZero() {
		return
	}
	t, known := r.tokens.Get(key)
	if !known {
		t = &knownToken{}
		r.tokens.Add(key, t)
	}
	t.ID, t.Role, t.Kind, t.Expires = e.TokenID, e.Role, e.TokenType, e.Expires
	if e.LeaseID != "" {
		t.Lease = e.LeaseID
	}
}

func (r *revokedToken) ended(e *tokenwatch.Event, how string, ids ...string) {
	for _, id := range ids {
		if id != "" {
			r.ends.Add(id, revocation{e.Time, how})
		}
	}
}

func (r *revokedToken) check(e *tokenwatch.Event, emit func(tokenwatch.Alert)) {
	key, ok := keyOf(e)
	if !ok {
		return
	}
	t, known := r.tokens.Get(key)
	if !known || !e.Time.Before(t.Expires) {
		return
	}
	var end revocation
	for _, id := range []string{e.TokenHash, t.ID, t.Lease} {
		if at, ok := r.ends.Get(id); ok && id != "" {
			end = at
			break
		}
	}
	if !end.At.IsZero() && e.Time.Before(end.At.Add(r.grace)) {
		return
	}
	a := r.finding(e, e.Mount+t.ID, "Revoked token was presented")
	a.Who = "presented to API server " + a.Who
	if e.ClientIP != "" {
		a.Where = clientAddress(e.ClientIP)
	}
	a.TokenID, a.Role, a.LeaseID = t.ID, t.Role, t.Lease
	a.Detail = "Inactive before it expired, although no revocation in the log names it: it ended with its Vault login, lease prefix, role or key."
	if !end.At.IsZero() {
		a.Detail = "Revoked at " + end.At.Format(time.RFC3339) + " " + end.How + "."
	}
	emit(a)
}

type revokedTokenState struct {
	Tokens dump[tokenKey, *knownToken]
	Ends   dump[string, revocation]
}

func (r *revokedToken) Save() ([]byte, error) {
	return encode(revokedTokenState{dumpOf(r.tokens), dumpOf(r.ends)})
}

func (r *revokedToken) Restore(state []byte) error {
	var s revokedTokenState
	if err := decode(state, &s); err != nil {
		return err
	}
	s.Tokens.into(r.tokens)
	s.Ends.into(r.ends)
	return nil
}
