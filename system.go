package tokens

import (
	"sync/atomic"
	"time"

	"github.com/hashicorp/vault/sdk/helper/consts"
	"github.com/hashicorp/vault/sdk/logical"
)

// systemCacheTime is how long an answer of Vault's system view is cached.
const systemCacheTime = time.Second

// cachedSystem caches values that every request needs and that seldom change.
// Each lookup is a round trip between the plugin's process and Vault's, like a
// storage read.
//
// Vault still clips every lease itself, so a maximum that was lowered within the
// last second cannot keep a leased token alive.
type cachedSystem struct {
	logical.SystemView
	replication timed[consts.ReplicationState]
	maxTTL      timed[time.Duration]
	defaultTTL  timed[time.Duration]
	local       timed[bool]
}

func newCachedSystem(system logical.SystemView, clock func() time.Time) *cachedSystem {
	return &cachedSystem{
		SystemView:  system,
		replication: timed[consts.ReplicationState]{ask: system.ReplicationState, clock: clock},
		maxTTL:      timed[time.Duration]{ask: system.MaxLeaseTTL, clock: clock},
		defaultTTL:  timed[time.Duration]{ask: system.DefaultLeaseTTL, clock: clock},
		local:       timed[bool]{ask: system.LocalMount, clock: clock},
	}
}

// ReplicationState implements logical.SystemView.
func (s *cachedSystem) ReplicationState() consts.ReplicationState { return s.replication.get() }

// MaxLeaseTTL implements logical.SystemView.
func (s *cachedSystem) MaxLeaseTTL() time.Duration { return s.maxTTL.get() }

// DefaultLeaseTTL implements logical.SystemView.
func (s *cachedSystem) DefaultLeaseTTL() time.Duration { return s.defaultTTL.get() }

// LocalMount implements logical.SystemView. The framework asks for it before each
// request that is forwarded from a secondary cluster, so nearly before each.
func (s *cachedSystem) LocalMount() bool { return s.local.get() }

// timed is an answer that is asked for anew when it is older than
// systemCacheTime.
type timed[V any] struct {
	ask   func() V
	clock func() time.Time
	last  atomic.Pointer[answer[V]]
}

type answer[V any] struct {
	value V
	at    time.Time
}

func (t *timed[V]) get() V {
	now := t.clock()
	if last := t.last.Load(); last != nil && now.Sub(last.at) < systemCacheTime && !now.Before(last.at) {
		return last.value
	}
	value := t.ask()
	t.last.Store(&answer[V]{value, now})
	return value
}
