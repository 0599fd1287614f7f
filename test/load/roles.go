package main

import (
	"context"
	"fmt"
	"time"
)

func rolesOfJWTs(ctx context.Context, m *measurement) error {
	return m.roles(ctx, object{"token_type": "jwt", "audiences": "https://orders.example.com", "generate_lease": false, "ttl": "24h"})
}

func rolesOfBearers(ctx context.Context, m *measurement) error {
	return m.roles(ctx, object{"token_type": "bearer", "generate_lease": false, "ttl": "24h"})
}

// roles measures many roles with a token each. After a restart each role reserves
// indexes anew with its first token, so that issuing for all of them writes the
// lists all the time: that is what introspections are then measured beside. A real
// Vault cannot be told to write one list slowly; TestSlowWriteHoldsUpNobody in
// backend/statuslist does.
func (m *measurement) roles(ctx context.Context, body object) error {
	if err := m.memory("without roles"); err != nil {
		return err
	}
	if err := m.time("writing the roles", func() error {
		return m.writeRoles(ctx, connections, m.result.N, body)
	}); err != nil {
		return err
	}
	if err := m.memory("with the roles"); err != nil {
		return err
	}
	tokens := make([]string, m.result.N)
	if err := m.time("issuing a token of each", func() error { return m.issueAll(ctx, connections, tokens) }); err != nil {
		return err
	}
	if err := m.memory("with a token of each"); err != nil {
		return err
	}
	if err := m.time("restart", func() error { return m.restart(ctx) }); err != nil {
		return err
	}
	if err := m.afterStart(ctx, tokens, "the restart"); err != nil {
		return err
	}
	return m.whileIssuing(ctx, body, spread(tokens, 1000))
}

func roleName(i int) string { return fmt.Sprintf("role-%05d", i) }

func (m *measurement) writeRoles(ctx context.Context, clients, n int, body object) error {
	return inParallel(ctx, "roles", clients, n, func(ctx context.Context, i int) error {
		_, err := m.must(ctx, "POST", "tokens/roles/"+roleName(i), body)
		return err
	})
}

// issueAll issues a token of each role.
func (m *measurement) issueAll(ctx context.Context, clients int, tokens []string) error {
	return inParallel(ctx, "tokens", clients, len(tokens), func(ctx context.Context, i int) error {
		issued, err := m.issue(ctx, roleName(i))
		if err == nil {
			tokens[i] = issued.Data.Token
		}
		return err
	})
}

// whileIssuing measures introspections beside the issue of tokens of all roles, and
// beside as many requests of other kinds.
func (m *measurement) whileIssuing(ctx context.Context, body object, presented []string) error {
	if err := m.beside(ctx, "nothing else, tokens not yet in memory", presented, func() (string, error) {
		return "", wait(ctx, time.Duration(len(presented))*probeEvery)
	}); err != nil {
		return err
	}
	if err := m.baseline(ctx, presented); err != nil {
		return err
	}
	const clients = 4
	again := make([]string, m.result.N)
	some := min(m.result.N, 2000)
	for _, other := range []struct {
		what string
		do   func() error
	}{
		{"issue the first token since of each role", func() error { return m.issueAll(ctx, clients, again) }},
		// To compare with: the same requests without a write, and other writes.
		{fmt.Sprintf("issue the second token of %d roles", some), func() error { return m.issueAll(ctx, clients, again[:some]) }},
		{fmt.Sprintf("write %d roles", some), func() error { return m.writeRoles(ctx, clients, some, body) }},
	} {
		what := fmt.Sprintf("%d clients %s", clients, other.what)
		if err := m.beside(ctx, what, presented, func() (string, error) { return "", other.do() }); err != nil {
			return err
		}
	}
	return m.memory("at the end")
}
