package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strconv"
	"sync"
	"time"

	"github.com/vault-tokens/vault-plugin-secrets-tokens/test/report"
	"github.com/vault-tokens/vault-plugin-secrets-tokens/test/suite"
	"github.com/vault-tokens/vault-plugin-secrets-tokens/test/vaulttest"
)

// generatedRole is the role of the generated tokens.
const generatedRole = "load"

// line is a line of backend/generate.
type line struct {
	Key   string `json:"key"`
	Value string `json:"value"`
	Token string `json:"token"`
}

// fill puts a role and n of its tokens into the storage, behind the engine's back,
// and restarts Vault. It returns some of the tokens.
func (m *measurement) fill(ctx context.Context, n, maxTokens int) (tokens []string, err error) {
	root, err := m.storageRoot(ctx)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	lines := make(chan line, 10*connections)
	var began time.Time // of the first entry: the program is built before
	entries := 0
	var writing sync.WaitGroup
	for range connections {
		writing.Go(func() {
			for l := range lines {
				if _, err := m.must(ctx, "PUT", "sys/raw/"+root+l.Key, object{"value": l.Value}); err != nil {
					cancel(err)
				}
			}
		})
	}
	err = generate(ctx, n, maxTokens, func(l line) error {
		if l.Token != "" {
			tokens = append(tokens, l.Token)
			return nil
		}
		if entries++; entries == 1 {
			began = time.Now()
		}
		report.Progress("filling the storage: %d entries, %.0f a second", entries, float64(entries)/time.Since(began).Seconds())
		select {
		case lines <- l:
			return nil
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	})
	close(lines)
	writing.Wait()
	if err = errors.Join(err, context.Cause(ctx)); err != nil {
		return nil, fmt.Errorf("fill the storage: %w", err)
	}
	m.add(row{
		What: "entries written to the storage a second, by " + strconv.Itoa(connections) + " connections", Unit: "1/s",
		Value: float64(entries) / time.Since(began).Seconds(), Note: fmt.Sprintf("%d entries", entries),
	})
	return tokens, m.time("restart", func() error { return m.restart(ctx) })
}

// storageRoot is where Vault has the mount's storage.
func (m *measurement) storageRoot(ctx context.Context) (string, error) {
	mounts, err := m.must(ctx, "GET", "sys/mounts", nil)
	if err != nil {
		return "", err
	}
	mount, _ := mounts.Data()[vaulttest.MountPath+"/"].(map[string]any)
	uuid, _ := mount["uuid"].(string)
	if uuid == "" {
		return "", errors.New("sys/mounts: the mount has no uuid")
	}
	return "logical/" + uuid + "/", nil
}

// generate runs backend/generate, which is no package of this module.
func generate(ctx context.Context, n, maxTokens int, each func(line) error) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	cmd := exec.CommandContext(ctx, "go", "run", "./backend/generate",
		"-n", strconv.Itoa(n), "-role", generatedRole, "-max-tokens", strconv.Itoa(maxTokens))
	cmd.Dir = suite.Repository()
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		return err
	}
	if err := cmd.Start(); err != nil {
		return err
	}
	decoder := json.NewDecoder(bufio.NewReaderSize(out, 1<<20))
	for {
		var l line
		if err = decoder.Decode(&l); err == nil {
			err = each(l)
		}
		if err != nil {
			break
		}
	}
	if errors.Is(err, io.EOF) {
		return cmd.Wait()
	}
	cancel()
	_ = cmd.Wait()
	return err
}
