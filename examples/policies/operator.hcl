# Who defines roles and keys, looks tokens up and revokes them. Cannot issue one.
path "tokens/config" {
  capabilities = ["create", "read", "update"]
}
path "tokens/roles" {
  capabilities = ["list"]
}
path "tokens/roles/*" {
  capabilities = ["create", "read", "update", "patch", "delete", "list"]
}
path "tokens/keys" {
  capabilities = ["list"]
}
path "tokens/keys/*" {
  capabilities = ["create", "read", "update", "delete", "list"]
}
path "tokens/tokens" {
  capabilities = ["list"]
}
path "tokens/tokens/*" {
  capabilities = ["read", "delete", "list"]
}

# Leases of this mount: list, look up, and revoke all those of a role at once.
path "sys/leases/lookup/tokens/creds/*" {
  capabilities = ["list", "sudo"]
}
path "sys/leases/revoke-prefix/tokens/creds/*" {
  capabilities = ["update", "sudo"]
}
# Vault takes the lease's id in the body here, so this reaches the leases of
# other mounts too, for whoever knows their ids.
path "sys/leases/lookup" {
  capabilities = ["update"]
}
path "sys/leases/revoke" {
  capabilities = ["update"]
}
