# An application that needs tokens for the orders API: it gets, renews and revokes
# its own. `read` issues with the role's defaults, `update` lets it narrow scopes,
# lifetime and audience, bind the token to a key, and add the metadata that the
# role allows.
path "tokens/creds/orders-*" {
  capabilities = ["read", "update"]
}
path "tokens/revoke" {
  capabilities = ["update"]
}
# The same for a library that knows OAuth 2.0 (RFC 7009).
path "tokens/oauth2/revoke" {
  capabilities = ["update"]
}
path "sys/leases/renew" {
  capabilities = ["update"]
}
