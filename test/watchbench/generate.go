package main

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"regexp"
	"strconv"
	"time"

	"github.com/vault-tokens/vault-plugin-secrets-tokens/test/vaulttest"
)

// pair is what one request left in the log: both its lines.
type pair struct {
	weight int
	lines  [][]byte
}

// record has a real Vault write the entries, with the mount tuned as operators
// do it.
func record(ctx context.Context, dir string) ([]pair, error) {
	vault, err := vaulttest.VaultBinary(ctx)
	if err != nil {
		return nil, err
	}
	plugin, err := vaulttest.BuildPlugin(ctx, dir, false)
	if err != nil {
		return nil, err
	}
	s, err := vaulttest.Start(ctx, vaulttest.Options{Vault: vault, Plugin: plugin, Audit: true, LogLevel: "warn"})
	if err != nil {
		return nil, err
	}
	defer s.Close()
	if err := s.SetUpAudit(ctx); err != nil {
		return nil, err
	}
	return use(ctx, s)
}

type body = map[string]any

func use(ctx context.Context, s *vaulttest.Server) ([]pair, error) {
	app, _, err := s.NewUser(ctx, "app", vaulttest.Policy("tokens/creds/*", "read", "update")+vaulttest.Policy("tokens/introspect", "update"))
	if err != nil {
		return nil, err
	}
	if _, err := s.Root().Must(ctx, "POST", "sys/mounts/kv", body{"type": "kv"}); err != nil {
		return nil, err
	}
	if _, err := s.Root().Must(ctx, "POST", "tokens/roles/orders", body{
		"token_type": "api_key", "allowed_scopes": "orders:*", "default_scopes": "orders:read", "audiences": "https://orders.example.com", "ttl": "768h",
	}); err != nil {
		return nil, err
	}
	resp, err := s.Client(app).Must(ctx, "GET", "tokens/creds/orders", nil)
	if err != nil {
		return nil, err
	}
	token := resp.String("token")
	var pairs []pair
	for _, request := range []struct {
		weight              int
		token, method, path string
		body                any
	}{
		{50, app, "POST", "tokens/introspect", body{"token": token, "client_ip": "192.0.2.1"}},
		{6, app, "POST", "tokens/introspect", body{"token": "vtk_nonsense"}},
		{2, app, "POST", "tokens/introspect", body{"token": token, "required_scopes": "admin"}},
		{20, app, "GET", "tokens/creds/orders", nil},
		{5, app, "POST", "tokens/creds/orders", body{"scopes": "orders:read", "ttl": "1h"}},
		{1, app, "POST", "tokens/creds/orders", body{"scopes": "admin"}},
		{2, app, "GET", "tokens/roles/orders", nil},
		{1, "hvs.nonsense", "GET", "tokens/creds/orders", nil},
		{13, s.RootToken, "POST", "kv/some/secret", body{"user": "u", "password": "p"}},
	} {
		before, err := os.Stat(s.AuditFile)
		if err != nil {
			return nil, err
		}
		if _, err := s.Client(request.token).Do(ctx, request.method, request.path, request.body); err != nil {
			return nil, err
		}
		lines, err := readFrom(s.AuditFile, before.Size())
		if err != nil {
			return nil, err
		}
		if len(lines) != 2 {
			return nil, fmt.Errorf("%s %s: %d entries, want 2", request.method, request.path, len(lines))
		}
		pairs = append(pairs, pair{request.weight, lines})
	}
	return pairs, nil
}

func readFrom(file string, offset int64) ([][]byte, error) {
	raw, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	return bytes.Split(bytes.TrimSuffix(raw[offset:], []byte("\n")), []byte("\n")), nil
}

// variable finds what differs from request to request.
var variable = regexp.MustCompile(`"(id|entity_id|client_id|token|token_id|lease_id|remote_address|remote_port|time|client_ip)":("[^"]*"|[0-9]+)`)

// line is a template: literals, and between them what to fill in.
type line struct {
	literals [][]byte
	fields   []string
}

func parse(raw []byte) line {
	var l line
	at := 0
	for _, m := range variable.FindAllSubmatchIndex(raw, -1) {
		value := raw[m[4]:m[5]]
		name := string(raw[m[2]:m[3]])
		if name == "id" && len(value) != len(`"00000000-0000-0000-0000-000000000000"`) {
			continue // of the namespace
		}
		l.literals = append(l.literals, raw[at:m[4]])
		l.fields = append(l.fields, name)
		at = m[5]
	}
	l.literals = append(l.literals, raw[at:])
	return l
}

// How many there are of each, so that no memory of them is large enough.
const (
	entities  = 1_000_000
	addresses = 1_000_000
)

// generate writes the log. A token that is issued is introspected later, some
// of the time.
func generate(ctx context.Context, path string, pairs []pair, size int64) (lines, written int64, err error) {
	f, err := os.Create(path)
	if err != nil {
		return 0, 0, err
	}
	w := bufio.NewWriterSize(f, 1<<20)
	var choices [][2]line
	for _, p := range pairs {
		for range p.weight {
			choices = append(choices, [2]line{parse(p.lines[0]), parse(p.lines[1])})
		}
	}
	r := rand.New(rand.NewPCG(1, 2)) //nolint:gosec // the same log every time
	now := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	var buf []byte
	for written < size {
		now = now.Add(time.Duration(r.IntN(2_000_000)))
		v := values{
			"id": uuid(r.Uint64(), r.Uint64()), "entity_id": uuid(7, r.Uint64N(entities)), "client_id": uuid(7, r.Uint64N(entities)),
			"token": hmac(r.Uint64()), "client_ip": hmac(r.Uint64N(addresses)), "token_id": id(r.Uint64()), "lease_id": `"tokens/creds/orders/` + strconv.FormatUint(r.Uint64(), 36) + `"`,
			"remote_address": fmt.Sprintf(`"10.%d.%d.%d"`, r.IntN(addresses)>>16, r.IntN(256), r.IntN(256)), "remote_port": strconv.Itoa(1024 + r.IntN(60000)),
		}
		for _, l := range choices[r.IntN(len(choices))] {
			now = now.Add(time.Duration(r.IntN(500_000)))
			v["time"] = `"` + now.Format(time.RFC3339Nano) + `"`
			buf = l.fill(buf[:0], v)
			if _, err := w.Write(buf); err != nil {
				return 0, 0, errors.Join(err, f.Close())
			}
			written += int64(len(buf))
			lines++
		}
		if lines%100_000 == 0 && ctx.Err() != nil {
			return 0, 0, errors.Join(ctx.Err(), f.Close())
		}
	}
	return lines, written, errors.Join(w.Flush(), f.Close())
}

type values map[string]string

func (l line) fill(buf []byte, v values) []byte {
	for i, name := range l.fields {
		buf = append(buf, l.literals[i]...)
		buf = append(buf, v[name]...)
	}
	buf = append(buf, l.literals[len(l.literals)-1]...)
	return append(buf, '\n')
}

func uuid(a, b uint64) string {
	return fmt.Sprintf(`"%08x-%04x-%04x-%04x-%012x"`, uint32(a), uint16(a>>32), uint16(a>>48), uint16(b>>48), b&(1<<48-1))
}

func hmac(n uint64) string {
	return fmt.Sprintf(`"hmac-sha256:%016x%016x%016x%016x"`, n*0x9e3779b97f4a7c15, n, n>>1, n>>2)
}

func id(n uint64) string { return fmt.Sprintf(`"%022s"`, strconv.FormatUint(n, 36)) }
