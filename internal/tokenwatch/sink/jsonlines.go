package sink

import (
	"context"
	"encoding/json"
	"io"

	"github.com/vault-tokens/vault-plugin-secrets-tokens/internal/tokenwatch"
)

// JSONLines writes each alert as a line of JSON.
type JSONLines struct {
	W     io.Writer
	Label string // its Name, such as "json FILE"
}

// Name implements tokenwatch.Sink.
func (j *JSONLines) Name() string { return j.Label }

// Send implements tokenwatch.Sink. JSON escapes control characters.
func (j *JSONLines) Send(_ context.Context, a tokenwatch.Alert) error {
	line, err := json.Marshal(a)
	if err != nil {
		return err
	}
	_, err = j.W.Write(append(line, '\n'))
	return err
}
