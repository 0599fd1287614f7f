package rules

import (
	"cmp"
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
//
// After a kill switch of a role or an entity, clients present dead tokens until they
// have new ones. These are one finding, not one per token.
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
		kills:  newLRU[string, revocation](s.MaxTokens),
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
	Entity                string // that it was issued to
	Expires               time.Time
	Seen                  time.Time // when it was live for the last time
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
	kills  *simplelru.LRU[string, revocation] // of all tokens of a role or an entity
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
	case tokenwatch.KindRoleRevoke:
		r.kills.Add(killOf(e, "role", e.Role), revocation{e.Time, "with every token of role " + e.Role + ", by " + who(e)})
	case tokenwatch.KindEntityRevoke:
		r.kills.Add(killOf(e, "entity", e.Name), revocation{e.Time, "with every token of entity " + e.Name + ", by " + who(e)})
	}
}

// killOf names the kill switch of a role or an entity of the event's mount.
func killOf(e *tokenwatch.Event, what, name string) string {
	return e.Namespace + "/" + e.Mount + " " + what + " " + name
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
	t.ID, t.Kind, t.Expires, t.Seen = e.TokenID, e.TokenType, e.Expires, e.Time
	entity := e.EntityID
	if e.Kind == tokenwatch.KindIntrospect {
		entity = e.ClientID // the caller is the API server
	}
	// These do not change; at the issue they are in clear, however the mount is tuned.
	t.Role, t.Entity = cmp.Or(t.Role, e.Role), cmp.Or(t.Entity, entity)
	t.Lease = cmp.Or(e.LeaseID, t.Lease)
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
	a := r.presented(e, t)
	end, ok := r.endOf(e, t)
	if !ok {
		end, ok = r.killed(e, t, &a)
	}
	switch {
	case !ok:
		a.Detail = "Inactive before it expired, although no revocation in the log names it: it ended with its Vault login, lease prefix, role, entity or key."
	case e.Time.Before(end.At.Add(r.grace)):
		return
	default:
		a.Detail = "Revoked at " + end.At.Format(time.RFC3339) + " " + end.How + "." + a.Detail
	}
	emit(a)
}

// presented begins the alert about a token.
func (r *revokedToken) presented(e *tokenwatch.Event, t *knownToken) tokenwatch.Alert {
	a := r.finding(e, e.Mount+t.ID, "Revoked token was presented")
	a.Who = "presented to API server " + a.Who
	if e.ClientIP != "" {
		a.Where = clientAddress(e.ClientIP)
	}
	a.TokenID, a.Role, a.LeaseID = t.ID, t.Role, t.Lease
	return a
}

// endOf returns the revocation of the token itself.
func (r *revokedToken) endOf(e *tokenwatch.Event, t *knownToken) (revocation, bool) {
	for _, id := range []string{e.TokenHash, t.ID, t.Lease} {
		if end, ok := r.ends.Get(id); ok && id != "" {
			return end, true
		}
	}
	return revocation{}, false
}

// killed returns the kill switch that ended a token, and makes the alert one about
// all tokens that it ended. A token that was live since ended in another way.
func (r *revokedToken) killed(e *tokenwatch.Event, t *knownToken, a *tokenwatch.Alert) (revocation, bool) {
	for _, of := range []struct{ what, name, title string }{
		{"role", t.Role, "Tokens of a role were presented after all of them were revoked"},
		{"entity", t.Entity, "Tokens of an entity were presented after all of them were revoked"},
	} {
		key := killOf(e, of.what, of.name)
		end, ok := r.kills.Get(key)
		if !ok || t.Seen.After(end.At) {
			continue
		}
		a.Key, a.Title = key, of.title
		a.Detail = " The last one that was presented: " + t.ID + "."
		a.TokenID, a.LeaseID = "", ""
		if of.what == "entity" {
			a.Role, a.EntityID = "", t.Entity
		}
		return end, true
	}
	return revocation{}, false
}

type revokedTokenState struct {
	Tokens dump[tokenKey, *knownToken]
	Ends   dump[string, revocation]
	Kills  dump[string, revocation]
}

func (r *revokedToken) Save() ([]byte, error) {
	return encode(revokedTokenState{dumpOf(r.tokens), dumpOf(r.ends), dumpOf(r.kills)})
}

func (r *revokedToken) Restore(state []byte) error {
	var s revokedTokenState
	if err := decode(state, &s); err != nil {
		return err
	}
	s.Tokens.into(r.tokens)
	s.Ends.into(r.ends)
	s.Kills.into(r.kills)
	return nil
}
