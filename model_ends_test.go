package tokens

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/hashicorp/vault/sdk/logical"
)

// modelEntities ask for the tokens of the model; "" is a Vault token without entity.
var modelEntities = []string{"", "entity-1", "entity-2", "entity-3"}

// cutoffs is until when an entity's tokens are revoked.
type cutoffs struct {
	acknowledged time.Time
	possible     time.Time // by what has failed, too
}

func (m *model) cutoffsOf(entity string) *cutoffs {
	if m.cutoffs[entity] == nil {
		m.cutoffs[entity] = &cutoffs{}
	}
	return m.cutoffs[entity]
}

// endings returns what has begun and ended that ends all tokens like one; m.mu is held.
func (m *model) endings(key, role, entity string) [3][2]int {
	return [3][2]int{m.ending["key "+key], m.ending["role "+role], m.ending["entity "+entity]}
}

// end does what ends all tokens of a kind that were issued before. What is issued
// meanwhile may be dead as well.
func (c *caller) end(what string, fits func(*modelToken) bool, act func(gone []*modelToken) error, acknowledged func(*modelToken)) error {
	c.mu.Lock()
	n := c.ending[what]
	c.ending[what] = [2]int{n[0] + 1, n[1]}
	var gone []*modelToken
	for _, token := range c.tokens {
		if fits(token) {
			token.attacked = true
			gone = append(gone, token)
		}
	}
	c.mu.Unlock()
	err := act(gone)
	c.mu.Lock()
	defer c.mu.Unlock()
	n = c.ending[what]
	c.ending[what] = [2]int{n[0], n[1] + 1}
	if err != nil {
		return err
	}
	for _, token := range gone {
		acknowledged(token)
	}
	return nil
}

func (c *caller) endRole(ctx context.Context) error {
	names := slices.Sorted(maps.Keys(modelRoles))
	defer c.finishTidying()
	return c.endRoleNamed(ctx, names[c.random.IntN(len(names))])
}

func (c *caller) endRoleNamed(ctx context.Context, name string) error {
	return c.end("role "+name, func(t *modelToken) bool { return t.role == name }, func([]*modelToken) error {
		_, err := c.do(ctx, logical.UpdateOperation, "roles/"+name+"/revoke", nil, nil)
		return err
	}, func(token *modelToken) { token.revoked, token.marked = true, true })
}

func (c *caller) endEntity(ctx context.Context) error {
	defer c.finishTidying()
	return c.endEntityNamed(ctx, modelEntities[1+c.random.IntN(len(modelEntities)-1)])
}

func (c *caller) endEntityNamed(ctx context.Context, entity string) error {
	var at time.Time
	return c.end("entity "+entity, func(t *modelToken) bool { return t.entity == entity }, func([]*modelToken) error {
		resp, err := c.do(ctx, logical.UpdateOperation, "entities/"+entity+"/revoke", nil, nil)
		c.mu.Lock()
		defer c.mu.Unlock()
		cut := c.cutoffsOf(entity)
		if err != nil { // it may be in effect, by a clock that follows issues for so long
			cut.possible = later(cut.possible, c.clock.Now().Add(leaseEnd))
			return err
		}
		at = c.timeIn(resp, "revoked_at")
		cut.acknowledged, cut.possible = later(cut.acknowledged, at), later(cut.possible, at)
		return nil
	}, func(token *modelToken) {
		if !token.issued.After(at) { // else the clock was wrong
			token.cutOff = later(token.cutOff, at)
		}
	})
}

func later(a, b time.Time) time.Time {
	if b.After(a) {
		return b
	}
	return a
}

func (m *model) timeIn(resp *logical.Response, field string) time.Time {
	at, err := time.Parse(time.RFC3339, resp.Data[field].(string))
	if err != nil {
		m.t.Error(err)
	}
	return at
}

// checkCutOff holds a new token against the cut-offs of its entity; c.mu is held.
func (c *caller) checkCutOff(token *modelToken) {
	cut := c.cutoffsOf(token.entity)
	if !token.attacked && !token.issued.After(cut.acknowledged) && c.latest.Before(cut.acknowledged.Add(modelMargin)) {
		c.t.Errorf("issued until %s, when its entity is cut off: %s", cut.acknowledged, c.describe(token))
	}
	if !token.issued.After(cut.possible) {
		token.attacked = true
	}
}

func (c *caller) readEntity(ctx context.Context) error {
	return c.readCutOff(ctx, modelEntities[1+c.random.IntN(len(modelEntities)-1)])
}

// readCutOff holds what is said of an entity's cut-off against what is known. Once it
// is tidied, lists say of each token with a record that it is revoked.
func (c *caller) readCutOff(ctx context.Context, entity string) error {
	if entity == "" {
		return nil
	}
	c.mu.Lock()
	acknowledged, latest := c.cutoffsOf(entity).acknowledged, c.latest
	var gone []*modelToken
	for _, token := range c.tokens {
		if token.entity == entity && token.recorded() && !token.cutOff.IsZero() {
			gone = append(gone, token)
		}
	}
	c.mu.Unlock()
	resp, err := c.do(ctx, logical.ReadOperation, "entities/"+entity, nil, nil)
	if err != nil {
		return err
	}
	var at time.Time
	if resp != nil {
		at = c.timeIn(resp, "revoked_at")
	}
	if at.Before(acknowledged) && latest.Before(acknowledged.Add(modelMargin)) {
		c.t.Errorf("%s is cut off until %s, and was until %s", entity, at, acknowledged)
	}
	if resp == nil || resp.Data["tidied"] != true {
		return nil
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, token := range gone {
		if !token.cutOff.After(at) {
			token.mark()
		}
	}
	return nil
}

// endEntities revokes the tokens of all entities, and waits until that is tidied.
func (c *caller) endEntities() {
	ctx := context.Background()
	for _, entity := range modelEntities[1:] {
		if err := c.endEntityNamed(ctx, entity); err != nil {
			c.t.Error(err)
		}
	}
	c.waitIdle()
	for _, entity := range modelEntities[1:] {
		if resp := c.must(logical.ReadOperation, "entities/"+entity, nil); resp == nil || resp.Data["tidied"] != true {
			c.t.Errorf("%s is not tidied: %+v", entity, c.must(logical.ReadOperation, "tidy/status", nil).Data)
		}
	}
}

func (c *caller) startTidy(ctx context.Context) error {
	defer c.finishTidying()
	_, err := c.do(ctx, logical.UpdateOperation, "tidy", map[string]any{"dry_run": c.random.IntN(2) == 0}, nil)
	return err
}

func (c *caller) cancelTidy(ctx context.Context) error {
	_, err := c.do(ctx, logical.UpdateOperation, "tidy/cancel", nil, nil)
	return err
}

// finishTidying waits for the background, if there is one caller: each run of a seed
// is then the same.
func (c *caller) finishTidying() {
	if c.alone {
		c.waitIdle()
	}
}

// waitIdle waits until nothing is tidied any more, without faults. Periodic runs go on
// with a pass that nothing in the background makes.
func (c *caller) waitIdle() {
	ctx := context.WithValue(context.Background(), wellKey{}, true)
	for deadline := time.Now().Add(time.Minute); time.Now().Before(deadline); {
		if resp, err := c.do(ctx, logical.ReadOperation, "tidy/status", nil, nil); err == nil && resp.Data["state"] != "running" {
			return
		}
		_ = c.tidy(ctx)
	}
	c.t.Error("tidying does not end")
}

func (c *caller) introspectBatch(ctx context.Context) error {
	var asked []*modelToken
	var items []any
	for range 1 + c.random.IntN(8) {
		if token := c.pick(nil); token != nil {
			asked, items = append(asked, token), append(items, map[string]any{"token": token.text, "reference": token.id[:4]})
		}
	}
	if len(asked) == 0 {
		return nil
	}
	before := make([]expectation, len(asked))
	c.mu.Lock()
	for i, token := range asked {
		before[i] = c.expect(token)
	}
	c.mu.Unlock()
	resp, err := c.do(ctx, logical.UpdateOperation, "introspect", map[string]any{"batch_input": items}, nil)
	if err != nil {
		return err
	}
	results := resp.Data["batch_results"].([]map[string]any)
	c.mu.Lock()
	defer c.mu.Unlock()
	for i, token := range asked {
		if results[i]["reference"] != token.id[:4] {
			c.t.Errorf("result %d is of %v, want %s", i, results[i]["reference"], token.id)
		}
		if isActive, ok := results[i]["active"].(bool); ok {
			c.hold(token, before[i], isActive, "introspected in a batch")
		}
	}
	return nil
}

// hasLiveRecord reports whether a record says what is certain of the token: it knows
// nothing of a key that was dropped.
func (t *modelToken) hasLiveRecord() bool { return t.recorded() && !t.unsigned && !t.dropped }

func (c *caller) readByID(ctx context.Context) error {
	token := c.pick((*modelToken).hasLiveRecord)
	if token == nil {
		return nil
	}
	c.mu.Lock()
	before := c.expect(token)
	c.mu.Unlock()
	resp, err := c.do(ctx, logical.ReadOperation, "tokens/"+token.id, nil, nil)
	if err != nil {
		return err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if token.hasLiveRecord() {
		c.hold(token, before, resp != nil, "read by id")
	}
	return nil
}

// list returns the tokens that are listed, by id, from all pages.
func (c *caller) list(ctx context.Context, filter map[string]any) (map[string]map[string]any, error) {
	found := map[string]map[string]any{}
	data := maps.Clone(filter)
	for data["limit"] = 50 + c.random.IntN(900); ; {
		resp, err := c.do(ctx, logical.ListOperation, "tokens/", data, nil)
		if err != nil {
			return nil, err
		}
		info, _ := resp.Data["key_info"].(map[string]any) // missing if there are none
		ids, _ := resp.Data["keys"].([]string)
		for _, id := range ids {
			found[id] = info[id].(map[string]any)
		}
		next, more := resp.Data["next"].(string)
		if !more {
			return found, nil
		}
		data["after"] = next
	}
}

// wasToken is what was known of a token at some time.
type wasToken struct {
	token       *modelToken
	expected    expectation
	early, late time.Time
}

func (c *caller) listTokens(ctx context.Context) error {
	names := slices.Sorted(maps.Keys(modelRoles))
	filter := []map[string]any{
		{},
		{"role": names[c.random.IntN(len(names))]},
		{"entity_id": modelEntities[1+c.random.IntN(len(modelEntities)-1)]},
		{"token_type": []string{"api_key", "bearer", "jwt"}[c.random.IntN(3)]},
		{"expires_before": c.clock.Now().Add(time.Duration(c.random.IntN(86400)) * time.Second).Format(time.RFC3339)},
	}[c.random.IntN(5)]
	c.mu.Lock()
	before := map[string]wasToken{}
	for _, token := range c.tokens {
		if token.hasLiveRecord() {
			before[token.id] = wasToken{token, c.expect(token), token.early, token.late}
		}
	}
	c.mu.Unlock()
	found, err := c.list(ctx, filter)
	if err != nil {
		return err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	for id, was := range before {
		token := was.token
		if token.changing || !token.early.Equal(was.early) || !token.late.Equal(was.late) || !token.hasLiveRecord() {
			continue // it was renewed meanwhile
		}
		_, isListed := found[id]
		switch fits, certain := token.fits(filter); {
		case isListed && certain && !fits:
			c.t.Errorf("listed by %v: %s", filter, c.describe(token))
		case isListed || certain && fits:
			c.hold(token, was.expected, isListed, fmt.Sprintf("listed by %v", filter))
		}
	}
	return nil
}

// fits reports whether a token is one that a filter asks for, if that is certain.
func (t *modelToken) fits(filter map[string]any) (fits, certain bool) {
	for name, value := range filter {
		switch name {
		case "role":
			return t.role == value, true
		case "entity_id":
			return t.entity == value, true
		case "token_type":
			return t.tokenType == value, true
		case "expires_before":
			before, err := time.Parse(time.RFC3339, value.(string))
			return t.late.Before(before), err == nil && t.late.Equal(t.early)
		}
	}
	return true, true
}

// readPlace reads from its record which bit an opaque token has.
func (c *caller) readPlace(token *modelToken) {
	key := "token/" + token.id[len(token.id)-1:] + "/" + token.id
	entry, err := c.storage.InmemStorage.Get(context.Background(), key)
	if err != nil {
		c.t.Error(err)
	}
	if entry == nil {
		return // revoked meanwhile, as all of its role
	}
	var record struct {
		Status struct {
			List  string `json:"list"`
			Index int    `json:"index"`
		} `json:"status"`
	}
	if err := json.Unmarshal(entry.Value, &record); err != nil || strings.TrimSpace(record.Status.List) == "" {
		c.t.Errorf("token %s has no place: %v", token.id, err)
	}
	token.list, token.index = record.Status.List, record.Status.Index
}
