#!/usr/bin/env bash
# The demo's Vault, set up and left running until Ctrl-C.
set -euo pipefail
# shellcheck source=scripts/lib.sh
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
# shellcheck source=scripts/setup.sh
source "$repo/scripts/setup.sh"

finish() {
  local status=$?
  remove_vault
  echo
  # Ctrl-C is the normal end.
  if ((status == 130)); then
    echo "Vault is stopped, its files are removed."
    exit 0
  fi
  exit "$status"
}
trap finish EXIT

prepare
start_vault
ROOT_TOKEN=$VAULT_TOKEN

heading "Setting up"
set_up_mount
set_up_parties
act_as "the operator" OPERATOR_TOKEN
set_up_roles

heading "Vault is running, with the engine at tokens/. Paste this into another shell:"
cat <<TEXT

export VAULT_ADDR=$VAULT_ADDR
export VAULT_CACERT=$VAULT_CACERT
export VAULT_TOKEN=$ROOT_TOKEN
export PATH=$work/bin:\$PATH

Then, for example:

TOKEN=\$(vault read -field=token tokens/creds/orders-key)
printf %s "\$TOKEN" | vault write tokens/introspect token=-
vault list tokens/tokens

That is Vault's root token. For less power, set VAULT_TOKEN to one of these:

export OPERATOR_TOKEN=$OPERATOR_TOKEN
export APPLICATION_TOKEN=${APPLICATION_TOKEN:-}
export API_SERVER_TOKEN=${API_SERVER_TOKEN:-}

Audit log   $AUDIT_LOG
Vault's log $vault_log

Everything is in memory. Ctrl-C stops Vault and removes its files.
TEXT

wait "$vault_pid" || true
echo "Vault stopped by itself. Its log ends with:" >&2
tail -n 20 "$vault_log" >&2
exit 1
