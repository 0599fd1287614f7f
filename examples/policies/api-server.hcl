# An API server: it may only ask whether a token that it received is active.
path "tokens/introspect" {
  capabilities = ["update"]
}
