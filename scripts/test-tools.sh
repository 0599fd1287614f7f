#!/usr/bin/env bash
# Programs that `make test` runs besides Go's own: says which are missing and
# what to install. With --install, installs them from Debian's packages.
set -euo pipefail

# program[|alternative] and the Debian package that has it
tools="git git
curl curl
openssl openssl
node nodejs
npm npm
gcc gcc
jq jq
chromium|chromium-browser|google-chrome chromium
promtool prometheus
prometheus prometheus
prometheus-alertmanager|alertmanager prometheus-alertmanager"

missing() {
  local programs package program
  while read -r programs package; do
    for program in ${programs//|/ }; do
      command -v "$program" >/dev/null && continue 2
    done
    echo "$package"
  done <<<"$tools" | sort -u
}

wanted=$(missing)
[[ -n $wanted ]] || exit 0
# shellcheck disable=SC2086 # a list of words
if [[ ${1:-} == --install ]]; then
  sudo=
  ((EUID == 0)) || sudo=sudo
  $sudo apt-get update
  DEBIAN_FRONTEND=noninteractive $sudo apt-get install -y --no-install-recommends $wanted
else
  echo "make test needs what these Debian packages have: "$wanted >&2
  echo "Install them with: scripts/test-tools.sh --install" >&2
  exit 1
fi
