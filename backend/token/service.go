// Package token issues, renews, verifies and revokes tokens of every kind.
package token

import (
	"context"
	"crypto/sha256"
	"errors"
	"io"
	"slices"
	"strings"
	"time"

	lru "github.com/hashicorp/golang-lru/v2"
	"github.com/hashicorp/vault/sdk/logical"

	"github.com/vault-tokens/vault-plugin-secrets-tokens/backend/config"
	"github.com/vault-tokens/vault-plugin-secrets-tokens/backend/keyring"
	"github.com/vault-tokens/vault-plugin-secrets-tokens/backend/role"
	"github.com/vault-tokens/vault-plugin-secrets-tokens/backend/statuslist"
	"github.com/vault-tokens/vault-plugin-secrets-tokens/backend/store"
	"github.com/vault-tokens/vault-plugin-secrets-tokens/verify/format"
)

const rolePrefix = "role/"

const (
	cachedRoles      = 1 << 12 // bounds the roles in memory
	cachedSignatures = 1 << 14 // bounds the verified JWTs in memory; one takes about 1 KiB, at most some 20
)

// Service is everything behind the doors of one mount.
type Service struct {
	Config *config.Store
	Roles  *store.Store[role.Role]
	Keys   *keyring.Keyring
	Lists  *statuslist.Lists

	records    *records
	signatures *lru.Cache[[sha256.Size]byte, signature] // good ones, by the JWT's hash
	system     logical.SystemView
	clock      func() time.Time
	random     io.Reader
}

// NewService returns the service of a mount. The clock decides what has
// expired; random is where ids and secrets come from.
func NewService(system logical.SystemView, clock func() time.Time, random io.Reader) *Service {
	signatures, err := lru.New[[sha256.Size]byte, signature](cachedSignatures)
	if err != nil {
		panic(err) // a size below one is a mistake in the program
	}
	return &Service{
		Config:  config.NewStore(),
		Roles:   store.New(store.Entries[role.Role]{Prefix: rolePrefix}, cachedRoles),
		Keys:    keyring.New(clock),
		Lists:   statuslist.New(clock, random),
		records: newRecords(clock),

		signatures: signatures,
		system:     system,
		clock:      clock,
		random:     random,
	}
}

// Invalidate drops what is cached of a storage key that changed elsewhere.
func (s *Service) Invalidate(key string) {
	_ = s.Config.Invalidate(key) ||
		s.Roles.Invalidate(key) ||
		s.Keys.Invalidate(key) ||
		s.Lists.Invalidate(key) ||
		s.records.invalidate(key)
}

// Rotate rotates a signing key; in an emergency, it drops all that the key has
// signed. A retired version stays published for the status lists it signed.
func (s *Service) Rotate(ctx context.Context, storage logical.Storage, key string, emergency bool) (*keyring.Rotation, error) {
	if emergency {
		return s.Keys.EmergencyRotate(ctx, storage, key)
	}
	config, err := s.Config.Get(ctx, storage)
	if err != nil {
		return nil, err
	}
	return s.Keys.Rotate(ctx, storage, key, config.StatusListLifetime)
}

// StatusList returns a signed status list, nil if there is none of this id, and
// for how long it may be cached.
func (s *Service) StatusList(ctx context.Context, storage logical.Storage, id string) ([]byte, time.Duration, error) {
	config, err := s.Config.Get(ctx, storage)
	if err != nil {
		return nil, 0, err
	}
	settings := statuslist.Settings{TTL: config.StatusListTTL, Lifetime: config.StatusListLifetime}
	body, err := s.Lists.Publish(ctx, storage, id, settings, func(name string) (*keyring.Version, error) {
		key, err := s.Keys.Get(ctx, storage, name)
		if err != nil || key == nil {
			return nil, err
		}
		return key.Signing()
	})
	return body, config.StatusListTTL, err
}

// Maintained tells what a run of Maintain did.
type Maintained struct {
	Expired   []*Revoked // tokens that had expired without a lease to say so
	Lists     int        // on which every token had expired, removed
	Rotations []*keyring.Rotation
}

// Maintain does what time alone asks for: it rotates keys, and removes what
// expired tokens leave. Each turn looks at some of the records.
func (s *Service) Maintain(ctx context.Context, storage logical.Storage, turn int) (*Maintained, error) {
	config, err := s.Config.Get(ctx, storage)
	if err != nil {
		return nil, err
	}
	done := &Maintained{}
	var errRotate, errLists, errRecords error
	done.Rotations, errRotate = s.Keys.RotateDue(ctx, storage, config.StatusListLifetime)
	done.Lists, errLists = s.Lists.Tidy(ctx, storage)
	done.Expired, errRecords = s.tidyRecords(ctx, storage, turn)
	return done, errors.Join(errRotate, errLists, errRecords)
}

// Get returns the record of an opaque token by its id, or nil if there is
// none that is live.
func (s *Service) Get(ctx context.Context, storage logical.Storage, id string) (*Record, error) {
	if !format.ValidID(id) {
		return nil, nil
	}
	record, err := s.records.Get(ctx, storage, id)
	if err != nil || record == nil || !record.Live(s.clock()) {
		return nil, err
	}
	return record, nil
}

// List returns up to limit ids of opaque tokens, in a stable order, that come
// after the given one ("" for the first page), and whether there are more.
func (s *Service) List(ctx context.Context, storage logical.Storage, after string, limit int) (ids []string, more bool, err error) {
	first := 0
	if after != "" {
		first = strings.Index(shards, shardOf(after))
	}
	for i := first; i < len(shards); i++ {
		shard, err := s.records.List(ctx, storage, shards[i:i+1]+"/")
		if err != nil {
			return nil, false, err
		}
		slices.Sort(shard)
		if i == first && after != "" {
			from, found := slices.BinarySearch(shard, after)
			if found {
				from++
			}
			shard = shard[from:]
		}
		if room := limit - len(ids); len(shard) > room {
			return append(ids, shard[:room]...), true, nil
		}
		ids = append(ids, shard...)
	}
	return ids, false, nil
}

// tidyRecords removes the records of tokens that have expired, of one shard
// each turn, and reports which.
func (s *Service) tidyRecords(ctx context.Context, storage logical.Storage, turn int) (expired []*Revoked, err error) {
	shard := shards[turn%len(shards)]
	err = s.records.eachIn(ctx, storage, string(shard), func(found *Record) error {
		if found.Live(s.clock()) {
			return nil
		}
		// Again under the lock: the token may just have been renewed.
		defer s.records.Lock(found.ID)()
		record, err := s.records.Read(ctx, storage, found.ID)
		if err != nil || record == nil || record.Live(s.clock()) {
			return err
		}
		if err := s.records.remove(ctx, storage, record); err != nil {
			return err
		}
		expired = append(expired, record.ended(s.clock()))
		return nil
	})
	return expired, err
}
