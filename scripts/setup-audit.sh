#!/usr/bin/env bash
set -euo pipefail

usage() {
  cat <<'TEXT'
usage: scripts/setup-audit.sh [-m MOUNT] [-d DEVICE] AUDIT_FILE

Makes the use of the tokens engine readable in Vault's audit log, and no secret:
enables a file audit device, and tunes the mount so that the facts named in this
script are written in clear instead of as an HMAC. May be run again at any time;
what was tuned by hand is kept.

  AUDIT_FILE  absolute path on the Vault server, writable by Vault; or stdout
  -m MOUNT    where the engine is mounted (default: tokens)
  -d DEVICE   name of the audit device (default: file)

Takes VAULT_ADDR, VAULT_TOKEN, VAULT_CACERT and so on as the vault CLI does, and
the CLI itself from $VAULT_BIN or PATH. The token needs:
  path "sys/audit"                  { capabilities = ["read", "sudo"] }
  path "sys/audit/DEVICE"           { capabilities = ["create", "update", "sudo"] }
  path "sys/mounts/MOUNT/tune"      { capabilities = ["read", "update"] }
TEXT
}

# Vault writes numbers and booleans (active, expires_in, exp, scope_failed, …) in
# clear by itself, and HMACs every string but those whose key is listed here.
#
# A key counts at every depth of the body, the innermost one deciding. So each
# name must be harmless wherever it can occur, also as a key that somebody chose
# in a role's `metadata` or `claims`: if they have a key `scope`, its value is
# readable in the audit log. That is why generic names (`key`, `id`, `subject`)
# are missing, and `token` above all. `sub` and `client_ip` are missing because
# they may be personal data; their HMACs are still equal for equal values.
#
# Requests are what callers send, mistakes included: a whole token in the wrong
# field must not become readable. So no field of the requests that carry a token
# (introspect: client_ip, required_scopes, audience) is here, nor `token_id` and
# `role`, which no body needs. What was granted is in the responses.
request_keys="token_type allowed_scopes default_scopes scopes audiences ttl max_ttl not_before_leeway generate_lease max_tokens prefix bound_cidrs algorithm issuer"
response_keys="token_id token_type role scope scopes audience aud client_id iss jti kid issued_at expires_at allowed_scopes default_scopes audiences prefix bound_cidrs algorithm issuer"

# Keys that hold a secret in some request or response.
secret_keys="token http_raw_body"

# Conditional requests for the public key set and status lists: Vault passes
# these headers only if the mount says so.
request_headers="If-None-Match"
response_headers="ETag"

die() {
  echo "setup-audit: $*" >&2
  exit 1
}

mount=tokens
device="file"
while getopts ":m:d:h" option; do
  case $option in
  m) mount=${OPTARG%/} ;;
  d) device=${OPTARG%/} ;;
  h)
    usage
    exit
    ;;
  *)
    usage >&2
    exit 2
    ;;
  esac
done
shift $((OPTIND - 1))
if (($# != 1)); then
  usage >&2
  exit 2
fi
audit_file=$1
[[ $audit_file == /* || $audit_file == stdout ]] || die "AUDIT_FILE must be an absolute path: it is the Vault server that opens it"

cli=${VAULT_BIN:-vault}
command -v "$cli" >/dev/null || die "no vault command found; set VAULT_BIN to its path"

enable_device() {
  local devices current
  # Having none is an exit code too, told apart from a failure by its text.
  devices=$("$cli" audit list -detailed 2>&1) || [[ $devices == *"No audit devices"* ]] ||
    die "cannot list the audit devices: $devices"
  if ! grep -q "^$device/ " <<<"$devices"; then
    "$cli" audit enable -path="$device" file file_path="$audit_file"
    return
  fi
  current=$(grep "^$device/ " <<<"$devices" | grep -o 'file_path=[^ ]*' || true)
  [[ $current == "file_path=$audit_file" ]] ||
    die "the audit device $device/ exists and is another one (${current:-not a file}); choose a name with -d"
  echo "Audit device $device/ writes to $audit_file already."
}

# list_of KEY TUNING: the words of a list, as `vault read` prints it: [one two].
list_of() {
  awk -v key="$1" '$1 == key { $1 = ""; gsub(/[][]/, ""); print }' <<<"$2"
}

# flags NAME WORD…: the words once each, one per line, as -NAME=WORD: the CLI
# takes a list as a repeated flag and does not split at commas.
flags() {
  local name=$1
  shift
  printf '%s\n' "$@" | sort -u | sed "s/^/-$name=/"
}

tune_mount() {
  local tuning wanted key
  tuning=$("$cli" read "sys/mounts/$mount/tune") || die "cannot read the tuning of the mount $mount/"
  # Tuning replaces a list as a whole, so what is there is written again.
  # shellcheck disable=SC2046,SC2086 # lists of words
  wanted=$(
    flags audit-non-hmac-request-keys $request_keys $(list_of audit_non_hmac_request_keys "$tuning")
    flags audit-non-hmac-response-keys $response_keys $(list_of audit_non_hmac_response_keys "$tuning")
    flags passthrough-request-headers $request_headers $(list_of passthrough_request_headers "$tuning")
    flags allowed-response-headers $response_headers $(list_of allowed_response_headers "$tuning")
  )
  for key in $secret_keys; do
    if grep -qx -- "-audit-non-hmac-re[a-z]*-keys=$key" <<<"$wanted"; then
      die "$mount/ is tuned to write '$key' in clear, which can hold a token: take it out with 'vault secrets tune', then run this again"
    fi
  done
  # shellcheck disable=SC2086
  "$cli" secrets tune $wanted "$mount/"
}

# The mount first: were the device on before, its first lines would hide what
# they are there to show.
tune_mount
enable_device
