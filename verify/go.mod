module github.com/vault-tokens/vault-plugin-secrets-tokens/verify

go 1.25.0
