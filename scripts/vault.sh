#!/usr/bin/env bash
# Prints the path of a Vault binary on stdout: $VAULT_BIN, else `vault` on PATH,
# else the version that tools/vault pins, built from source once and kept in the
# user's cache. Messages go to stderr.
set -euo pipefail

repo=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
vault_package=github.com/hashicorp/vault
build_tags=minimal # without the plugins for clouds and databases: a smaller, faster build

if [[ -n ${VAULT_BIN:-} ]]; then
  if ! found=$(command -v "$VAULT_BIN"); then
    echo "VAULT_BIN=$VAULT_BIN is not an executable program" >&2
    exit 1
  fi
  printf '%s\n' "$found"
  exit
fi
if command -v vault; then
  exit
fi

cd "$repo/tools/vault"
version=$(go list -m -f '{{.Version}}' "$vault_package")
cache=${XDG_CACHE_HOME:-$HOME/.cache}/vault-plugin-secrets-tokens/vault-$version
if [[ -x $cache/vault ]]; then
  printf '%s\n' "$cache/vault"
  exit
fi

mkdir -p "$cache"
scratch=$(mktemp -d "$cache/build.XXXXXX")
build_pid=
cleanup() {
  trap '' INT TERM
  if [[ -n $build_pid ]]; then
    kill -TERM -- "-$build_pid" 2>/dev/null || true
    wait "$build_pid" 2>/dev/null || true
  fi
  rm -rf "$scratch"
}
trap cleanup EXIT
trap 'echo >&2; echo "Interrupted. What was compiled so far is kept; the next run continues from there." >&2; exit 130' INT
trap 'exit 143' TERM

cat >&2 <<TEXT
No Vault found in \$VAULT_BIN or on PATH: building Vault $version from source.
This happens once and takes 5 to 10 minutes on two cores. The binary is kept as
  $cache/vault
TEXT

# In a process group of its own, so that an interrupt ends the compilers too.
# `go list` fetches only the modules that the build needs, and counts its packages.
set -m
{
  export CGO_ENABLED=0
  go list -deps -tags "$build_tags" "$vault_package" >"$scratch/packages.tmp" 2>"$scratch/downloads" &&
    mv "$scratch/packages.tmp" "$scratch/packages" &&
    go build -v -trimpath -buildvcs=false -tags "$build_tags" -o "$scratch/vault" "$vault_package" 2>"$scratch/compiled"
} </dev/null &
build_pid=$!
set +m

lines() { if [[ -e $1 ]]; then wc -l <"$1" | tr -d ' '; else echo 0; fi; }

progress() {
  local doing
  if [[ -e $scratch/packages ]]; then
    doing="compiled $(lines "$scratch/compiled") of at most $(lines "$scratch/packages") packages"
  else
    doing="downloaded $(lines "$scratch/downloads") modules"
  fi
  printf 'building Vault: %d:%02d, %s' $((SECONDS / 60)) $((SECONDS % 60)) "$doing"
}

SECONDS=0
next_line=0
while kill -0 "$build_pid" 2>/dev/null; do
  if [[ -t 2 ]]; then
    printf '\r%s' "$(progress)" >&2
  elif ((SECONDS >= next_line)); then
    printf '%s\n' "$(progress)" >&2
    next_line=$((SECONDS + 10))
  fi
  sleep 0.5
done
if [[ -t 2 ]]; then echo >&2; fi

status=0
wait "$build_pid" || status=$?
build_pid=
if ((status != 0)); then
  echo "Building Vault failed:" >&2
  cat "$scratch/downloads" "$scratch/compiled" 2>/dev/null | tail -n 20 >&2
  exit 1
fi
# A rename within one directory: another run sees no binary or a whole one.
mv -f "$scratch/vault" "$cache/vault"
echo "Vault $version built in $((SECONDS / 60)) min $((SECONDS % 60)) s." >&2
printf '%s\n' "$cache/vault"
