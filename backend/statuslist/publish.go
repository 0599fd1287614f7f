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
	Lifetime time.Duration // how long a verifier may use a copy while it cannot fetch
}

// URI returns where a list is published.
func URI(issuer, id string) string { return issuer + "/status/" + id }

// published is a signed list as it is served.
type published struct {
	body      []byte
	version   int // of the list
	continues bool
	keyID     string
	builtAt   time.Time
	settings  Settings
}

// Publish returns the signed list in compact serialization, or nil if there is
// no such list, or no key left to sign it. The first request after a change
// builds it. That writes no storage, so that anybody may ask. signerOf returns
// the version of a key that signs now.
//
// The list has listSize bits from the start, so that no older copy lacks an
// index. What may still be given out reads as valid in every copy, so that a copy
// does not refuse a token that is younger than itself.
func (l *Lists) Publish(ctx context.Context, storage logical.Storage, id string, settings Settings, signerOf func(key string) (*keyring.Version, error)) ([]byte, error) {
	li, err := l.get(ctx, storage, id)
	if err != nil || li == nil {
		return nil, err
	}
	l.mu.Lock()
	stored := li.entry
	l.mu.Unlock()
	signer, err := signerOf(stored.Key)
	if err != nil || signer == nil {
		return nil, err
	}
	continues, err := l.continues(ctx, storage, stored)
	if err != nil {
		return nil, err
	}
	wanted := published{continues: continues, keyID: signer.ID, settings: settings}
	if body := l.fresh(li, wanted); body != nil {
		return body, nil
	}
	li.building.Lock()
	defer li.building.Unlock()
	if body := l.fresh(li, wanted); body != nil {
		return body, nil // built while this call waited
	}
	return l.build(li, wanted, signer)
}

// fresh returns the signed list if it can still be served: nothing has changed
// since, and half of its lifetime is left. One from the future is not served: the
// clock was wrong.
func (l *Lists) fresh(li *list, wanted published) []byte {
	l.mu.Lock()
	defer l.mu.Unlock()
	p := li.published
	if p == nil || p.version != li.version || p.continues != wanted.continues || p.keyID != wanted.keyID || p.settings != wanted.settings {
		return nil
	}
	if age := l.clock().Sub(p.builtAt); age < 0 || age >= wanted.settings.Lifetime/2 {
		return nil
	}
	return p.body
}

func (l *Lists) build(li *list, p published, signer *keyring.Version) ([]byte, error) {
	l.mu.Lock()
	stored, revoked := li.entry, li.revoked.clone()
	p.version, p.builtAt = li.version, l.clock()
	l.mu.Unlock()

	encoded, err := statuses(stored, &revoked, p.continues).Encode()
	if err != nil {
		return nil, fmt.Errorf("build status list: %w", err)
	}
	signed, err := signer.Sign(format.StatusListType, &format.StatusListClaims{
		RegisteredClaims: jwt.RegisteredClaims{
			Subject:   URI(stored.Issuer, stored.ID),
			IssuedAt:  jwt.NewNumericDate(p.builtAt),
			ExpiresAt: jwt.NewNumericDate(p.builtAt.Add(p.settings.Lifetime)),
		},
		TTL:        int64(p.settings.TTL.Seconds()),
		StatusList: format.EncodedStatusList{Bits: 1, List: encoded},
	})
	if err != nil {
		return nil, err
	}
	p.body = []byte(signed)
	l.mu.Lock()
	defer l.mu.Unlock()
	l.change(li, func() { li.published = &p })
	l.shrink()
	return p.body, nil
}

// statuses returns the bits of a list. An index that was not given out, and will
// not be, is revoked.
func statuses(of *entry, revoked *bits, continues bool) *format.StatusList {
	valid := of.reserved()
	if continues {
		valid = of.Size
	}
	all := format.NewStatusList(listSize, 1)
	for i := valid; i < listSize; i++ {
		all.Set(i, format.StatusInvalid)
	}
	revoked.each(func(i int) { all.Set(i, format.StatusInvalid) })
	return all
}
