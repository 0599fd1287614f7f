// Command vault-plugin-secrets-tokens is the plugin binary that Vault runs.
package main

import (
	"os"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/vault/api"
	"github.com/hashicorp/vault/sdk/plugin"

	tokens "github.com/vault-tokens/vault-plugin-secrets-tokens"
)

func main() {
	meta := &api.PluginAPIClientMeta{}
	if err := meta.FlagSet().Parse(os.Args[1:]); err != nil {
		fail(err)
	}
	err := plugin.ServeMultiplex(&plugin.ServeOpts{
		BackendFactoryFunc: tokens.Factory,
		TLSProviderFunc:    api.VaultPluginTLSProvider(meta.GetTLSConfig()),
	})
	if err != nil {
		fail(err)
	}
}

func fail(err error) {
	hclog.New(&hclog.LoggerOptions{}).Error("plugin stopped", "error", err)
	os.Exit(1)
}
