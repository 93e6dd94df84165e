#!/usr/bin/env bash
# A storm: traffic through Envoy while the backend's replicas, a PostgreSQL of its own, Envoy and every link
# between them are killed, frozen, cut and delayed; then the provider's bill against the ledger, call by call.
# Exits with 0 only if nothing is lost, doubled, free or late. The last line sums up.
#
#   CHAOS_S      seconds of calls (180)
#   CHAOS_RATE   calls a second (100)
#   PURSER_SEED  repeats the storm that printed it

# shellcheck source=scripts/lib/common.sh
source "$(dirname "${BASH_SOURCE[0]}")/lib/common.sh"
source scripts/lib/packages.sh
source scripts/lib/ports.sh
source scripts/lib/wasm.sh
source scripts/lib/database.sh
source scripts/lib/postgres.sh

chaos_pid=''

main() {
  make_state_dir
  use_postgres
  trap finish EXIT
  scripts/setup.sh --for-run
  scripts/build.sh
  # shellcheck disable=SC1091
  source "$STATE_DIR/env"
  CHAOS_LOGS=$LOG_DIR "$TARGET_DIR/debug/chaos" 9>&- &
  chaos_pid=$!
  wait "$chaos_pid"
  chaos_pid=''
}

finish() {
  local code=$?
  trap - EXIT
  if [[ -n $chaos_pid ]]; then
    # It takes along what it has started.
    kill "$chaos_pid" 2>/dev/null || true
    wait "$chaos_pid" 2>/dev/null || true
  fi
  release_postgres
  ((code == 0)) || say "The storm has found something (exit code $code). Logs: $LOG_DIR/chaos-*.log" >&2
  exit "$code"
}

main "$@"
