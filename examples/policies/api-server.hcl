# An API server: it asks whether a token that it was shown is active, no more.
path "tokens/introspect" {
  capabilities = ["update"]
}
