# A job that rotates signing keys on a schedule. Nothing that it can do ends a
# token: that takes keys/<name>/rotate-emergency, which is not in here.
path "tokens/keys/+/rotate" {
  capabilities = ["update"]
}
