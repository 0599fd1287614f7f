package main

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/vault-tokens/vault-plugin-secrets-tokens/test/report"
	"github.com/vault-tokens/vault-plugin-secrets-tokens/test/suite"
	"github.com/vault-tokens/vault-plugin-secrets-tokens/test/vaulttest"
)

// tokens measures what is done to many tokens of one role, and how long others wait
// meanwhile.
func tokens(ctx context.Context, m *measurement) error {
	generated, err := m.fill(ctx, m.result.N, 0)
	if err != nil {
		return err
	}
	if err := m.afterStart(ctx, generated, "the restart"); err != nil {
		return err
	}
	others, err := m.others(ctx)
	if err != nil {
		return err
	}
	if err := m.baseline(ctx, others); err != nil {
		return err
	}
	if err := m.beside(ctx, "nothing else, of the many", generated, func() (string, error) { return "", wait(ctx, baselineTime) }); err != nil {
		return err
	}
	if err := m.passes(ctx, others); err != nil {
		return err
	}
	what := "restart"
	if len(m.cluster.Nodes) > 1 {
		what = "failover"
	}
	if err := m.time(what+", until a token is introspected", func() error {
		if err := m.failOver(ctx); err != nil {
			return err
		}
		return suite.Poll(ctx, time.Minute, func() (bool, error) {
			err := m.introspect(ctx, others[0])
			return err == nil, err
		})
	}); err != nil {
		return err
	}
	if err := m.afterStart(ctx, generated, "the "+what); err != nil {
		return err
	}
	return m.kill(ctx, generated, others)
}

// passes measures what looks at many records.
func (m *measurement) passes(ctx context.Context, others []string) error {
	for _, step := range []struct {
		what string
		do   func(context.Context) (string, error)
	}{
		{"LIST tokens/?limit=100, over and over", m.pages("")},
		{"LIST tokens/?limit=100&role=" + generatedRole + ", over and over", m.pages("&role=" + generatedRole)},
		{"LIST tokens/?limit=100&role=" + otherRole + ", over and over", m.pages("&role=" + otherRole)},
		{"tidy, until it has finished", m.tidy(tidyLimit)},
	} {
		if err := m.beside(ctx, step.what, others, func() (string, error) { return step.do(ctx) }); err != nil {
			return err
		}
	}
	return m.memory("after these")
}

// afterStart measures introspections of tokens that are not in memory.
func (m *measurement) afterStart(ctx context.Context, generated []string, after string) error {
	if err := m.memory("after " + after); err != nil {
		return err
	}
	for i, which := range []string{"first", "second", "third"} {
		if err := m.time(which+" introspection after "+after, func() error { return m.introspect(ctx, generated[i]) }); err != nil {
			return err
		}
	}
	return nil
}

// kill measures the kill switch of the role, and what it leaves to be tidied.
func (m *measurement) kill(ctx context.Context, generated, others []string) error {
	killed := false
	if err := m.beside(ctx, "kill switch of the role", others, func() (note string, err error) {
		note, err = m.request("POST", "tokens/roles/"+generatedRole+"/revoke")(ctx)
		killed = note == ""
		return note, err
	}); err != nil || !killed {
		return err
	}
	for _, token := range generated {
		if active, err := m.active.ActiveAt(ctx, vaulttest.MountPath, token); err != nil {
			return err
		} else if active {
			return errors.New("a token of the role is active after its kill switch")
		}
	}
	if err := m.beside(ctx, "tidy after it, for "+tidyShown.String()+" at most", others, func() (string, error) { return m.tidy(tidyShown)(ctx) }); err != nil {
		return err
	}
	return m.memory("at the end")
}

// pages reads the first page of a list until some seconds have passed: one is over
// too soon for much to be seen beside it.
func (m *measurement) pages(filter string) func(context.Context) (note string, err error) {
	read := m.request("LIST", "tokens/tokens/?limit=100"+filter)
	return func(ctx context.Context) (string, error) {
		var took []time.Duration
		for began := time.Now(); time.Since(began) < baselineTime; {
			before := time.Now()
			if note, err := read(ctx); note != "" || err != nil {
				return note, err
			}
			took = append(took, time.Since(before))
		}
		slices.Sort(took)
		return fmt.Sprintf("%d pages: p50 %.1f, max %.1f ms", len(took),
			report.Milliseconds(report.Quantile(took, 0.5)), report.Milliseconds(report.Quantile(took, 1))), nil
	}
}

// request makes a request as root. An answer that there is no such path, which an
// older build gives, is noted and no error.
func (m *measurement) request(method, path string) func(context.Context) (note string, err error) {
	return func(ctx context.Context) (string, error) {
		resp, err := m.active.Root().Do(ctx, method, path, nil)
		switch {
		case err != nil:
			return "", err
		case resp.Status == http.StatusBadRequest, resp.Status == http.StatusNotFound, resp.Status == http.StatusMethodNotAllowed:
			return fmt.Sprintf("not offered: %d %s", resp.Status, strings.Join(strings.Fields(strings.Join(resp.Errors(), "; ")), " ")), nil
		case resp.Status >= http.StatusBadRequest:
			return "", fmt.Errorf("%s %s: %d %s", method, path, resp.Status, resp.Raw)
		}
		return "", nil
	}
}

const (
	// tidyLimit bounds a pass over all records.
	tidyLimit = 2 * time.Hour
	// tidyShown is how long the removal of records is looked at, which goes on.
	tidyShown = 2 * time.Minute
)

// tidy begins a pass over all records and waits until it has finished, or for the
// limit. The note says how far it came.
func (m *measurement) tidy(limit time.Duration) func(context.Context) (note string, err error) {
	return func(ctx context.Context) (note string, err error) {
		if note, err = m.request("POST", "tokens/tidy")(ctx); note != "" || err != nil {
			return note, err
		}
		for began := time.Now(); ; {
			resp, err := m.must(ctx, "GET", "tokens/tidy/status", nil)
			if err != nil {
				return "", err
			}
			if resp.String("state") != "running" || time.Since(began) > limit {
				return fmt.Sprint(resp.Data()), nil
			}
			report.Progress("tidy: %v", resp.Data())
			if err := wait(ctx, 100*time.Millisecond); err != nil {
				return "", err
			}
		}
	}
}
