package main

import (
	"context"
	"fmt"
	"net/http"
	"strings"
	"time"

	"github.com/vault-tokens/vault-plugin-secrets-tokens/test/report"
)

// lists measures what verifiers fetch: the signed status list of n bearer tokens,
// of which more and more are revoked. Which ones is spread over the whole list, as
// indexes are given out in random order: of what compresses, that is the worst.
func lists(ctx context.Context, m *measurement) error {
	issuer := m.active.Addr + "/v1/tokens"
	if _, err := m.must(ctx, "POST", "tokens/config", object{"issuer": issuer}); err != nil {
		return err
	}
	if err := m.writeRoles(ctx, 1, 1, object{"token_type": "bearer", "generate_lease": false, "ttl": "24h"}); err != nil {
		return err
	}
	first, err := m.issue(ctx, roleName(0))
	if err != nil {
		return err
	}
	list, err := m.listOf(ctx, first.Data.Token)
	if err != nil {
		return err
	}
	if err := m.fetchList(ctx, list, "one token on it"); err != nil {
		return err
	}
	ids := make([]string, m.result.N-1)
	if err := inParallel(ctx, "tokens", connections, len(ids), func(ctx context.Context, i int) error {
		issued, err := m.issue(ctx, roleName(0))
		if err == nil {
			ids[i] = issued.Data.TokenID
		}
		return err
	}); err != nil {
		return err
	}
	if err := m.fetchList(ctx, list, fmt.Sprintf("%d tokens", m.result.N)); err != nil {
		return err
	}
	revoked := 0
	for _, percent := range []int{1, 10} {
		if revoked, err = m.revokeUntil(ctx, ids, revoked, percent); err != nil {
			return err
		}
		if err := m.fetchList(ctx, list, fmt.Sprintf("%d %% of them revoked", percent)); err != nil {
			return err
		}
	}
	if _, err := m.must(ctx, "POST", "tokens/roles/"+roleName(0)+"/revoke", nil); err != nil {
		return err
	}
	return m.fetchList(ctx, list, "all of them by the role's kill switch")
}

// listOf returns the path of the list that a token is on.
func (m *measurement) listOf(ctx context.Context, token string) (string, error) {
	resp, err := m.must(ctx, "POST", "tokens/introspect", object{"token": token})
	if err != nil {
		return "", err
	}
	status, _ := resp.Data()["status"].(map[string]any)
	reference, _ := status["status_list"].(map[string]any)
	uri, _ := reference["uri"].(string)
	path, ours := strings.CutPrefix(uri, m.active.Addr+"/v1/")
	if !ours {
		return "", fmt.Errorf("the token is on no list that is published: %v", resp.Data())
	}
	return path, nil
}

// fetchList measures the first fetch after a change, which signs the list.
func (m *measurement) fetchList(ctx context.Context, list, when string) error {
	began := time.Now()
	resp, err := m.active.Anonymous().Must(ctx, "GET", list, nil)
	if err != nil {
		return err
	}
	m.add(row{
		What: "status list, " + when, Value: float64(len(resp.Raw)), Unit: "bytes",
		Note: fmt.Sprintf("first fetch after the change: %.1f ms", report.Milliseconds(time.Since(began))),
	})
	return nil
}

// revokeUntil revokes evenly spread tokens until so many percent of them are, and
// returns how many that is.
func (m *measurement) revokeUntil(ctx context.Context, ids []string, revoked, percent int) (int, error) {
	until := m.result.N * percent / 100
	// The step has no factor in common with the number of tokens: each comes once.
	step := 7919
	for len(ids)%step == 0 {
		step += 2
	}
	return until, inParallel(ctx, "revocations", connections, until-revoked, func(ctx context.Context, i int) error {
		id := ids[(revoked+i)*step%len(ids)]
		return m.active.Expect(ctx, m.active.RootToken, "DELETE", "tokens/tokens/"+id, nil, http.StatusNoContent)
	})
}
