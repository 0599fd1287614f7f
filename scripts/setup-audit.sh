#!/usr/bin/env bash
set -euo pipefail

usage() {
  cat <<'TEXT'
usage: scripts/setup-audit.sh [-m MOUNT] [-d DEVICE] [-p] AUDIT_FILE

Makes Vault's audit log show in clear who used which token of the engine, and
no secret: tunes the mount so that the fields named in this script are written
in clear instead of as an HMAC, and enables a file audit device. May be run again
at any time; tuning that was done by hand is kept.

  AUDIT_FILE  absolute path on the Vault server, writable by Vault; or stdout
  -m MOUNT    where the engine is mounted (default: tokens)
  -d DEVICE   name of the audit device (default: file)
  -p          print the stanza for OpenBao's configuration, and do nothing else

OpenBao takes audit devices from the configuration of its servers and refuses to
enable one through the API. There, this tunes the mount, and succeeds if a device
writes to AUDIT_FILE; if none does, it prints the stanza to add to the
configuration and fails.

Reads VAULT_ADDR, VAULT_TOKEN, VAULT_CACERT and so on as the vault CLI does. Uses
the CLI in $VAULT_BIN, or else vault or bao on PATH. The token needs:
  path "sys/audit"                  { capabilities = ["read", "sudo"] }
  path "sys/audit/DEVICE"           { capabilities = ["create", "update", "sudo"] }
  path "sys/mounts/MOUNT/tune"      { capabilities = ["read", "update"] }
TEXT
}

# Vault writes numbers and booleans (active, expires_in, exp, scope_failed, …) in
# clear anyway, and HMACs every string except those whose key is listed here.
#
# A key matches at every depth of the body; the innermost one decides. So each
# name must be harmless wherever it can occur, also as a key that somebody chose
# in a role's `metadata` or `claims`: a value under the key `scope` there is
# written in clear. That is why generic names (`key`, `id`, `subject`) are not
# listed, and above all not `token`. `sub` and `client_ip` are not listed because
# they may be personal data; equal values still have equal HMACs. Nor is
# `display_name`, often a person's name: `entity_id` says whose a token is, and Vault
# writes the caller's in clear with every request.
#
# Requests hold what callers sent, mistakes included: a token in the wrong field
# must not appear in clear. So no field of a request that carries a token
# (introspect: client_ip, required_scopes, audience) is listed, nor `token_id`
# and `role`, which no body needs. The responses show what was granted.
request_keys="token_type allowed_scopes allowed_audiences allowed_metadata standby_introspection default_scopes scopes audiences ttl max_ttl not_before_leeway generate_lease max_tokens prefix bound_cidrs algorithm issuer"
response_keys="token_id token_type role scope scopes audience aud client_id entity_id iss jti kid issued_at expires_at revoked_at allowed_scopes allowed_audiences allowed_metadata default_scopes audiences standby_introspection prefix bound_cidrs algorithm issuer"

# Keys whose value is a secret in some request or response.
secret_keys="token http_raw_body"

# For conditional requests of the public key set and status lists, and for OAuth 2.0
# clients that are to ask again. Vault passes these headers only where the mount is
# tuned to.
request_headers="If-None-Match"
response_headers="ETag Retry-After"

die() {
  echo "setup-audit: $*" >&2
  exit 1
}

mount=tokens
device="file"
print_only=false
while getopts ":m:d:ph" option; do
  case $option in
  m) mount=${OPTARG%/} ;;
  d) device=${OPTARG%/} ;;
  p) print_only=true ;;
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

# stanza declares the device in OpenBao's configuration. The example in OpenBao's
# documentation has log_raw, which writes tokens in clear.
stanza() {
  cat <<TEXT
audit "file" "$device" {
  options {
    file_path = "$audit_file"
  }
}
TEXT
}

if $print_only; then
  stanza
  exit
fi

cli=${VAULT_BIN:-vault}
if [[ -z ${VAULT_BIN:-} ]] && ! command -v vault >/dev/null; then cli=bao; fi
command -v "$cli" >/dev/null || die "neither vault nor bao was found on PATH; set VAULT_BIN to the path of one"

# writer DEVICES: the device, of a detailed list, that writes to the audit file.
# Its name is not asked for: OpenBao's configuration may call it anything.
writer() {
  local line file files=("$audit_file")
  if [[ $audit_file == stdout ]]; then files+=(/dev/stdout); fi
  while read -r line; do
    for file in "${files[@]}"; do
      if [[ "$line " == *" file_path=$file "* ]]; then
        printf '%s\n' "$line"
        return
      fi
    done
  done <<<"$1"
}

enable_device() {
  local devices found current answer
  # Vault exits non-zero when there is no device, as it does when it fails.
  devices=$("$cli" audit list -detailed 2>&1) || [[ $devices == *"No audit devices"* ]] ||
    die "cannot list the audit devices: $devices"
  found=$(writer "$devices")
  if [[ -n $found ]]; then
    if [[ "$found " =~ \ log_raw=(1|[tT]|true|True|TRUE)\  ]]; then
      die "the audit device ${found%% *} has log_raw=${BASH_REMATCH[1]}, which writes tokens in clear: replace it by a device without that option"
    fi
    echo "Audit device ${found%% *} writes to $audit_file already."
    return
  fi
  if grep -q "^$device/ " <<<"$devices"; then
    current=$(grep "^$device/ " <<<"$devices" | grep -o 'file_path=[^ ]*' || true)
    die "the audit device $device/ exists but does not write to $audit_file (${current:-it is not a file device}); choose another name with -d"
  fi
  if answer=$("$cli" audit enable -path="$device" file file_path="$audit_file" 2>&1); then
    printf '%s\n' "$answer"
  elif [[ $answer == *"audit device via API"* ]] || is_openbao; then
    declare_device "$answer"
  else
    die "$answer"
  fi
}

# is_openbao helps where the text of the refusal is not known: it may change. Both
# products have had the same versions, so it does not go by these.
is_openbao() {
  [[ $("$cli" version 2>/dev/null) == OpenBao* ||
    $("$cli" read -format=raw sys/internal/specs/openapi 2>/dev/null) == *'"title":"OpenBao'* ]]
}

# declare_device REFUSAL: prints what to do where the API enables no device.
declare_device() {
  cat >&2 <<TEXT
setup-audit: $mount/ is tuned, but no audit device writes to $audit_file, and this server did not enable one:

$1

OpenBao declares audit devices in the configuration of its servers. Add this to
the configuration of every server of the cluster (OpenBao 2.4 or later):

$(stanza)

Then send each server SIGHUP or restart it, and run this again.
TEXT
  exit 1
}

# list_of KEY TUNING: the words of a list that `vault read` prints as [one two].
list_of() {
  awk -v key="$1" '$1 == key { $1 = ""; gsub(/[][]/, ""); print }' <<<"$2"
}

# flags NAME WORD…: each word once, as -NAME=WORD on a line of its own: the CLI
# takes a list as a repeated flag and does not split at commas.
flags() {
  local name=$1
  shift
  printf '%s\n' "$@" | sort -u | sed "s/^/-$name=/"
}

tune_mount() {
  local tuning wanted key
  tuning=$("$cli" read "sys/mounts/$mount/tune") || die "cannot read the tuning of the mount $mount/"
  # Tuning replaces a list as a whole, so the words already there are repeated.
  # shellcheck disable=SC2046,SC2086 # lists of words
  wanted=$(
    flags audit-non-hmac-request-keys $request_keys $(list_of audit_non_hmac_request_keys "$tuning")
    flags audit-non-hmac-response-keys $response_keys $(list_of audit_non_hmac_response_keys "$tuning")
    flags passthrough-request-headers $request_headers $(list_of passthrough_request_headers "$tuning")
    flags allowed-response-headers $response_headers $(list_of allowed_response_headers "$tuning")
  )
  for key in $secret_keys; do
    if grep -qx -- "-audit-non-hmac-re[a-z]*-keys=$key" <<<"$wanted"; then
      die "$mount/ is tuned to write '$key' in clear, which can be a token: remove it with 'vault secrets tune', then run this again"
    fi
  done
  # shellcheck disable=SC2086
  "$cli" secrets tune $wanted "$mount/"
}

# The mount first: if the device came first, its first lines would hide what it is
# there to show.
tune_mount
enable_device
