#!/usr/bin/env bash
# What the engine does, from an empty Vault to an alert from its audit log, with
# each step checked. Needs Go and make; leaves nothing behind.
# shellcheck disable=SC2016 # commands are evaluated by run, refused and assign
set -euo pipefail
# shellcheck source=scripts/lib.sh
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
# shellcheck source=scripts/setup.sh
source "$repo/scripts/setup.sh"

finished=false
started=
watch_pid=

stop_tokenwatch() {
  [[ -n $watch_pid ]] || return 0
  kill -TERM "$watch_pid" 2>/dev/null || true
  wait "$watch_pid" 2>/dev/null || true
  watch_pid=
}

finish() {
  local status=$?
  if [[ -n $started ]] && ((status != 0 || failures > 0)) && [[ -s $vault_log ]] && ((status < 128)); then
    heading "Vault's log ends with"
    tail -n 15 "$vault_log"
  fi
  stop_tokenwatch
  remove_vault
  echo
  if $finished && ((failures == 0)); then
    printf '%sPASSED%s: %d checks in %d s. Vault is stopped, its files are removed.\n' \
      "$green$bold" "$plain" "$checks" "$((SECONDS - started))"
    echo "To try it yourself: make dev"
    exit 0
  fi
  if ((status > 128)); then
    printf '%sINTERRUPTED%s: Vault is stopped, its files are removed.\n' "$red$bold" "$plain"
    exit "$status"
  fi
  if ((failures == 0)); then
    printf '%sFAILED%s: the demo did not finish.\n' "$red$bold" "$plain"
  else
    printf '%sFAILED%s: %d of %d checks.\n' "$red$bold" "$plain" "$failures" "$checks"
  fi
  exit 1
}
trap finish EXIT

# introspect VARIABLE [QUESTION…]: asks about the token in VARIABLE, through stdin.
introspect() {
  local variable=$1
  shift
  run "printf %s \"\$$variable\" | vault write tokens/introspect token=-${*:+ $*}"
}

listed() { grep -qx "$1" <<<"$out"; }
# await SECONDS TEXT FILE: whether the text appears in the file in time.
await() {
  local deadline=$((SECONDS + $1))
  until grep -qF -e "$2" "$3" 2>/dev/null; do
    if ((SECONDS > deadline)); then return 1; fi
    sleep 0.1
  done
}
greater_by() { (($1 - $2 >= $3)); } # A B N: A is at least N more than B

is_public_key_set() { [[ $out == *'"kty"'* && $out != *'"d"'* ]]; }
# shows TEXT…: every text is in $out.
shows() {
  local text
  for text in "$@"; do [[ $out == *"$text"* ]] || return 1; done
}
never_logged() {
  [[ -s $AUDIT_LOG && -s $vault_log ]] && ! grep -qF -e "$1" "$AUDIT_LOG" "$vault_log"
}

prepare
SECONDS=0
started=0
start_vault

heading "1. A Vault over TLS, with the engine mounted at tokens/"
assign "export VAULT_ADDR=$VAULT_ADDR VAULT_CACERT=$VAULT_CACERT"
run 'vault status'
expect "the server is unsealed, its certificate is trusted" false "$(field Sealed)"
assign "AUDIT_LOG=$AUDIT_LOG"
set_up_mount

heading "2. Who may do what: an operator, an application, an API server"
set_up_parties

heading "3. The operator defines a role of each type"
act_as "the operator" OPERATOR_TOKEN
set_up_roles
run 'vault list tokens/roles'
for role in orders-key orders-bearer orders-jwt; do
  check "$role is listed" listed "$role"
done
refused "the operator cannot issue tokens" "permission denied" 'vault read tokens/creds/orders-key'

heading "4. The application gets a token of each type, with a lease"
act_as "the application" APPLICATION_TOKEN
run 'vault read tokens/creds/orders-key'
expect "an API key" api_key "$(field token_type)"
keep KEY token
keep KEY_ID token_id
keep KEY_LEASE lease_id
run 'vault read tokens/creds/orders-bearer'
expect "a bearer token" bearer "$(field token_type)"
keep BEARER token
keep BEARER_LEASE lease_id
run 'vault read tokens/creds/orders-jwt'
expect "a JWT" jwt "$(field token_type)"
keep JWT token
keep JWT_LEASE lease_id
refused "the application cannot see or change roles" "permission denied" 'vault read tokens/roles/orders-key'

heading "5. The API server asks whether the tokens it receives are active"
act_as "the API server" API_SERVER_TOKEN
introspect KEY
expect "the API key is active" true "$(field active)"
expect "and has its role's default scopes" orders:read "$(field scope)"
introspect BEARER required_scopes=orders:write audience=https://orders.example.com
expect "the bearer token is active, and may write orders" true "$(field active)"
keep BEARER_EXPIRY exp
introspect BEARER audience=https://billing.example.com
expect "it is not valid for another API" false "$(field active)"
expect "because of its audience" true "$(field audience_failed)"
introspect JWT
expect "the JWT is active" true "$(field active)"
assign 'MISTYPED="${KEY%?}"'
introspect MISTYPED
expect "a mistyped key is not active" false "$(field active)"
say "A JWT can also be verified without asking: the public keys need no login."
run 'VAULT_TOKEN= vault read -format=raw tokens/jwks'
check "the key set has a public key and no private one" is_public_key_set
refused "the API server cannot get a token itself" "permission denied" 'vault read tokens/creds/orders-key'

heading "6. The application asks for less than its role allows"
act_as "the application" APPLICATION_TOKEN
run 'vault write tokens/creds/orders-bearer scopes=orders:read ttl=10m'
expect "one scope instead of two" orders:read "$(field scope)"
expect "ten minutes instead of an hour" 600 "$(field expires_in)"
keep NARROW token
refused "a scope that the role does not allow is refused by name" "orders:admin" \
  'vault write tokens/creds/orders-bearer scopes=orders:read,orders:admin'
act_as "the API server" API_SERVER_TOKEN
introspect NARROW required_scopes=orders:write
expect "the narrow token may not write" false "$(field active)"
expect "because of its scope" true "$(field scope_failed)"

heading "7. Renewal"
act_as "the application" APPLICATION_TOKEN
run 'vault lease renew -increment=2h "$BEARER_LEASE"'
refused "a JWT cannot be renewed: its expiry is signed" "not renewable" 'vault lease renew "$JWT_LEASE"'
act_as "the API server" API_SERVER_TOKEN
introspect BEARER
check "the bearer token lives an hour longer" greater_by "$(field exp)" "$BEARER_EXPIRY" 3500

heading "8. Revocation"
act_as "the application" APPLICATION_TOKEN
say "It revokes a token that it holds:"
run 'printf %s "$BEARER" | vault write tokens/revoke token=-'
act_as "the operator" OPERATOR_TOKEN
run 'vault lease revoke -sync "$KEY_LEASE"'
run 'vault lease revoke -sync "$JWT_LEASE"'
refused "the API key's record is gone" "No value found" 'vault read "tokens/tokens/$KEY_ID"'
act_as "the API server" API_SERVER_TOKEN
for token in BEARER KEY JWT; do
  introspect "$token"
  expect "the revoked token is inactive" false "$(field active)"
done

heading "9. Expiry"
act_as "the application" APPLICATION_TOKEN
run 'vault write tokens/creds/orders-bearer ttl=5s'
keep SHORT token
act_as "the API server" API_SERVER_TOKEN
introspect SHORT
expect "the token is active" true "$(field active)"
say "Asking again until it is not …"
deadline=$((SECONDS + 20))
while [[ $(printf %s "$SHORT" | vault write -field=active tokens/introspect token=-) == true ]] && ((SECONDS < deadline)); do
  sleep 0.2
done
introspect SHORT
expect "the token has expired" false "$(field active)"

heading "10. The audit log"
say "The last successful introspection of the API key: the request, then the answer."
run 'grep -F "$KEY_ID" "$AUDIT_LOG" | grep -F "\"path\":\"tokens/introspect\"" | grep -oE "\"(active|exp|role|scope|token|token_id|token_type)\":[^,}]*"'
check "token_id, role and token_type are readable" shows "\"token_id\":\"$KEY_ID\"" '"role":"orders-key"' '"token_type":"api_key"' '"active":true'
check "the token is an HMAC" shows '"token":"hmac-sha256:'
for token in KEY BEARER JWT NARROW SHORT; do
  check "the secret of \$$token is neither in the audit log nor in Vault's log" never_logged "${!token}"
done

heading "11. Somebody guesses tokens, and tokenwatch raises an alert"
say "tokenwatch follows the audit log and needs nothing else from Vault."
assign "ALERTS=$work/alerts.txt"
assign 'bin/tokenwatch follow -file "$AUDIT_LOG" -from-end >"$ALERTS" 2>"$ALERTS.log" &'
watch_pid=$!
check "it follows the log" await 10 "msg=following" "$ALERTS.log"
say "The API server asks about what a client presents, as it should:"
introspect NARROW client_ip=192.0.2.7
expect "a good token is active" true "$(field active)"
run 'for i in {1..25}; do printf vtk_guess%d "$i" | vault write -field=active tokens/introspect token=- client_ip=203.0.113.9; echo; done | sort | uniq -c'
check "none of the guessed ones is active" shows "25 false"
check "tokenwatch has noticed" await 10 "    do " "$ALERTS"
run 'cat "$ALERTS"'
check "it says what happened, how severe it is, and what to do first" shows WARNING "Client presented many inactive tokens" "    do "
expect "and nothing else: a good token raises no alert" 1 "$(grep -c '^2' "$ALERTS")"
finished=true
