package token

import (
	"context"
	"errors"
	"iter"
	"strings"
	"time"

	"github.com/hashicorp/vault/sdk/logical"

	"github.com/vault-tokens/vault-plugin-secrets-tokens/backend/role"
	"github.com/vault-tokens/vault-plugin-secrets-tokens/backend/store"
)

// maxLooked bounds the records that one page looks at, so that a filter which
// matches little costs no more than one which matches much.
const maxLooked = 1000

// Filter says which tokens are meant: those that agree with every field that is
// set. Its zero value is all tokens.
type Filter struct {
	Role          string
	EntityID      string
	TokenType     role.TokenType
	ExpiresBefore *time.Time
}

func (f Filter) matches(r *Record) bool {
	return (f.Role == "" || f.Role == r.Role) &&
		(f.EntityID == "" || f.EntityID == r.EntityID) &&
		(f.TokenType == "" || f.TokenType == r.TokenType) &&
		(f.ExpiresBefore == nil || r.ExpiresAt.Before(*f.ExpiresBefore))
}

// Page is a part of the list of tokens, in a stable order without meaning.
type Page struct {
	Tokens []Listed
	Next   string // the id to go on after, "" if this is the last page
}

// Listed is one token of a list.
type Listed struct {
	ID     string
	Record *Record // nil if it cannot be decoded
	Err    error   // why not
}

// List returns a page of at most limit live tokens that come after the given id, ""
// for the first page. It looks at a bounded number of records, so that a page may
// be empty and yet not be the last. Records that cannot be decoded are listed
// whatever the filter, so that somebody finds them. A failure to read the storage
// fails the whole page: what is missing from one is never unknown.
func (t *Tokens) List(ctx context.Context, storage logical.Storage, after string, limit int, filter Filter) (*Page, error) {
	page, last, looked := &Page{}, "", 0
	for id, err := range t.idsAfter(ctx, storage, after) {
		if err != nil {
			return nil, err
		}
		if len(page.Tokens) >= limit || looked >= maxLooked {
			page.Next = last
			break
		}
		listed, err := t.look(ctx, storage, id, filter)
		if err != nil {
			return nil, err
		}
		if listed != nil {
			page.Tokens = append(page.Tokens, *listed)
		}
		last = id
		looked++
	}
	return page, nil
}

// look returns a token if it belongs into a list, else nil.
func (t *Tokens) look(ctx context.Context, storage logical.Storage, id string, filter Filter) (*Listed, error) {
	record, err := t.records.Peek(ctx, storage, id)
	if errors.Is(err, store.ErrUndecodable) {
		return &Listed{ID: id, Err: err}, nil
	}
	if err != nil || record == nil || !filter.matches(record) {
		return nil, err
	}
	live, err := t.live(ctx, storage, record)
	if errors.Is(err, store.ErrUndecodable) { // its status list
		return &Listed{ID: id, Err: err}, nil
	}
	if err != nil || !live {
		return nil, err
	}
	return &Listed{ID: id, Record: record}, nil
}

// live reports whether a token that has a record is active.
func (t *Tokens) live(ctx context.Context, storage logical.Storage, record *Record) (bool, error) {
	reason, err := t.standing(ctx, storage, record)
	return reason == "", err
}

// idsAfter yields the ids of all records that come after the given one ("" for
// all), in a stable order, or an error. Vault's storage lists a folder as a whole,
// so that the ids of one shard are in memory at a time.
func (t *Tokens) idsAfter(ctx context.Context, storage logical.Storage, after string) iter.Seq2[string, error] {
	return func(yield func(string, error) bool) {
		first := 0
		if after != "" {
			first = strings.Index(shards, shardOf(after))
		}
		for i := first; i < len(shards); i++ {
			if i > first {
				after = ""
			}
			ids, err := t.records.shardAfter(ctx, storage, i, after)
			if err != nil {
				yield("", err)
				return
			}
			for _, id := range ids {
				if !yield(id, nil) {
					return
				}
			}
		}
	}
}
