#!/usr/bin/env bash
# Programs that `make test` runs besides Go's own. Installs those that are
# missing if it can without a question: Debian's packages, as root or with a sudo
# that asks for no password. Else it says in one line what to install.
#
# Who cannot install some of them leaves out the tests that need them with
# SKIP_NODE=1, SKIP_BROWSER=1 or SKIP_PROMETHEUS=1.
set -euo pipefail

# program[|alternative], the variable that leaves it out or -, Debian packages
tools="git - git
curl - curl
openssl - openssl
gcc - gcc libc6-dev
jq - jq
ps - procps
node SKIP_NODE nodejs
npm SKIP_NODE npm
chromium|chromium-browser|google-chrome SKIP_BROWSER chromium
promtool SKIP_PROMETHEUS prometheus
prometheus SKIP_PROMETHEUS prometheus
prometheus-alertmanager|alertmanager SKIP_PROMETHEUS prometheus-alertmanager"
oldest_node=20

# present PROGRAM…: whether one of them is there.
present() {
  local program
  for program in "$@"; do
    command -v "$program" >/dev/null || continue
    [[ $program != node ]] || is_new_enough || continue
    return 0
  done
  return 1
}

is_new_enough() {
  local version
  version=$(node --version) # v20.1.0
  version=${version#v}
  ((${version%%.*} >= oldest_node))
}

# look: what is missing, in $packages and in $skips how to do without.
look() {
  local programs skip wanted
  packages='' skips=''
  while read -r programs skip wanted; do
    if [[ $skip != - && -n ${!skip:-} ]]; then continue; fi
    # shellcheck disable=SC2086 # a list of words
    if present ${programs//|/ } ${CHROMIUM_BIN:+$(is_browser "$programs")}; then continue; fi
    packages+=" $wanted"
    if [[ $skip != - ]]; then skips+=" $skip=1"; fi
  done <<<"$tools"
  packages=$(unique "$packages") skips=$(unique "$skips")
}

# is_browser PROGRAMS: the browser that the tests are told to use instead.
is_browser() { if [[ $1 == *chromium* ]]; then printf '%s' "$CHROMIUM_BIN"; fi; }

# unique WORDS: each once.
unique() { tr ' ' '\n' <<<"$1" | sed '/^$/d' | sort -u | paste -sd ' ' -; }

install() {
  local sudo=
  ((EUID == 0)) || sudo="sudo -n"
  echo "Installing what the tests need: $packages" >&2
  # shellcheck disable=SC2086 # lists of words
  $sudo apt-get -qq update &&
    $sudo env DEBIAN_FRONTEND=noninteractive apt-get -qq install -y --no-install-recommends $packages >/dev/null
}

may_install() {
  command -v apt-get >/dev/null && { ((EUID == 0)) || sudo -n true 2>/dev/null; }
}

look
if [[ -n $packages ]] && may_install; then
  install || echo "apt-get failed" >&2
  look
fi
if [[ -n $packages ]]; then
  packages=${packages/nodejs/nodejs (version $oldest_node or later)}
  echo "make test needs these Debian packages: $packages. Install them${skips:+, or leave out the tests that need some of them: make test $skips}" >&2
  exit 1
fi
