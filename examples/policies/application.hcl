# An application that needs tokens for the orders API: it gets and renews them,
# and gives back the ones it holds. `read` issues with the role's defaults,
# `update` lets it narrow scopes, life and audience.
path "tokens/creds/orders-*" {
  capabilities = ["read", "update"]
}
path "tokens/revoke" {
  capabilities = ["update"]
}
path "sys/leases/renew" {
  capabilities = ["update"]
}
