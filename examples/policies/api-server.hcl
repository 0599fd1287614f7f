# An API server: it may only ask whether a token that it received is active.
path "tokens/introspect" {
  capabilities = ["update"]
}
# The same for one that asks as an OAuth 2.0 client (RFC 7662).
path "tokens/oauth2/introspect" {
  capabilities = ["update"]
}
