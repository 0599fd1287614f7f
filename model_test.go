package tokens

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"hash/fnv"
	"io"
	"maps"
	"math/rand/v2"
	"net/http"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/vault/sdk/logical"

	"github.com/vault-tokens/vault-plugin-secrets-tokens/backend"
	"github.com/vault-tokens/vault-plugin-secrets-tokens/backend/store/storetest"
	"github.com/vault-tokens/vault-plugin-secrets-tokens/verify/format"
)

// The model test lets several callers do all that Vault can ask of the engine, at
// random, over a storage that fails, hides its replies, is slow and outlives its
// callers, and holds what the engine says against what it has acknowledged.
//
//	go test -run TestModel -model.time=10m
//	go test -run TestModel -model.seed=7 -model.callers=1   # the same each time
var (
	modelTime    = flag.Duration("model.time", 3*time.Second, "how long TestModel runs, with several callers")
	modelSteps   = flag.Int("model.steps", 4000, "steps of TestModel with one caller")
	modelSeed    = flag.Uint64("model.seed", 0, "seed of TestModel; 0 takes one by the time")
	modelCallers = flag.Int("model.callers", 0, "callers of TestModel; 0 runs it with one, then with six")
)

func TestModel(t *testing.T) {
	seed := *modelSeed
	if seed == 0 {
		seed = uint64(time.Now().UnixNano())
	}
	for _, callers := range []int{1, 6} {
		if *modelCallers != 0 && *modelCallers != callers {
			continue
		}
		t.Run(fmt.Sprint("callers ", callers), func(t *testing.T) {
			m := newModel(t, seed, callers == 1)
			defer func() {
				t.Logf("seed %d: %s", seed, m.figures())
				if panics := strings.Count(m.log.String(), "panicked"); panics > 0 {
					t.Errorf("%d panics: %.2000s", panics, m.log.String())
				}
			}()
			m.run(callers)
			m.settle()
		})
	}
}

const (
	modelTokens = 1500 // in the model at a time
	modelMargin = 24 * time.Hour
	// leaseEnd is how long after a JWT's expiry the end of its lease needs no entry.
	leaseEnd = 5 * time.Minute
)

// modelRoles are the roles of the model, with their caps.
var modelRoles = map[string]struct {
	tokenType, key string
	cap            int
	unleased       bool
	tracked        bool
}{
	"key":      {tokenType: "api_key"},
	"bearer":   {tokenType: "bearer"},
	"few":      {tokenType: "bearer", cap: 3},
	"some":     {tokenType: "api_key", cap: 12},
	"unleased": {tokenType: "bearer", unleased: true},
	"jwt-a":    {tokenType: "jwt", key: "a"},
	"jwt-b":    {tokenType: "jwt", key: "a"},
	"jwt-c":    {tokenType: "jwt", key: "c"},
	"jwt-free": {tokenType: "jwt", key: "c", unleased: true},
	"tracked":  {tokenType: "jwt", key: "c", tracked: true},
}

// model is what was acknowledged, and the mount that has to keep to it.
type model struct {
	t       *testing.T
	storage *modelStorage
	clock   *tickingClock
	log     *lockedBuffer
	system  *logical.StaticSystemView
	random  io.Reader
	seed    uint64
	alone   bool // there is one caller, who waits for what is done in the background

	background logical.Storage // of the work that nobody waits for

	// world is held for reading by each step, and for writing by those that Vault
	// does while nothing else is under way: restarts, and steps of the clock.
	world   sync.RWMutex
	backend *tokensBackend
	started int       // backends so far
	latest  time.Time // that the clock has been

	mu      sync.Mutex
	tokens  []*modelToken
	places  map[string]string     // token id by list and index
	copies  map[string]listCopy   // an older copy of each list
	ending  map[string][2]int     // of a key, role or entity: what ends its tokens, begun and ended
	cutoffs map[string]*cutoffs   // by entity
	count   map[string]*modelStat // by step
}

type modelStat struct{ done, failed int }

// listCopy is a list as it was fetched once.
type listCopy struct {
	started int // of the backend that served it
	list    *format.StatusList
}

// modelToken is a token that was issued. What is not certain is not held against
// the engine: an act that failed may have taken effect.
type modelToken struct {
	id, text, role, tokenType, key, entity string
	tracked                                bool
	secret                                 *logical.Secret // nil without a lease
	list, kid                              string
	index                                  int
	issued, notBefore                      time.Time

	renewing sync.Mutex // one renewal at a time

	// Under model.mu:
	early, late time.Time // it expires between these
	changing    bool      // is being renewed
	attacked    bool      // somebody has begun to revoke it, or to drop its key
	revoked     bool      // that was acknowledged
	marked      bool      // and its list has to say so
	cutOff      time.Time // what its entity was issued until then is revoked, as was acknowledged
	unsigned    bool      // somebody has begun to drop its key, in an emergency
	dropped     bool      // that was acknowledged
	expired     bool      // the clock was past its expiry once
	forgotten   bool      // and past the margin
}

func newModel(t *testing.T, seed uint64, alone bool) *model {
	m := &model{
		t:       t,
		alone:   alone,
		clock:   &tickingClock{testClock{now: time.Now().UTC().Truncate(time.Second)}},
		log:     &lockedBuffer{},
		seed:    seed,
		random:  &lockedReader{source: rand.NewChaCha8([32]byte{byte(seed), byte(seed >> 8), byte(seed >> 16), byte(seed >> 24), byte(seed >> 32)})},
		system:  &logical.StaticSystemView{DefaultLeaseTTLVal: 24 * time.Hour, MaxLeaseTTLVal: 32 * 24 * time.Hour},
		places:  map[string]string{},
		copies:  map[string]listCopy{},
		ending:  map[string][2]int{},
		cutoffs: map[string]*cutoffs{},
		count:   map[string]*modelStat{},
	}
	m.latest = m.clock.Now()
	m.storage = &modelStorage{seed: seed, times: map[string]int{}}
	m.background = m.storage
	if alone {
		m.background = &m.storage.InmemStorage // when its faults come would differ between runs
	}
	m.restart(context.Background())
	m.must(logical.UpdateOperation, "config", map[string]any{"issuer": testIssuer})
	for _, key := range []string{"a", "c"} {
		m.must(logical.CreateOperation, "keys/"+key, map[string]any{"rotation_period": "12h"})
	}
	for name, r := range modelRoles {
		settings := map[string]any{"token_type": r.tokenType, "generate_lease": !r.unleased}
		if r.tokenType == "jwt" {
			settings["key"], settings["audiences"], settings["track"] = r.key, []any{"https://api.example.com"}, r.tracked
		}
		if r.cap > 0 {
			settings["max_tokens"] = r.cap
		}
		m.must(logical.CreateOperation, "roles/"+name, settings)
	}
	return m
}

// restart gives the model a new backend on the same storage.
func (m *model) restart(ctx context.Context) {
	if m.backend != nil {
		m.backend.Cleanup(context.Background())
	}
	b, err := newBackend(ctx, &logical.BackendConfig{
		Logger:      hclog.New(&hclog.LoggerOptions{Output: m.log, Level: hclog.Error}),
		System:      m.system,
		StorageView: m.storage,
	}, m.clock.Now)
	if err != nil {
		m.t.Fatal(err)
	}
	b.engine = backend.NewEngine(b.System(), m.clock.Now, m.random) // so that ids repeat
	b.engine.Storage = m.background
	m.backend = b
	m.started++
	b.Initialize(ctx, &logical.InitializationRequest{Storage: m.storage}) // which may fail
}

// tickingClock never says the same time twice, as little as passes by itself.
type tickingClock struct{ testClock }

func (c *tickingClock) Now() time.Time {
	c.Advance(time.Nanosecond)
	return c.testClock.Now()
}

// lockedReader makes repeatable bytes.
type lockedReader struct {
	mu     sync.Mutex
	source *rand.ChaCha8
}

func (r *lockedReader) Read(p []byte) (int, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.source.Read(p)
}

// modelStorage is a storage with faults. What happens to an operation depends on
// the seed, the key, and how often there was one of its kind, so that it does not
// depend on the order of operations on several keys.
type modelStorage struct {
	logical.InmemStorage
	seed uint64
	sick atomic.Bool // faults happen

	mu     sync.Mutex
	times  map[string]int
	late   []func() // writes that failed and are still to take effect
	faults map[string]int
}

// Values of a request's context: what cancels it, and that its storage works.
type (
	cancelKey struct{}
	wellKey   struct{}
)

// fault decides what happens to an operation.
func (s *modelStorage) fault(ctx context.Context, op storetest.Op, key string) (before, after, late bool) {
	if !s.sick.Load() || ctx.Value(wellKey{}) != nil {
		return false, false, false
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	at := string(op) + " " + stable(key)
	s.times[at]++
	hash := fnv.New64a()
	fmt.Fprint(hash, s.seed, at, s.times[at])
	n := rand.New(rand.NewPCG(hash.Sum64(), s.seed))
	if s.faults == nil {
		s.faults = map[string]int{}
	}
	switch what := n.IntN(1000); {
	case what < 25:
		s.faults["refused"]++
		return true, false, false
	case what < 50:
		s.faults["reply lost"]++
		return false, true, false
	case what < 60:
		// The caller hangs up; what is detached goes on.
		if cancel, ok := ctx.Value(cancelKey{}).(context.CancelFunc); ok {
			s.faults["caller gone"]++
			cancel()
		}
	case what < 120 && (op == storetest.Put || op == storetest.Delete) && slices.ContainsFunc([]string{"list/", "revoked/", "cap/", "cutoff/", "instance/", "tidy/", "seen/"}, func(p string) bool { return strings.HasPrefix(key, p) }):
		s.faults["came late"]++
		return false, false, true
	}
	return false, false, false
}

// stable is a key without what differs between runs of one seed: times, and the
// indexes of lists, which are drawn elsewhere.
func stable(key string) string {
	switch folder, rest, _ := strings.Cut(key, "/"); folder {
	case "revoked":
		list, _, _ := strings.Cut(rest, "/")
		return folder + "/" + list
	case "cutoff":
		owner, _, _ := strings.Cut(rest, ".")
		return folder + "/" + owner
	case "cap":
		role, slot, _ := strings.Cut(rest, "/")
		_, id, _ := strings.Cut(slot, "-")
		return folder + "/" + role + "/" + id
	}
	return key
}

func (s *modelStorage) do(ctx context.Context, op storetest.Op, key string, act func(context.Context) error) error {
	before, after, late := s.fault(ctx, op, key)
	if before {
		return storetest.ErrInjected
	}
	if late {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.late = append(s.late, func() { act(context.WithoutCancel(ctx)) })
		return storetest.ErrInjected
	}
	err := act(ctx)
	if after && err == nil {
		err = storetest.ErrInjected
	}
	return err
}

// land does what was to come late.
func (s *modelStorage) land(random *rand.Rand) {
	s.mu.Lock()
	late := s.late
	s.late = nil
	s.mu.Unlock()
	random.Shuffle(len(late), func(i, j int) { late[i], late[j] = late[j], late[i] })
	for _, act := range late {
		act()
	}
}

func (s *modelStorage) Get(ctx context.Context, key string) (entry *logical.StorageEntry, err error) {
	err = s.do(ctx, storetest.Get, key, func(ctx context.Context) (err error) { entry, err = s.InmemStorage.Get(ctx, key); return err })
	return entry, err
}

func (s *modelStorage) List(ctx context.Context, prefix string) (names []string, err error) {
	err = s.do(ctx, storetest.List, prefix, func(ctx context.Context) (err error) { names, err = s.InmemStorage.List(ctx, prefix); return err })
	return names, err
}

func (s *modelStorage) Put(ctx context.Context, entry *logical.StorageEntry) error {
	return s.do(ctx, storetest.Put, entry.Key, func(ctx context.Context) error { return s.InmemStorage.Put(ctx, entry) })
}

func (s *modelStorage) Delete(ctx context.Context, key string) error {
	return s.do(ctx, storetest.Delete, key, func(ctx context.Context) error { return s.InmemStorage.Delete(ctx, key) })
}

// healthy does something without faults.
func (m *model) healthy(do func()) {
	was := m.storage.sick.Swap(false)
	defer m.storage.sick.Store(was)
	do()
}

func (m *model) must(operation logical.Operation, path string, data map[string]any) *logical.Response {
	m.t.Helper()
	resp, err := m.do(context.Background(), operation, path, data, nil)
	if err != nil {
		m.t.Fatalf("%s %s: %v", operation, path, err)
	}
	return resp
}

// do sends a request; a refusal is an error.
func (m *model) do(ctx context.Context, operation logical.Operation, path string, data map[string]any, secret *logical.Secret) (*logical.Response, error) {
	return m.doAs(ctx, "", operation, path, data, secret)
}

// doAs is do for an entity.
func (m *model) doAs(ctx context.Context, entity string, operation logical.Operation, path string, data map[string]any, secret *logical.Secret) (*logical.Response, error) {
	resp, err := m.backend.HandleRequest(ctx, &logical.Request{
		Operation: operation, Path: path, Data: data, Secret: secret, Storage: m.storage, EntityID: entity, DisplayName: "model",
	})
	if err == nil && resp.IsError() {
		err = resp.Error()
	}
	return resp, err
}

// caller is one who makes steps.
type caller struct {
	*model
	random *rand.Rand
}

// run lets callers make steps.
func (m *model) run(callers int) {
	m.storage.sick.Store(true)
	defer m.storage.sick.Store(false)
	deadline := time.Now().Add(*modelTime)
	var all sync.WaitGroup
	for n := range callers {
		c := &caller{m, rand.New(rand.NewPCG(m.seed, uint64(n)))}
		all.Go(func() {
			for step := 0; !m.t.Failed(); step++ {
				if callers == 1 && step >= *modelSteps || callers > 1 && !time.Now().Before(deadline) {
					return
				}
				c.step()
			}
		})
	}
	all.Wait()
}

func (c *caller) step() {
	steps := []struct {
		weight int
		name   string
		do     func(ctx context.Context) error
		alone  bool // nothing else is under way
		many   bool // operations of the storage
	}{
		{weight: 280, name: "issue", do: c.issue},
		{weight: 300, name: "introspect", do: c.introspect},
		{weight: 60, name: "renew", do: c.renew},
		{weight: 80, name: "revoke by lease", do: c.revokeByLease},
		{weight: 30, name: "revoke by id", do: c.revokeByID},
		{weight: 50, name: "revoke by possession", do: c.revokePossessed},
		{weight: 60, name: "status list", do: c.fetchList},
		{weight: 60, name: "introspect a batch", do: c.introspectBatch},
		{weight: 30, name: "read by id", do: c.readByID},
		{weight: 10, name: "list tokens", do: c.listTokens, many: true},
		{weight: 3, name: "revoke a role", do: c.endRole, many: true},
		{weight: 2, name: "revoke an entity", do: c.endEntity},
		{weight: 10, name: "read an entity", do: c.readEntity},
		{weight: 4, name: "tidy in the background", do: c.startTidy},
		{weight: 3, name: "cancel tidying", do: c.cancelTidy},
		{weight: 25, name: "tidy", do: c.tidy, many: true},
		{weight: 30, name: "invalidate", do: c.invalidate},
		{weight: 6, name: "rotate", do: c.rotate},
		{weight: 2, name: "rotate in an emergency", do: c.emergency},
		{weight: 10, name: "write a role", do: c.writeRole},
		{weight: 5, name: "write the configuration", do: c.writeConfig},
		{weight: 10, name: "late writes land", do: c.land},
		{weight: 12, name: "clock", do: c.stepClock, alone: true},
		{weight: 4, name: "restart", do: c.restartAll, alone: true},
		{weight: 1, name: "check all", do: c.checkAll, alone: true},
	}
	total := 0
	for _, s := range steps {
		total += s.weight
	}
	n := c.random.IntN(total)
	for _, s := range steps {
		if n -= s.weight; n >= 0 {
			continue
		}
		if s.alone {
			c.world.Lock()
			defer c.world.Unlock()
		} else {
			c.world.RLock()
			defer c.world.RUnlock()
		}
		ctx, cancel := context.WithCancel(context.Background())
		defer cancel()
		if !s.many { // in an order that differs between runs
			ctx = context.WithValue(ctx, cancelKey{}, cancel)
		}
		if c.random.IntN(50) == 0 {
			cancel()
		}
		if s.many && c.random.IntN(4) != 0 {
			ctx = context.WithValue(ctx, wellKey{}, true) // else one of them always fails
		}
		err := s.do(ctx)
		c.mu.Lock()
		defer c.mu.Unlock()
		if c.count[s.name] == nil {
			c.count[s.name] = &modelStat{}
		}
		c.count[s.name].done++
		if err != nil {
			c.count[s.name].failed++
		}
		return
	}
}

// pick returns a token, or nil.
func (c *caller) pick(fits func(*modelToken) bool) *modelToken {
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.tokens) == 0 {
		return nil
	}
	from := c.random.IntN(len(c.tokens))
	for i := range c.tokens {
		if token := c.tokens[(from+i)%len(c.tokens)]; fits == nil || fits(token) {
			return token
		}
	}
	return nil
}

func (c *caller) issue(ctx context.Context) error {
	names := slices.Sorted(maps.Keys(modelRoles))
	name := names[c.random.IntN(len(names))]
	r, entity := modelRoles[name], modelEntities[c.random.IntN(len(modelEntities))]
	c.mu.Lock()
	before := c.endings(r.key, name, entity)
	c.mu.Unlock()
	data := map[string]any{}
	if c.random.IntN(3) == 0 {
		data["ttl"] = 1 + c.random.IntN(600)
	}
	resp, err := c.doAs(ctx, entity, logical.UpdateOperation, "creds/"+name, data, nil)
	if err != nil {
		return err
	}
	token := &modelToken{
		id: resp.Data["token_id"].(string), text: resp.Data["token"].(string),
		role: name, tokenType: r.tokenType, key: r.key, tracked: r.tracked, entity: entity, secret: resp.Secret,
		issued: c.clock.Now().Truncate(time.Second),
	}
	expires, err := time.Parse(time.RFC3339, resp.Data["expires_at"].(string))
	if err != nil {
		c.t.Error(err)
	}
	token.early, token.late = expires, expires
	if !c.clock.Now().Before(expires) {
		c.t.Errorf("a token of %s was issued that has expired", name)
	}
	if token.tokenType == "jwt" {
		c.readClaims(token)
	} else {
		c.readPlace(token)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	for i, after := range c.endings(r.key, name, entity) {
		if before[i] != after || after[0] != after[1] { // issued before or after the end
			token.attacked, token.unsigned = true, token.unsigned || i == 0
		}
	}
	c.checkCutOff(token)
	c.add(token)
	if r.cap > 0 {
		live := 0
		for _, other := range c.tokens {
			if other.role == name && !other.attacked && !other.expired {
				live++
			}
		}
		if live > r.cap {
			c.t.Errorf("%d tokens of %s are live, above its cap of %d", live, name, r.cap)
		}
	}
	return nil
}

// add takes a token into the model, in place of one that has expired, or any; c.mu
// is held. Those of capped roles stay while they count.
func (c *caller) add(token *modelToken) {
	if token.list != "" {
		place := fmt.Sprint(token.list, "/", token.index)
		if other, twice := c.places[place]; twice {
			c.t.Errorf("%s was given out to %s and %s", place, other, token.id)
		}
		c.places[place] = token.id
		if older, ok := c.copies[token.list]; ok && older.started == c.started {
			if status, ok := older.list.Get(token.index); !ok || status != format.StatusValid {
				c.t.Errorf("a copy of its list that is older than token %s refuses it", token.id)
			}
		}
	}
	if len(c.tokens) < modelTokens {
		c.tokens = append(c.tokens, token)
		return
	}
	for range 10 {
		at := c.random.IntN(len(c.tokens))
		if old := c.tokens[at]; modelRoles[old.role].cap == 0 || old.expired || old.attacked {
			c.tokens[at] = token
			return
		}
	}
	c.tokens = append(c.tokens, token)
}

func (c *caller) readClaims(token *modelToken) {
	raw, err := decodePayload(token.text)
	var claims format.Claims
	if err != nil || json.Unmarshal(raw, &claims) != nil {
		c.t.Errorf("the claims of a JWT cannot be read: %v", err)
		return
	}
	uri := claims.Status.StatusList.URI
	token.list, token.index = uri[strings.LastIndexByte(uri, '/')+1:], claims.Status.StatusList.Index
	var header struct {
		KID string `json:"kid"`
	}
	raw, err = base64.RawURLEncoding.DecodeString(token.text[:strings.IndexByte(token.text, '.')])
	if err != nil || json.Unmarshal(raw, &header) != nil {
		c.t.Errorf("the header of a JWT cannot be read: %v", err)
	}
	token.kid = header.KID
	token.notBefore = time.Unix(claims.NotBefore, 0)
}

// expectation is what introspection has to say of a token.
type expectation int

const (
	whatever expectation = iota
	active
	inactive
)

// expect is what is certain of a token; c.mu is held.
func (c *caller) expect(token *modelToken) expectation {
	now := c.clock.Now()
	lost := token.forgotten || token.tokenType == "jwt" && token.expired // its key may be gone
	switch {
	case token.dropped, (token.revoked || !token.cutOff.IsZero()) && !(token.forgotten && token.tokenType == "jwt"):
		return inactive
	case !now.Before(token.late) && !token.changing:
		return inactive
	case token.attacked || token.changing || lost:
		return whatever
	case now.Before(token.early) && !now.Before(token.notBefore):
		return active
	}
	return whatever
}

func (c *caller) introspect(ctx context.Context) error {
	if token := c.pick(nil); token != nil {
		return c.introspectToken(ctx, token)
	}
	return nil
}

func (c *caller) introspectToken(ctx context.Context, token *modelToken) error {
	c.mu.Lock()
	before := c.expect(token)
	early, late := token.early, token.late
	c.mu.Unlock()
	resp, err := c.do(ctx, logical.UpdateOperation, "introspect", map[string]any{"token": token.text}, nil)
	if err != nil {
		return err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.hold(token, before, resp.Data["active"].(bool), "introspected")
	// Whether a renewal that failed has taken effect.
	if exp, ok := resp.Data["exp"].(int64); ok && !token.changing && token.early.Equal(early) && token.late.Equal(late) {
		token.early, token.late = time.Unix(exp, 0), time.Unix(exp, 0)
	}
	return nil
}

// hold holds what is said of a token against what was certain before, and is still;
// c.mu is held.
func (c *caller) hold(token *modelToken, before expectation, isActive bool, how string) {
	switch {
	case isActive && before == inactive:
		c.t.Errorf("%s, active: %s", how, c.describe(token))
	case !isActive && before == active && c.expect(token) == active:
		c.t.Errorf("%s, inactive: %s", how, c.describe(token))
	}
}

func (c *caller) describe(token *modelToken) string {
	return fmt.Sprintf("token %s of %s and %s, list %s/%d: issued %s, expires %s to %s, now %s, attacked %v, revoked %v, marked %v, cut off %s, expired once %v, forgotten %v, backend %d",
		token.id, token.role, token.entity, token.list, token.index, token.issued.Format(time.RFC3339), token.early.Format(time.RFC3339), token.late.Format(time.RFC3339), c.clock.Now().Format(time.RFC3339),
		token.attacked, token.revoked, token.marked, token.cutOff.Format(time.RFC3339), token.expired, token.forgotten, c.started)
}

func (c *caller) renew(ctx context.Context) error {
	token := c.pick(func(t *modelToken) bool { return t.secret != nil && t.tokenType != "jwt" })
	if token == nil {
		return nil
	}
	token.renewing.Lock()
	defer token.renewing.Unlock()
	c.mu.Lock()
	token.changing = true
	revoked, expired := token.revoked || !token.cutOff.IsZero(), !c.clock.Now().Before(token.late)
	c.mu.Unlock()
	secret := *token.secret
	secret.Increment = time.Duration(c.random.IntN(7200)) * time.Second
	resp, err := c.do(ctx, logical.RenewOperation, "", nil, &secret)
	c.mu.Lock()
	defer c.mu.Unlock()
	token.changing = false
	var refused interface{ Code() int }
	switch {
	case err == nil && (revoked || expired):
		c.t.Errorf("renewed: %s", c.describe(token))
	case err == nil:
		token.early = c.clock.Now().Truncate(time.Second).Add(resp.Secret.TTL)
		token.late = token.early
	case errors.As(err, &refused):
	default: // it may have taken effect
		if now := c.clock.Now(); now.Before(token.early) {
			token.early = now
		}
		token.late = token.late.Add(33 * 24 * time.Hour)
	}
	return err
}

// attack notes that somebody has begun to revoke a token.
func (c *caller) attack(token *modelToken) (untouched bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	untouched = c.expect(token) == active
	token.attacked = true
	return untouched
}

// acknowledge notes that a token was revoked, of all that its id or its lease leads
// to. A JWT that has just expired then needs nothing, as it is its lease's own end.
func (c *caller) acknowledge(token *modelToken) {
	past := c.clock.Now().Sub(token.late)
	if token.tokenType == "jwt" && past >= 0 && past < leaseEnd {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	token.revoked = true
	token.mark()
}

// mark notes that the list of a token has to say that it is revoked: of one with a
// record, if it was live. The model's lock is held.
func (t *modelToken) mark() {
	t.marked = t.marked || !t.expired || t.tokenType == "jwt" && !t.tracked
}

// recorded reports whether the token has a record.
func (t *modelToken) recorded() bool { return t.tokenType != "jwt" || t.tracked }

func (c *caller) revokeByLease(ctx context.Context) error {
	token := c.pick(func(t *modelToken) bool { return t.secret != nil })
	if token == nil {
		return nil
	}
	c.attack(token)
	_, err := c.do(ctx, logical.RevokeOperation, "", nil, token.secret)
	if err == nil {
		c.acknowledge(token)
	}
	return err
}

func (c *caller) revokeByID(ctx context.Context) error {
	token := c.pick((*modelToken).recorded)
	if token == nil {
		return nil
	}
	untouched := c.attack(token)
	resp, err := c.do(ctx, logical.DeleteOperation, "tokens/"+token.id, nil, nil)
	if err != nil {
		return err
	}
	nothing := resp != nil && len(resp.Warnings) > 0
	if nothing && untouched {
		c.t.Errorf("nothing was revoked of %s", c.describe(token))
	}
	if !nothing || !token.tracked { // without a record there is no opaque token
		c.acknowledge(token)
	}
	return nil
}

func (c *caller) revokePossessed(ctx context.Context) error {
	token := c.pick(nil)
	if token == nil {
		return nil
	}
	c.attack(token)
	path := []string{"revoke", "oauth2/revoke"}[c.random.IntN(2)]
	resp, err := c.do(ctx, logical.UpdateOperation, path, map[string]any{"token": token.text}, nil)
	if err != nil {
		return err
	}
	if path == "oauth2/revoke" && resp.Data[logical.HTTPStatusCode] != http.StatusOK {
		return fmt.Errorf("%s is answered with %v", path, resp.Data[logical.HTTPStatusCode])
	}
	signed := true
	if token.tokenType == "jwt" {
		version, err := c.backend.engine.Keys.Stored(context.Background(), &c.storage.InmemStorage, token.kid)
		signed = err == nil && version != nil
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if signed && !token.unsigned {
		token.revoked = true
		token.mark()
	} else {
		token.dropped = true // with its key, and its list need not say so
	}
	return nil
}

func (c *caller) fetchList(ctx context.Context) error {
	token := c.pick(func(t *modelToken) bool { return t.list != "" })
	if token == nil {
		return nil
	}
	return c.fetch(ctx, token.list)
}

// fetch holds all tokens of a list against it, as it is published.
func (c *caller) fetch(ctx context.Context, id string) error {
	c.mu.Lock()
	before := map[*modelToken]expectation{}
	for _, token := range c.tokens {
		if token.list != id {
			continue
		}
		switch {
		case c.expect(token) == active:
			before[token] = active
		case token.marked && !token.forgotten:
			before[token] = inactive
		}
	}
	c.mu.Unlock()
	resp, err := c.do(ctx, logical.ReadOperation, "status/"+id, nil, nil)
	if err != nil {
		return err
	}
	var list *format.StatusList
	if resp != nil {
		list = c.decode(resp.Data[logical.HTTPRawBody].([]byte))
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	for token, was := range before {
		good := false
		if list != nil {
			status, ok := list.Get(token.index)
			good = ok && status == format.StatusValid
		}
		if good && was == inactive {
			c.t.Errorf("good on its list: %s", c.describe(token))
		}
		if !good && was == active && c.expect(token) == active {
			c.t.Errorf("not good on its list: %s", c.describe(token))
		}
	}
	if list != nil && (c.copies[id].list == nil || c.random.IntN(5) == 0) {
		c.copies[id] = listCopy{c.started, list}
	}
	return nil
}

func (c *caller) decode(body []byte) *format.StatusList {
	raw, err := decodePayload(string(body))
	var claims format.StatusListClaims
	if err == nil {
		err = json.Unmarshal(raw, &claims)
	}
	if err != nil {
		c.t.Errorf("a published list cannot be read: %v", err)
		return nil
	}
	if now := c.clock.Now(); claims.IssuedAt.After(now) || !claims.ExpiresAt.After(now) {
		c.t.Errorf("at %s a list of %s to %s is published", now, claims.IssuedAt, claims.ExpiresAt)
	}
	list, err := format.DecodeStatusList(claims.StatusList.Bits, claims.StatusList.List, 1<<20)
	if err != nil {
		c.t.Errorf("a published list cannot be read: %v", err)
		return nil
	}
	return list
}

func decodePayload(jws string) ([]byte, error) {
	parts := strings.Split(jws, ".")
	if len(parts) != 3 {
		return nil, errors.New("no JWS")
	}
	return base64.RawURLEncoding.DecodeString(parts[1])
}

func (c *caller) tidy(ctx context.Context) error {
	_, err := c.do(ctx, logical.RollbackOperation, "", nil, nil)
	return err
}

// invalidate says of keys of the storage that another node has changed them.
func (c *caller) invalidate(ctx context.Context) error {
	prefixes := []string{"list/", "revoked/", "token/", "cap/", "key/", "signed/", "keyuse/", "role/", "config/", "instance/", "tidy/", "seen/", "cutoff/"}
	prefix := prefixes[c.random.IntN(len(prefixes))]
	keys, err := logical.CollectKeysWithPrefix(ctx, &c.storage.InmemStorage, prefix)
	if err != nil || len(keys) == 0 {
		return err
	}
	for range 1 + c.random.IntN(3) {
		c.backend.InvalidateKey(ctx, keys[c.random.IntN(len(keys))])
	}
	return nil
}

func (c *caller) rotate(ctx context.Context) error {
	_, err := c.do(ctx, logical.UpdateOperation, "keys/"+[]string{"a", "c", "default"}[c.random.IntN(3)]+"/rotate", map[string]any{"force": true}, nil)
	return err
}

func (c *caller) emergency(ctx context.Context) error {
	key := []string{"a", "c", "default"}[c.random.IntN(3)] // default signs lists only
	return c.end("key "+key, func(t *modelToken) bool { return t.key == key }, func(gone []*modelToken) error {
		c.mu.Lock()
		for _, token := range gone {
			token.unsigned = true
		}
		c.mu.Unlock()
		_, err := c.do(ctx, logical.UpdateOperation, "keys/"+key+"/rotate-emergency", nil, nil)
		return err
	}, func(token *modelToken) { token.dropped = true })
}

func (c *caller) writeRole(ctx context.Context) error {
	names := slices.Sorted(maps.Keys(modelRoles))
	_, err := c.do(ctx, logical.UpdateOperation, "roles/"+names[c.random.IntN(len(names))], map[string]any{"ttl": 60 + c.random.IntN(7200)}, nil)
	return err
}

func (c *caller) writeConfig(ctx context.Context) error {
	_, err := c.do(ctx, logical.UpdateOperation, "config", map[string]any{"status_list_ttl": 5 + c.random.IntN(20)}, nil)
	return err
}

func (c *caller) land(context.Context) error {
	c.storage.land(c.random)
	return nil
}

// stepClock lets time pass, or puts the clock wrong, or right.
func (c *caller) stepClock(context.Context) error {
	steps := []time.Duration{
		time.Second, 20 * time.Second, time.Minute, 3 * time.Minute, 10 * time.Minute, time.Hour, 6 * time.Hour,
		-time.Second, -time.Minute, -10 * time.Minute, -2 * time.Hour, 20 * time.Hour, -19 * time.Hour,
	}
	c.moveClock(steps[c.random.IntN(len(steps))])
	return nil
}

func (m *model) moveClock(step time.Duration) {
	m.clock.Advance(step)
	m.mu.Lock()
	defer m.mu.Unlock()
	now := m.clock.Now()
	if now.After(m.latest) {
		m.latest = now
	}
	for _, token := range m.tokens {
		token.expired = token.expired || !now.Before(token.early)
		token.forgotten = token.forgotten || !now.Before(token.early.Add(modelMargin))
	}
}

func (c *caller) restartAll(ctx context.Context) error {
	c.restart(ctx)
	return nil
}

// checkAll holds every token against what introspection and its list say, on a
// storage that works, and again after a restart.
func (c *caller) checkAll(context.Context) error {
	c.healthy(func() {
		for range 2 {
			lists := map[string]bool{}
			for _, token := range slices.Clone(c.tokens) {
				if err := c.introspectToken(context.Background(), token); err != nil {
					c.t.Errorf("on a storage that works: %v", err)
				}
				if token.list != "" {
					lists[token.list] = true
				}
			}
			for _, entity := range modelEntities {
				if err := c.readCutOff(context.Background(), entity); err != nil {
					c.t.Errorf("on a storage that works: %v", err)
				}
			}
			for list := range lists {
				if err := c.fetch(context.Background(), list); err != nil {
					c.t.Errorf("on a storage that works: %v", err)
				}
			}
			c.restart(context.Background())
		}
	})
	return nil
}

// settle checks, when all is still, what was to hold, and that caps can be used in
// full: no more tokens and no fewer than they allow.
func (m *model) settle() {
	c := &caller{m, rand.New(rand.NewPCG(m.seed, 99))}
	c.land(context.Background())
	c.checkAll(context.Background())
	// The next pass of tidying finds what faults have left. A token that expired, and
	// lives again since the clock was put back, has given its place away.
	m.moveClock(13*time.Hour + m.latest.Sub(m.clock.Now()))
	for range 3 {
		if err := c.tidy(context.Background()); err != nil {
			m.t.Errorf("tidying a storage that works: %v", err)
		}
	}
	for name, r := range modelRoles {
		if r.cap > 0 {
			live, err := c.list(context.Background(), map[string]any{"role": name})
			if err != nil {
				m.t.Fatal(err)
			}
			m.useCap(name, r.cap, len(live))
			if err := c.endRoleNamed(context.Background(), name); err != nil {
				m.t.Error(err)
			}
			m.useCap(name, r.cap, 0)
		}
	}
	c.endEntities()
	c.checkAll(context.Background())
	if len(m.tokens) == 0 {
		m.t.Error("the test shows nothing")
	}
}

// useCap issues tokens of a role until that is refused: no more than its cap allows,
// with those that live, and no fewer.
func (m *model) useCap(role string, most, live int) {
	issued := 0
	for ; issued <= most; issued++ {
		if _, err := m.do(context.Background(), logical.ReadOperation, "creds/"+role, nil, nil); err != nil {
			break
		}
	}
	if issued+live != most {
		m.t.Errorf("%d tokens of %s live, and %d could be issued, of %d", live, role, issued, most)
	}
}

// figures says what was done.
func (m *model) figures() string {
	m.mu.Lock()
	defer m.mu.Unlock()
	var b strings.Builder
	total, failed := 0, 0
	for _, name := range slices.Sorted(maps.Keys(m.count)) {
		stat := m.count[name]
		total, failed = total+stat.done, failed+stat.failed
		fmt.Fprintf(&b, ", %s %d (%d failed)", name, stat.done, stat.failed)
	}
	revoked := 0
	for _, name := range []string{"revoke by lease", "revoke by id", "revoke by possession"} {
		if stat := m.count[name]; stat != nil {
			revoked += stat.done - stat.failed
		}
	}
	m.storage.mu.Lock()
	defer m.storage.mu.Unlock()
	return fmt.Sprintf("%d steps (%d failed), %d revocations acknowledged, faults %v, %d places, %d backends%s",
		total, failed, revoked, m.storage.faults, len(m.places), m.started, b.String())
}
