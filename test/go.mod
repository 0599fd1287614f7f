module github.com/vault-tokens/vault-plugin-secrets-tokens/test

go 1.26.0
