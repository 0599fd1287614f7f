package main

import (
	"context"
	"time"
)

const (
	otherRole  = "others"
	otherCount = 200
)

// others issues tokens of a role of their own, which are introspected while
// something is done to the generated ones.
func (m *measurement) others(ctx context.Context) ([]string, error) {
	if _, err := m.must(ctx, "POST", "tokens/roles/"+otherRole, object{"token_type": "bearer", "generate_lease": false, "ttl": "24h"}); err != nil {
		return nil, err
	}
	tokens := make([]string, otherCount)
	err := inParallel(ctx, "tokens of another role", connections, otherCount, func(ctx context.Context, i int) error {
		issued, err := m.issue(ctx, otherRole)
		if err != nil {
			return err
		}
		tokens[i] = issued.Data.Token
		return nil
	})
	return tokens, err
}

// baseline measures introspections while nothing else goes on.
func (m *measurement) baseline(ctx context.Context, presented []string) error {
	return m.beside(ctx, "nothing else", presented, func() (string, error) { return "", wait(ctx, baselineTime) })
}

const baselineTime = 5 * time.Second

func wait(ctx context.Context, d time.Duration) error {
	select {
	case <-time.After(d):
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
