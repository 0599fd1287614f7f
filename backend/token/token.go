// Package token issues, renews, verifies and revokes tokens of every kind.
package token

import (
	"context"
	"io"
	"sync/atomic"
	"time"

	"github.com/hashicorp/vault/sdk/helper/locksutil"
	"github.com/hashicorp/vault/sdk/logical"

	"github.com/vault-tokens/vault-plugin-secrets-tokens/backend/config"
	"github.com/vault-tokens/vault-plugin-secrets-tokens/backend/cutoff"
	"github.com/vault-tokens/vault-plugin-secrets-tokens/backend/keyring"
	"github.com/vault-tokens/vault-plugin-secrets-tokens/backend/role"
	"github.com/vault-tokens/vault-plugin-secrets-tokens/backend/statuslist"
	"github.com/vault-tokens/vault-plugin-secrets-tokens/verify/format"
)

// Tokens is all tokens of a mount.
type Tokens struct {
	config  *config.Store
	roles   *role.Store
	keys    *keyring.Keyring
	lists   *statuslist.Lists
	cutoffs *cutoff.Cutoffs
	system  logical.SystemView
	clock   func() time.Time
	random  io.Reader

	gates       []*locksutil.LockEntry // of roles: issuing holds one to read, EndRole to write
	records     *records
	signatures  *signatures
	latestIssue atomic.Int64 // in seconds since 1970
	unconfirmed *unconfirmed
	tidying     *tidying
	// Visitor, if any, sees the records that a pass leaves; set it before the first
	// one.
	Visitor Visitor
	rest    func(ctx context.Context, d time.Duration) // between bursts of work
}

// Dependencies are the neighbours that tokens are made with.
type Dependencies struct {
	Config  *config.Store
	Roles   *role.Store
	Keys    *keyring.Keyring
	Lists   *statuslist.Lists
	Cutoffs *cutoff.Cutoffs
	System  logical.SystemView
	Clock   func() time.Time // decides what has expired
	Random  io.Reader        // source of ids and secrets
	// MaxAge is how long a record may be cached, 0 for no limit; see store.Options.
	MaxAge func() time.Duration
}

// New returns the tokens of a mount.
func New(d Dependencies) *Tokens {
	t := &Tokens{
		config:      d.Config,
		roles:       d.Roles,
		keys:        d.Keys,
		lists:       d.Lists,
		cutoffs:     d.Cutoffs,
		system:      d.System,
		clock:       d.Clock,
		random:      d.Random,
		gates:       locksutil.CreateLocks(),
		signatures:  newSignatures(),
		unconfirmed: newUnconfirmed(),
		tidying:     newTidying(),
		rest:        rest,
	}
	t.records = newRecords(d.Clock, d.MaxAge, t.slotIsDead)
	return t
}

// Invalidate drops what is cached of a storage key that changed elsewhere, and
// reports whether the key is one of a token.
func (t *Tokens) Invalidate(key string) bool {
	return t.records.invalidate(key) || t.tidying.invalidate(key)
}

// Get returns the record of a token by its id, or nil if there is none that is
// live.
func (t *Tokens) Get(ctx context.Context, storage logical.Storage, id string) (*Record, error) {
	if !format.ValidID(id) {
		return nil, nil
	}
	record, err := t.records.Get(ctx, storage, id)
	if err != nil || record == nil {
		return nil, err
	}
	if live, err := t.live(ctx, storage, record); err != nil || !live {
		return nil, err
	}
	return record, nil
}

// standing returns why the token of a record is not active, "" if it is. The bit
// decides: a record may still be there of a token that was revoked, or come back
// with a renewal that lands late.
func (t *Tokens) standing(ctx context.Context, storage logical.Storage, record *Record) (Reason, error) {
	if !record.Live(t.clock()) {
		return Expired, nil
	}
	return t.refusal(ctx, storage, record)
}

// refusal is standing for a token that has not expired.
func (t *Tokens) refusal(ctx context.Context, storage logical.Storage, record *Record) (Reason, error) {
	if dead, err := t.cutOff(ctx, storage, record.ClientID, record.IssuedAt); err != nil {
		return "", err
	} else if dead {
		return Revoked, nil
	}
	if !record.HasBit() { // then its role's end is known by the time
		dead, err := t.roleCutOff(ctx, storage, record.Role, record.IssuedAt)
		if dead {
			return Revoked, err
		}
		return "", err
	}
	_, status, err := t.lists.Status(ctx, storage, record.Ref)
	switch {
	case err != nil:
		return "", err
	case status == statuslist.Revoked:
		return Revoked, nil
	case status == statuslist.NotGiven:
		return NotGiven, nil
	}
	return "", nil
}

// dead reports whether a token has been revoked although its record is there: by its
// bit, its role's end, or a cut-off.
func (t *Tokens) dead(ctx context.Context, storage logical.Storage, record *Record) (bool, error) {
	reason, err := t.refusal(ctx, storage, record)
	return reason == Revoked, err
}

// slotIsDead reports whether the token of a cap's slot is revoked, although its
// record is perhaps still there.
func (t *Tokens) slotIsDead(ctx context.Context, storage logical.Storage, k slotKey) bool {
	if k.ref == (statuslist.Ref{}) { // issued before any role could be ended
		at, err := t.cutoffs.Role(ctx, storage, k.role)
		return err == nil && !at.IsZero()
	}
	_, status, err := t.lists.Status(ctx, storage, k.ref)
	return err == nil && status == statuslist.Revoked // in doubt it counts
}
