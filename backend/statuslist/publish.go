package statuslist

import (
	"context"
	"fmt"
	"time"

	"github.com/golang-jwt/jwt/v5"
	"github.com/hashicorp/vault/sdk/logical"

	"github.com/vault-tokens/vault-plugin-secrets-tokens/backend/keyring"
	"github.com/vault-tokens/vault-plugin-secrets-tokens/verify/format"
)

// Settings are how lists are published.
type Settings struct {
	TTL      time.Duration // how long a verifier may use a copy before it fetches a new one
	Lifetime time.Duration // how long it may use a copy while it cannot fetch
}

// URI returns where a list is published.
func URI(issuer, id string) string { return issuer + "/status/" + id }

// tidyMargin is how long a list is kept after its last token has expired.
const tidyMargin = 5 * time.Minute

// published is a signed list as it is served.
type published struct {
	body     []byte
	version  int // of the list's statuses
	keyID    string
	builtAt  time.Time
	settings Settings
}

// Publish returns the signed list in compact serialization, or nil if there is
// no such list, or no key left to sign it. The first request after a change
// builds it. That writes no storage, so that anybody may ask. signerOf returns
// the version of a key that signs now.
func (l *Lists) Publish(ctx context.Context, storage logical.Storage, id string, settings Settings, signerOf func(key string) (*keyring.Version, error)) ([]byte, error) {
	found, owner, err := l.lookUp(ctx, storage, id)
	if err != nil || found == nil {
		return nil, err
	}
	signer, err := signerOf(owner.Key)
	if err != nil || signer == nil {
		return nil, err
	}
	if body, _, _ := l.fresh(found, settings, signer); body != nil {
		return body, nil
	}
	found.building.Lock()
	defer found.building.Unlock()
	body, statuses, version := l.fresh(found, settings, signer)
	if body != nil {
		return body, nil // built while this call waited
	}
	now := l.clock()
	if body, err = sign(statuses, URI(owner.Issuer, id), settings, signer, now); err != nil {
		return nil, err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	found.published = &published{body: body, version: version, keyID: signer.ID, builtAt: now, settings: settings}
	return body, nil
}

func (l *Lists) lookUp(ctx context.Context, storage logical.Storage, id string) (found *list, owner Owner, err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if err := l.load(ctx, storage); err != nil {
		return nil, Owner{}, err
	}
	if found = l.byID[id]; found != nil {
		owner = found.Owner
	}
	return found, owner, nil
}

// fresh returns the signed list if it can still be served: nothing has changed
// since, and half of its lifetime is left. Otherwise it returns what to build a
// new one from.
func (l *Lists) fresh(of *list, settings Settings, signer *keyring.Version) (body []byte, statuses *format.StatusList, version int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	p := of.published
	if p != nil && p.version == of.version && p.keyID == signer.ID && p.settings == settings && l.clock().Sub(p.builtAt) < settings.Lifetime/2 {
		return p.body, nil, of.version
	}
	return nil, of.statuses.Clone(), of.version
}

func sign(statuses *format.StatusList, uri string, settings Settings, signer *keyring.Version, now time.Time) ([]byte, error) {
	encoded, err := statuses.Encode()
	if err != nil {
		return nil, fmt.Errorf("build status list: %w", err)
	}
	signed, err := signer.Sign(format.StatusListType, &format.StatusListClaims{
		RegisteredClaims: jwt.RegisteredClaims{
			Subject:   uri,
			IssuedAt:  jwt.NewNumericDate(now),
			ExpiresAt: jwt.NewNumericDate(now.Add(settings.Lifetime)),
		},
		TTL:        int64(settings.TTL.Seconds()),
		StatusList: format.EncodedStatusList{Bits: statuses.Bits(), List: encoded},
	})
	return []byte(signed), err
}

// Tidy removes the lists on which every token has expired, and reports how
// many.
func (l *Lists) Tidy(ctx context.Context, storage logical.Storage) (removed int, err error) {
	expired, err := l.takeExpired(ctx, storage)
	if err != nil {
		return 0, err
	}
	for _, id := range expired {
		if err := l.remove(ctx, storage, id); err != nil {
			l.stale.Store(true) // what is left is read again, and removed next time
			return removed, err
		}
		removed++
	}
	return removed, nil
}

// takeExpired removes expired lists from memory, so that no token can join them
// any more, and returns their ids.
func (l *Lists) takeExpired(ctx context.Context, storage logical.Storage) ([]string, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if err := l.load(ctx, storage); err != nil {
		return nil, err
	}
	var ids []string
	for id, known := range l.byID {
		// With a margin, for revocations that are under way.
		if l.clock().Before(known.Until.Add(tidyMargin)) {
			continue
		}
		ids = append(ids, id)
		delete(l.byID, id)
		if l.current[known.Owner] == known {
			delete(l.current, known.Owner)
		}
	}
	return ids, nil
}

// remove deletes a list from the storage, itself last, so that a crash in
// between leaves what the next run finds.
func (l *Lists) remove(ctx context.Context, storage logical.Storage, id string) error {
	indexes, err := l.revocations.List(ctx, storage, id+"/")
	if err != nil {
		return err
	}
	for _, index := range indexes {
		if err := l.revocations.Delete(ctx, storage, id+"/"+index); err != nil {
			return err
		}
	}
	return l.entries.Delete(ctx, storage, id)
}
