# An operator: defines roles and keys, looks up tokens and revokes them, but cannot
# issue one.
path "tokens/config" {
  capabilities = ["create", "read", "update"]
}
path "tokens/roles" {
  capabilities = ["list"]
}
# Includes roles/<name>/revoke, which ends all tokens of a role.
path "tokens/roles/*" {
  capabilities = ["create", "read", "update", "patch", "delete", "list"]
}
path "tokens/keys" {
  capabilities = ["list"]
}
# Includes keys/<name>/rotate-emergency, which ends all tokens of a key.
path "tokens/keys/*" {
  capabilities = ["create", "read", "update", "delete", "list"]
}
path "tokens/tokens" {
  capabilities = ["list"]
}
path "tokens/tokens/*" {
  capabilities = ["read", "delete", "list"]
}
# Ends all tokens of an entity.
path "tokens/entities/*" {
  capabilities = ["read", "update"]
}
path "tokens/tidy" {
  capabilities = ["update"]
}
path "tokens/tidy/*" {
  capabilities = ["read", "update"]
}
path "tokens/status" {
  capabilities = ["read"]
}

# The leases of this mount: list them, revoke one, revoke all of a role. This is
# for `vault lease revoke` and the API's sys/leases/revoke/<lease_id>; the form with
# the id in the body would allow revoking leases of every mount.
path "sys/leases/lookup/tokens/creds/*" {
  capabilities = ["list", "sudo"]
}
path "sys/leases/revoke/tokens/creds/*" {
  capabilities = ["update"]
}
path "sys/leases/revoke-prefix/tokens/creds/*" {
  capabilities = ["update", "sudo"]
}
