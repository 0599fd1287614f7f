# Prometheus: reads the engine's figures and Vault's own metrics, and nothing else.
path "tokens/status" {
  capabilities = ["read"]
}
path "sys/metrics" {
  capabilities = ["read"]
}
