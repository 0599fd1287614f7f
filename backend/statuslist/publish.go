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

	// Of the lists of opaque tokens, which name neither: the issuer that the mount
	// has now, "" if it has none, and the key that signs.
	Issuer string
	Key    string
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
// no such list, no key left to sign it, or no issuer that it could name. The first request after a change
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
	owner := settings.owner(stored.Owner)
	if owner.Issuer == "" {
		return nil, nil
	}
	signer, err := signerOf(owner.Key)
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

// owner returns the key that signs a list and the issuer that it is of.
func (s Settings) owner(of Owner) Owner {
	if of.Lifetime != "" {
		of.Key, of.Issuer = s.Key, s.Issuer
	}
	return of
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
	p.version, p.builtAt = li.version, l.clock()
	now := list{entry: li.entry, revoked: li.revoked.clone()}
	l.mu.Unlock()

	encoded, err := now.statuses(p.continues).Encode()
	if err != nil {
		return nil, fmt.Errorf("build status list: %w", err)
	}
	signed, err := signer.Sign(format.StatusListType, &format.StatusListClaims{
		RegisteredClaims: jwt.RegisteredClaims{
			Subject:   URI(p.settings.owner(now.entry.Owner).Issuer, now.entry.ID),
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
func (li *list) statuses(continues bool) *format.StatusList {
	valid := li.entry.reserved()
	if continues {
		valid = li.entry.Size
	}
	all := format.NewStatusList(listSize, 1)
	for i := valid; i < listSize; i++ {
		all.Set(i, format.StatusInvalid)
	}
	li.revoked.bits.each(func(i int) { all.Set(i, format.StatusInvalid) })
	from := 0
	for at, b := range li.entry.Blocks {
		if at < li.revoked.roles[li.entry.Roles[b.role]].blocks {
			for i := from; i < from+b.size; i++ {
				all.Set(i, format.StatusInvalid)
			}
		}
		from += b.size
	}
	return all
}
