package audit

import (
	"bytes"
	"os"
	"testing"

	"github.com/vault-tokens/vault-plugin-secrets-tokens/watch/event"
)

func BenchmarkParse(b *testing.B) {
	raw, err := os.ReadFile("/tmp/vaulttest-2311954639/audit.log")
	if err != nil {
		b.Fatal(err)
	}
	lines := bytes.SplitAfter(bytes.TrimSpace(raw), []byte("\n"))
	p := NewParser()
	var e event.Event
	b.SetBytes(int64(len(raw) / len(lines)))
	b.ReportAllocs()
	for i := 0; b.Loop(); i++ {
		if err := p.Parse(lines[i%len(lines)], &e); err != nil {
			b.Fatal(err)
		}
	}
}
