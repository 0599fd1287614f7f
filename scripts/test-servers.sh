#!/usr/bin/env bash
# Runs the packages of test/ that are given, such as ./tokenwatch or ./..., with
# real servers; flags of `go test` may follow. The last line says which tests
# were skipped, and for what.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../test"

VAULT_BIN=$(../scripts/vault.sh)
SKIPPED_LOG=$(mktemp) # one test a line
export VAULT_BIN SKIPPED_LOG
trap 'rm -f "$SKIPPED_LOG"' EXIT

status=0
# Of the packages, docs takes longest: it builds everything in a clone.
go test -race -count=1 -timeout 20m "$@" || status=$?
if [[ -s $SKIPPED_LOG ]]; then
  printf 'SKIPPED %d tests: %s\n' "$(wc -l <"$SKIPPED_LOG")" "$(sort "$SKIPPED_LOG" | paste -sd ',' - | sed 's/,/, /g')"
fi
exit "$status"
