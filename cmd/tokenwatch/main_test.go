package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"runtime"
	"strings"
	"testing"
)

func file(t *testing.T, name, content string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestUsage(t *testing.T) {
	var out bytes.Buffer
	if err := run(t.Context(), []string{"--help"}, &out); err != nil || !strings.Contains(out.String(), "tokenwatch report") {
		t.Errorf("%v: %s", err, out.String())
	}
	for _, command := range []string{"follow", "replay", "report", "check", "rules"} {
		if err := run(t.Context(), []string{command, "--help"}, &out); !errors.Is(err, flag.ErrHelp) {
			t.Errorf("%s --help: %v", command, err)
		}
		if err := run(t.Context(), []string{command, "-nonsense"}, &out); !errors.Is(err, errUsage) {
			t.Errorf("%s -nonsense: %v", command, err)
		}
	}
	for _, args := range [][]string{{"nonsense"}, {}, {"replay"}, {"report"}, {"check"}, {"follow", "x"}, {"report", "-format", "x", "f"}, {"report", "-from", "x", "f"}, {"follow", "-file", "a", "-socket", "tcp://b:1"}, {"rules", "x"}} {
		if err := run(t.Context(), args, &out); !errors.Is(err, errUsage) {
			t.Errorf("%q: %v", args, err)
		}
	}
}

func TestCheck(t *testing.T) {
	var out bytes.Buffer
	if err := run(t.Context(), []string{"check", "-config", file(t, "c.yaml", "source: {file: /x}\n")}, &out); err != nil {
		t.Error(err)
	}
	if !strings.Contains(out.String(), "is valid") || !strings.Contains(out.String(), "revoked_token") || !strings.Contains(out.String(), "without state") {
		t.Error(out.String())
	}
	for content, want := range map[string]string{"rules: {x: {}}": "field x not found", "geo_database: /nonexistent": "/nonexistent", "rules: {silence: {after: 0s}}": "rules.silence.after"} {
		if err := run(t.Context(), []string{"check", "-config", file(t, "c.yaml", content)}, &out); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", content, err)
		}
	}
}

func TestRules(t *testing.T) {
	var out bytes.Buffer
	if err := run(t.Context(), []string{"rules", "-json"}, &out); err != nil || !json.Valid(out.Bytes()) {
		t.Error(err)
	}
	out.Reset()
	if err := run(t.Context(), []string{"rules"}, &out); err != nil || !strings.Contains(out.String(), "revoked_token (critical)") || !strings.Contains(out.String(), "threshold") {
		t.Error(err, out.String())
	}
}

// hostileLog has what an attacker can get into an audit log: names and paths
// with anything in them, very long and very deep values, and broken lines.
func hostileLog(t *testing.T) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "audit.log")
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	w := bufio.NewWriter(f)
	text, _ := json.Marshal("\x1b]0;owned\x07\x1b[2J\r\nCRITICAL faked\u202e\u2066\u0085<img src=x onerror=alert(1)>")
	raw := string(text[1 : len(text)-1])
	entry := func(name, data string) {
		fmt.Fprintf(w, `{"auth":{"accessor":"%[1]s","display_name":"%[1]s","entity_id":"%[1]s","policies":["root"]},"error":"permission denied %[1]s","request":{"data":%[2]s,"id":"%[1]s","mount_point":"tokens/","mount_type":"vault-plugin-secrets-tokens","operation":"%[1]s","path":"tokens/creds/%[1]s","remote_address":"%[1]s"},"response":{"data":%[2]s},"time":"2026-01-01T00:00:00Z","type":"response"}`+"\n", name, data)
	}
	for i := range 100 {
		entry(fmt.Sprint(raw, i), "{}")
	}
	entry(strings.Repeat("A", 900_000), "{}") // several times in its line
	fmt.Fprintf(w, "%s\n%s\n", strings.Repeat("[", 1<<20-10), strings.Repeat(`{"a":`, 1<<17))
	for range 300 << 20 / (1 << 20) { // one line of 300 MiB
		fmt.Fprint(w, strings.Repeat(`{"auth":"`, 1<<20/9))
	}
	fmt.Fprint(w, "\n\x00\xff\xfe\n\x1b[2J\n")
	entry("fine", `{"x":`+strings.Repeat("[", 100)+strings.Repeat("]", 100)+`}`)
	if err := errors.Join(w.Flush(), f.Close()); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestHostileLog(t *testing.T) {
	log := hostileLog(t)
	var out bytes.Buffer
	if err := run(context.Background(), []string{"replay", log}, &out); err != nil {
		t.Fatal(err)
	}
	if bad := regexp.MustCompile(`[^\x20-\x7e\n…]`).FindString(out.String()); bad != "" {
		t.Errorf("%q is written to the terminal", bad)
	}
	for line := range strings.Lines(out.String()) {
		if strings.HasPrefix(line, "CRITICAL") {
			t.Errorf("a line that the log wrote: %s", line)
		}
	}
	if !strings.Contains(out.String(), "Root token was used") {
		t.Error("the attack among it was not seen")
	}
	out.Reset()
	if err := run(context.Background(), []string{"replay", "-json", "-counts", log}, &out); err != nil {
		t.Fatal(err)
	}
	var counts struct{ Lines, Malformed, Oversized int }
	last := out.Bytes()[bytes.LastIndexByte(bytes.TrimSpace(out.Bytes()), '\n')+1:]
	if err := json.Unmarshal(last, &counts); err != nil {
		t.Fatal(err)
	}
	if counts.Lines != 107 || counts.Malformed != 4 || counts.Oversized != 2 {
		t.Errorf("%+v", counts)
	}
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	if m.Sys > 200<<20 {
		t.Errorf("%d MiB of memory", m.Sys>>20)
	}
}
