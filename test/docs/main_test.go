// Package docs runs the commands of README.md and docs/, and holds what they say
// against the programs.
package docs

import (
	"testing"

	"github.com/vault-tokens/vault-plugin-secrets-tokens/test/vaulttest"
)

func TestMain(m *testing.M) { vaulttest.Main(m) }
