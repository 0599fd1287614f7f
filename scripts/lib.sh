# What demo.sh and dev.sh share: reporting what is done, and a throw-away Vault with
# the plugin. Sourced by scripts that run with `set -euo pipefail`.
# shellcheck shell=bash

plugin=vault-plugin-secrets-tokens
repo=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
cd "$repo" || exit

# --- reporting what is done ----------------------------------------------------

bold='' dim='' green='' red='' plain=''
if [[ -t 1 && -z ${NO_COLOR:-} ]]; then
  bold=$'\e[1m' dim=$'\e[2m' green=$'\e[32m' red=$'\e[31m' plain=$'\e[0m'
fi

heading() { printf '\n%s%s%s\n' "$bold" "$1" "$plain"; }
say() { printf '%s\n' "$1"; }

checks=0
failures=0

pass() {
  checks=$((checks + 1))
  printf '  %sok%s    %s\n' "$green" "$plain" "$1"
}

fail() {
  checks=$((checks + 1))
  failures=$((failures + 1))
  printf '  %sFAIL%s  %s\n' "$red" "$plain" "$1"
}

# expect WHAT WANTED GOT
expect() {
  if [[ $3 == "$2" ]]; then pass "$1"; else fail "$1: wanted '$2', got '$3'"; fi
}

# check WHAT COMMAND…: passes if the command succeeds.
check() {
  local what=$1
  shift
  if "$@"; then pass "$what"; else fail "$what"; fi
}

# Commands are given as one string and evaluated, so that what is printed is
# what runs and can be pasted.
show() { printf '%s$ %s%s\n' "$bold" "$1" "$plain"; }
show_output() {
  if [[ -n $out ]]; then printf '%s\n' "$out" | sed "s/^/  $dim/; s/\$/$plain/"; fi
}

# run COMMAND: it must succeed. Its output is shown and left in $out.
out=
run() {
  local status=0
  show "$1"
  out=$(eval "$1" 2>&1) || status=$?
  show_output
  if ((status != 0)); then
    fail "the command above ended with exit code $status"
    exit 1
  fi
}

# assign COMMAND: an assignment or export, made in this shell.
assign() {
  show "$1"
  if ! eval "$1"; then
    fail "the command above failed"
    exit 1
  fi
}

# refused WHAT TEXT COMMAND: it must fail, with TEXT in its output.
refused() {
  local status=0
  show "$3"
  out=$(eval "$3" 2>&1) || status=$?
  show_output
  if ((status != 0)) && [[ $out == *"$2"* ]]; then
    pass "$1"
  else
    fail "$1: wanted a refusal with '$2', got exit code $status"
  fi
}

# field NAME: a field of the table in $out.
field() {
  awk -v name="$1" '$1 == name { $1 = ""; sub(/^ +/, ""); print; exit }' <<<"$out"
}

# keep VARIABLE FIELD: a field of $out, under a name for later commands.
keep() {
  local value
  value=$(field "$2")
  if [[ -z $value ]]; then
    fail "the output above has no field $2"
    exit 1
  fi
  assign "$1='$value'"
}

# act_as WHO VARIABLE: the next commands run with that token.
act_as() {
  say "As $1:"
  assign "export VAULT_TOKEN=\$$2"
}

# --- a Vault to throw away -----------------------------------------------------

work=       # its folder: certificate, plugin, logs
vault_pid=  # also its process group
vault_log=

stop_vault() {
  local deadline=$((SECONDS + 5))
  [[ -n $vault_pid ]] || return 0
  kill -TERM "$vault_pid" 2>/dev/null || true
  while kill -0 "$vault_pid" 2>/dev/null && ((SECONDS < deadline)); do sleep 0.1; done
  kill -KILL -- "-$vault_pid" 2>/dev/null || true # what remains, plugin processes included
  wait "$vault_pid" 2>/dev/null || true
  vault_pid=
}

# Callers run this from their EXIT trap.
remove_vault() {
  trap '' INT TERM
  stop_vault
  if [[ -n $work ]]; then rm -rf "$work"; fi
}

trap 'exit 130' INT
trap 'exit 143' TERM

# prepare: the plugin and the Vault binary, and an environment without anything of
# the user's own Vault.
prepare() {
  local vault_bin name
  heading "Getting ready"
  say "Building the plugin …"
  make -s build
  vault_bin=$(scripts/vault.sh)
  for name in ${!VAULT_@} ${!BAO_@}; do unset "$name"; done

  work=$(mktemp -d "${TMPDIR:-/tmp}/vault-tokens.XXXXXX")
  work=$(cd "$work" && pwd -P) # Vault refuses a plugin that is reached through a link
  mkdir "$work/bin" "$work/plugins" "$work/tls" "$work/home"
  cp "bin/$plugin" "$work/plugins/"
  ln -s "$vault_bin" "$work/bin/vault"
  export PATH=$work/bin:$PATH
  export HOME=$work/home # no ~/.vault-token is read or written
  export VAULT_CACERT=$work/tls/vault-ca.pem
  vault_log=$work/vault.log
  export AUDIT_LOG=$work/audit.log
}

free_port() {
  local port
  while true; do
    port=$((RANDOM % 10000 + 20000))
    if ! (exec 3<>"/dev/tcp/127.0.0.1/$port") 2>/dev/null; then
      echo "$port"
      return
    fi
  done
}

launch() {
  local root_token=$1
  # Job control gives it a process group of its own: Ctrl-C reaches this script
  # alone, which then stops Vault in order.
  set -m
  VAULT_DEV_ROOT_TOKEN_ID=$root_token vault server -dev -dev-tls -dev-tls-cert-dir="$work/tls" \
    -dev-no-store-token -dev-listen-address="${VAULT_ADDR#https://}" \
    -dev-plugin-dir="$work/plugins" </dev/null >"$vault_log" 2>&1 &
  vault_pid=$!
  set +m
}

# await_start: whether the server came up.
await_start() {
  local deadline=$((SECONDS + 60))
  until grep -q 'server started!' "$vault_log"; do
    if ! kill -0 "$vault_pid" 2>/dev/null || ((SECONDS > deadline)); then return 1; fi
    sleep 0.1
  done
}

# start_vault: leaves VAULT_ADDR, VAULT_CACERT and a root VAULT_TOKEN in the
# environment. The token is random: other users of this machine can reach the port.
start_vault() {
  local root_token attempt
  root_token=$(od -An -N16 -tx1 /dev/urandom | tr -d ' \n')
  for attempt in 1 2 3; do
    VAULT_ADDR=https://127.0.0.1:$(free_port)
    launch "$root_token"
    if await_start; then
      export VAULT_ADDR VAULT_TOKEN=$root_token
      vault status >/dev/null # over TLS, with the certificate verified
      return
    fi
    stop_vault
    # Another program may have taken the port meanwhile.
    grep -q 'address already in use' "$vault_log" || break
  done
  tail -n 20 "$vault_log" >&2
  echo "Vault did not start (attempt $attempt)" >&2
  exit 1
}
