# The example that demo.sh and dev.sh set up: an orders API, an application that
# calls it, and an operator. Sourced after lib.sh, with a root VAULT_TOKEN.
# shellcheck shell=bash disable=SC2016 # commands are evaluated by run and assign

set_up_mount() {
  run 'vault secrets enable -path=tokens vault-plugin-secrets-tokens'
  run 'scripts/setup-audit.sh "$AUDIT_LOG"'
}

# Each party gets a policy that allows only what it needs, and a login without
# Vault's default policy.
set_up_parties() {
  run 'vault policy write tokens-operator examples/policies/operator.hcl'
  run 'vault policy write tokens-application examples/policies/application.hcl'
  run 'vault policy write tokens-api-server examples/policies/api-server.hcl'
  assign 'OPERATOR_TOKEN=$(vault token create -policy=tokens-operator -no-default-policy -ttl=8h -field=token)'
  run 'vault auth enable approle'
  log_in orders-application tokens-application APPLICATION_TOKEN
  log_in orders-api-server tokens-api-server API_SERVER_TOKEN
}

# log_in NAME POLICY VARIABLE: an AppRole login; its token is left in VARIABLE. The
# secret id is passed on stdin, so that it is on no command line.
log_in() {
  run "vault write auth/approle/role/$1 token_policies=$2 token_no_default_policy=true token_ttl=8h"
  assign "ROLE_ID=\$(vault read -field=role_id auth/approle/role/$1/role-id)"
  assign "SECRET_ID=\$(vault write -force -field=secret_id auth/approle/role/$1/secret-id)"
  assign "$3=\$(printf %s \"\$SECRET_ID\" | vault write -field=token auth/approle/login role_id=\"\$ROLE_ID\" secret_id=-)"
}

# As the operator.
set_up_roles() {
  run 'vault write tokens/config issuer="$VAULT_ADDR/v1/tokens"'
  run 'vault write tokens/roles/orders-key token_type=api_key ttl=24h max_ttl=720h allowed_scopes="orders:*" default_scopes=orders:read'
  run 'vault write tokens/roles/orders-bearer token_type=bearer ttl=1h max_ttl=8h allowed_scopes=orders:read,orders:write default_scopes=orders:read,orders:write audiences=https://orders.example.com'
  run 'vault write tokens/roles/orders-jwt token_type=jwt ttl=15m allowed_scopes=orders:read,orders:write default_scopes=orders:read audiences=https://orders.example.com'
}
