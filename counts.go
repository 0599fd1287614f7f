package tokens

import (
	"context"
	"errors"
	"net/http"
	"strings"
	"sync/atomic"
	"time"

	"github.com/hashicorp/vault/sdk/framework"
	"github.com/hashicorp/vault/sdk/logical"

	"github.com/vault-tokens/vault-plugin-secrets-tokens/backend/role"
	"github.com/vault-tokens/vault-plugin-secrets-tokens/backend/token"
)

// What this process counts of one mount, since it started; path_status.go shows
// it. Vault's own telemetry ends at the plugin's process, which has no sink.

// counts never decrease.
type counts struct {
	since                             time.Time
	issued, renewed, revoked, expired counter // by type of token
	introspections                    counter // by result
	refused, failed                   counter // requests, by endpoint
	storageErrors                     counter // by operation
}

const (
	resultActive = "active" // of an introspection; other results are its token.Reason

	// What requests are counted as that Vault makes by itself or for a lease: their
	// paths say nothing.
	leasesEndpoint   = "leases"
	periodicEndpoint = "periodic"
)

func newCounts(now time.Time, paths []*framework.Path) *counts {
	types := []string{string(role.APIKey), string(role.Bearer), string(role.JWT)}
	results := []string{resultActive}
	for _, reason := range []token.Reason{token.Malformed, token.Unknown, token.Expired, token.Revoked, token.NotYet, token.NotGiven, token.CheckFail} {
		results = append(results, reasonLabel(reason))
	}
	endpoints := []string{leasesEndpoint, periodicEndpoint}
	for _, path := range paths {
		endpoints = append(endpoints, endpoint(strings.ReplaceAll(path.Pattern, `\`, "")))
	}
	return &counts{
		since:  now,
		issued: newCounter(types), renewed: newCounter(types), revoked: newCounter(types), expired: newCounter(types),
		introspections: newCounter(results),
		refused:        newCounter(endpoints), failed: newCounter(endpoints),
		storageErrors: newCounter([]string{"get", "list", "put", "delete"}),
	}
}

// endpoint is the first part of a path, which names its door.
func endpoint(path string) string {
	first, _, _ := strings.Cut(path, "/")
	return first
}

func reasonLabel(reason token.Reason) string { return strings.ReplaceAll(string(reason), " ", "_") }

// counter counts by the value of one label. The values are fixed when it is made:
// there is nothing to lock, and what callers make up cannot add to them.
type counter map[string]*atomic.Int64

// other counts what has none of the values, such as a request of a path that does
// not exist. It is shown only if there was any.
const other = "other"

func newCounter(values []string) counter {
	c := counter{other: new(atomic.Int64)}
	for _, value := range values {
		c[value] = new(atomic.Int64)
	}
	return c
}

func (c counter) add(value string) {
	n := c[value]
	if n == nil {
		n = c[other]
	}
	n.Add(1)
}

func (c counter) read() map[string]any {
	read := make(map[string]any, len(c))
	for value, n := range c {
		if so := n.Load(); so > 0 || value != other {
			read[value] = so
		}
	}
	return read
}

func (c *counts) introspected(answer *token.Answer) {
	if answer.Active {
		c.introspections.add(resultActive)
		return
	}
	c.introspections.add(reasonLabel(answer.Reason))
}

// answered counts a request that was refused, or has failed. One that another node
// has to answer is neither, nor one whose caller is gone.
func (c *counts) answered(ctx context.Context, req *logical.Request, resp *logical.Response, err error) {
	if errors.Is(err, logical.ErrReadOnly) || errors.Is(ctx.Err(), context.Canceled) {
		return
	}
	at := endpoint(req.Path)
	switch req.Operation {
	case logical.RenewOperation, logical.RevokeOperation:
		at = leasesEndpoint
	case logical.RollbackOperation:
		if err != nil {
			c.failed.add(periodicEndpoint)
		}
		return
	}
	switch status := statusOf(req, resp, err); {
	case status == http.StatusNotImplemented || status >= 400 && status < 500:
		c.refused.add(at)
	case status >= 500:
		c.failed.add(at)
	}
}

// statusOf is the HTTP status that Vault makes of an answer, 0 for a success.
func statusOf(req *logical.Request, resp *logical.Response, err error) int {
	if err == nil && isOAuth2(req.Path) && resp != nil {
		status, _ := resp.Data[logical.HTTPStatusCode].(int)
		return status // of a raw body, in which the error is
	}
	status, _ := logical.RespondErrorCommon(req, resp, err)
	if err != nil {
		logical.AdjustErrorStatusCode(&status, err)
	}
	return status
}

// withStorage returns the request with a storage that counts what fails.
func (c *counts) withStorage(req *logical.Request) *logical.Request {
	counted := *req
	counted.Storage = countedStorage{req.Storage, c.storageErrors}
	return &counted
}

type countedStorage struct {
	logical.Storage
	failed counter
}

func (s countedStorage) note(ctx context.Context, operation string, err error) {
	if err != nil && ctx.Err() == nil { // the caller's time was not over
		s.failed.add(operation)
	}
}

func (s countedStorage) Get(ctx context.Context, key string) (*logical.StorageEntry, error) {
	entry, err := s.Storage.Get(ctx, key)
	s.note(ctx, "get", err)
	return entry, err
}

func (s countedStorage) List(ctx context.Context, prefix string) ([]string, error) {
	keys, err := s.Storage.List(ctx, prefix)
	s.note(ctx, "list", err)
	return keys, err
}

func (s countedStorage) Put(ctx context.Context, entry *logical.StorageEntry) error {
	err := s.Storage.Put(ctx, entry)
	s.note(ctx, "put", err)
	return err
}

func (s countedStorage) Delete(ctx context.Context, key string) error {
	err := s.Storage.Delete(ctx, key)
	s.note(ctx, "delete", err)
	return err
}
