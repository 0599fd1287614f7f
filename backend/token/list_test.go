package token

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/hashicorp/vault/sdk/logical"

	"github.com/vault-tokens/vault-plugin-secrets-tokens/backend/role"
	"github.com/vault-tokens/vault-plugin-secrets-tokens/backend/store"
	"github.com/vault-tokens/vault-plugin-secrets-tokens/backend/store/storetest"
	"github.com/vault-tokens/vault-plugin-secrets-tokens/verify/format"
)

// withRecords stores n records of three roles, both types and five entities, which
// expire within a day, each at a second of its own; a tenth have expired.
func (f *fixture) withRecords(n int) map[string]*Record {
	f.t.Helper()
	records := map[string]*Record{}
	for i := range n {
		id, err := format.NewID(f.random)
		if err != nil {
			f.t.Fatal(err)
		}
		records[id] = &Record{
			ID:        id,
			TokenType: []role.TokenType{role.APIKey, role.Bearer}[i%2],
			Role:      fmt.Sprintf("role-%d", i%3),
			EntityID:  fmt.Sprintf("entity-%d", i%5),
			IssuedAt:  f.now.Add(-24 * time.Hour),
			ExpiresAt: f.now.Add(time.Duration(i-n/10) * 24 * time.Hour / time.Duration(n)).Truncate(time.Second),
		}
		if err := f.records.Entries.Put(f.ctx, f.storage, id, records[id]); err != nil {
			f.t.Fatal(err)
		}
	}
	return records
}

// listed returns the ids of all pages of a list. It holds each page to its bounds.
func (f *fixture) listed(limit int, filter Filter) []string {
	f.t.Helper()
	var ids []string
	for after, pages := "", 0; ; pages++ {
		var page *Page
		var err error
		reads, writes := f.storage.Count(func() { page, err = f.List(f.ctx, f.storage, after, limit, filter) })
		if err != nil {
			f.t.Fatal(err)
		}
		if len(page.Tokens) > limit || reads > maxLooked+int64(len(shards)) || writes != 0 {
			f.t.Fatalf("a page of %d has %d tokens, for %d reads and %d writes", limit, len(page.Tokens), reads, writes)
		}
		for _, listed := range page.Tokens {
			if listed.Err != nil || listed.Record.ID != listed.ID {
				f.t.Fatalf("listed is %+v", listed)
			}
			ids = append(ids, listed.ID)
		}
		if page.Next == "" {
			return ids
		}
		if page.Next == after || pages > len(shards)*1000 {
			f.t.Fatal("the pages have no end")
		}
		after = page.Next
	}
}

func TestList(t *testing.T) {
	f := newFixture(t)
	if ids := f.listed(10, Filter{}); len(ids) != 0 {
		t.Errorf("without a token: %v", ids)
	}
	f.issue("jwt")
	records := f.withRecords(3000)
	before := f.now.Add(5 * time.Hour)
	for name, filter := range map[string]Filter{
		"all":        {},
		"role":       {Role: "role-1"},
		"entity":     {EntityID: "entity-4"},
		"token type": {TokenType: role.APIKey},
		"expiry":     {ExpiresBefore: &before},
		"together":   {Role: "role-2", EntityID: "entity-3", TokenType: role.Bearer, ExpiresBefore: &before},
		"two":        {Role: "role-0", TokenType: role.APIKey},
		"no role":    {Role: "role-9"},
		"part":       {Role: "role-"},
		"no entity":  {EntityID: "entity"},
		"jwt":        {TokenType: role.JWT},
	} {
		want := []string{}
		for id, r := range records {
			if f.now.Before(r.ExpiresAt) &&
				(filter.Role == "" || r.Role == filter.Role) && (filter.EntityID == "" || r.EntityID == filter.EntityID) &&
				(filter.TokenType == "" || r.TokenType == filter.TokenType) && (filter.ExpiresBefore == nil || r.ExpiresAt.Before(before)) {
				want = append(want, id)
			}
		}
		slices.Sort(want)
		limits := []int{100, 1000}
		if name == "together" || name == "expiry" {
			limits = append(limits, 7) // which takes many pages
		}
		for _, limit := range limits {
			ids := f.listed(limit, filter)
			if slices.Sort(ids); !slices.Equal(ids, want) {
				t.Errorf("%s, in pages of %d: %d tokens, want %d", name, limit, len(ids), len(want))
			}
		}
	}
}

// A page goes on after a token that is gone, and whoever goes on after the last
// token of a page misses none.
func TestListGoesOn(t *testing.T) {
	f := newFixture(t)
	f.withRecords(50)
	page, err := f.List(f.ctx, f.storage, "", 3, Filter{})
	if err != nil {
		t.Fatal(err)
	}
	last := page.Tokens[1].ID
	if _, err := f.Revoke(f.ctx, f.storage, Lease{ID: last}); err != nil {
		t.Fatal(err)
	}
	if next, err := f.List(f.ctx, f.storage, last, 1, Filter{}); err != nil || next.Tokens[0].ID != page.Tokens[2].ID {
		t.Errorf("after %s comes %+v, %v; want %s", last, next, err, page.Tokens[2].ID)
	}
}

// While others are issued and revoked, a token that lives all the time is listed
// once, and none twice.
func TestListWhileTokensComeAndGo(t *testing.T) {
	f := newFixture(t)
	stay := slices.Sorted(maps.Keys(f.withRecords(1500)))
	stay = slices.DeleteFunc(stay, func(id string) bool {
		r, err := f.Get(f.ctx, f.storage, id)
		return err != nil || r == nil
	})
	done := make(chan struct{})
	var others sync.WaitGroup
	others.Go(func() {
		for {
			select {
			case <-done:
				return
			default:
			}
			issued, err := f.Issue(f.ctx, f.storage, Request{Role: "bearer", Caller: caller})
			if err != nil {
				t.Error(err)
				return
			}
			if rand.IntN(3) > 0 {
				if _, err := f.Revoke(f.ctx, f.storage, Lease{ID: issued.ID}); err != nil {
					t.Error(err)
				}
			}
		}
	})
	for range 3 {
		seen := map[string]int{}
		for after := ""; ; {
			page, err := f.List(f.ctx, f.storage, after, 11, Filter{})
			if err != nil {
				t.Fatal(err)
			}
			for _, listed := range page.Tokens {
				seen[listed.ID]++
			}
			if after = page.Next; after == "" {
				break
			}
		}
		for id, n := range seen {
			if n != 1 {
				t.Errorf("%s is listed %d times", id, n)
			}
		}
		for _, id := range stay {
			if seen[id] == 0 {
				t.Errorf("%s is missing", id)
			}
		}
	}
	close(done)
	others.Wait()
}

// What a page reads is bounded, whatever matches; it keeps nothing of it, so that
// the records that requests need stay in memory; and what is in memory is not read.
func TestListIsBounded(t *testing.T) {
	f := newFixture(t)
	f.withRecords(3000)
	page, err := f.List(f.ctx, f.storage, "", 1000, Filter{Role: "none"})
	if err != nil || len(page.Tokens) != 0 || page.Next == "" {
		t.Errorf("nothing matches, and the first page is %+v, %v", page, err)
	}
	if n, _ := f.records.Cached(); n != 0 {
		t.Errorf("%d records are cached", n)
	}
	for range 100 {
		f.issue("bearer")
	}
	f.now = f.now.Add(time.Minute)
	cold, _ := f.storage.Count(func() { f.listed(1000, Filter{}) })
	if lists := int64(4 * len(shards)); cold < 3000 || cold > 3000+lists {
		t.Errorf("%d reads for 3000 records that are not in memory", cold)
	}
}

// A record that cannot be read is found by its id, whatever the filter, and can be
// deleted.
func TestListUndecodable(t *testing.T) {
	f := newFixture(t)
	want := map[string]error{f.issue("bearer").ID: nil, f.issue("bearer").ID: store.ErrUndecodable, f.issue("bearer").ID: store.ErrNewer}
	for id, err := range want {
		stored := map[error]string{store.ErrUndecodable: `{"format":1,"id":7}`, store.ErrNewer: `{"format":99}`}[err]
		if stored == "" {
			continue
		}
		if err := f.storage.Put(f.ctx, &logical.StorageEntry{Key: f.records.Key(id), Value: []byte(stored)}); err != nil {
			t.Fatal(err)
		}
	}
	f.restart()
	for _, filter := range []Filter{{}, {Role: "bearer"}, {Role: "other"}} {
		page, err := f.List(f.ctx, f.storage, "", 10, filter)
		if err != nil {
			t.Fatal(err)
		}
		n := 0
		for _, listed := range page.Tokens {
			if !errors.Is(listed.Err, want[listed.ID]) || (listed.Record == nil) != (listed.Err != nil) {
				t.Errorf("%s: %+v, want %v", listed.ID, listed, want[listed.ID])
			}
			n++
		}
		if expect := 3; filter.Role == "other" && n != expect-1 || filter.Role != "other" && n != expect {
			t.Errorf("%+v: %d listed", filter, n)
		}
	}
	for id := range want {
		if ended, err := f.Revoke(f.ctx, f.storage, Lease{ID: id}); ended == nil || err != nil {
			t.Errorf("revoke: %v, %v", ended, err)
		}
	}
	if left := f.ids(); len(left) != 0 {
		t.Errorf("left are %v", left)
	}
}

// A page is whole or an error: never without what could not be read.
func TestListOnFaults(t *testing.T) {
	f := newFixture(t)
	f.withRecords(200)
	all := f.listed(1000, Filter{})
	for name, hook := range map[string]storetest.Hook{
		"folder": storetest.Fail(recordPrefix+"z/", storetest.List),
		"record": storetest.Fail(f.records.Key(all[150]), storetest.Get),
	} {
		for _, filter := range []Filter{{}, {Role: "none"}} {
			f.storage.Before(hook)
			if page, err := f.List(f.ctx, f.storage, "", 1000, filter); page != nil || !errors.Is(err, storetest.ErrInjected) {
				t.Errorf("%s: %+v, %v", name, page, err)
			}
			f.storage.Heal()
		}
	}
	// The caller hangs up half way.
	ctx, cancel := context.WithCancel(f.ctx)
	reads := 0
	f.storage.Before(func(op storetest.Op, key string) error {
		if reads++; reads == 100 {
			cancel()
		}
		return ctx.Err()
	})
	if page, err := f.List(ctx, f.storage, "", 1000, Filter{}); page != nil || !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %+v, %v", page, err)
	}
	f.storage.Heal()
	if again := f.listed(1000, Filter{}); !slices.Equal(again, all) || len(again) == 0 {
		t.Error("the list differs afterwards")
	}
}
