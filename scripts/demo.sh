#!/usr/bin/env bash
# Shows it once, end to end: a stack of its own on free ports, real traffic of two users of a team while one
# budget takes every step of its ladder (plain, warned, degraded, clamped, denied), and our books against the
# provider's bill. Exits 0 only if they agree.

export PG_DIR=${PG_DIR:-${STATE_DIR:-.local}/pg}
export STATE_DIR=${STATE_DIR:-.local}/demo
# Port 0 is any free one. A caller that no hop has identified is turned away.
export EGRESS_PORT=0 ENVOY_ADMIN_PORT=0 BACKEND_PORT=0 FAKE_LLM_PORT=0
export UNIDENTIFIED='"deny"'
unset LLM_UPSTREAM

# shellcheck source=scripts/lib/common.sh
source "$(dirname "${BASH_SOURCE[0]}")/lib/common.sh"
source scripts/lib/packages.sh
source scripts/lib/ports.sh
source scripts/lib/wasm.sh
source scripts/lib/database.sh
source scripts/lib/postgres.sh
source scripts/lib/process.sh
source scripts/lib/stack.sh

demo_pid=''

main() {
  make_state_dir
  exec 6>>"$STATE_DIR/lock"
  wait_for_lock 6 "another demo in this folder" 900
  use_postgres
  trap finish EXIT
  scripts/setup.sh --for-run
  scripts/build.sh
  # shellcheck disable=SC1091
  source "$STATE_DIR/env"
  database=$(database_name purser_demo)
  database_url=$(url_with_database "$DATABASE_URL" "$database")
  step "stack" start_demo_stack
  EGRESS_URL=http://127.0.0.1:$EGRESS_PORT BACKEND_URL=http://127.0.0.1:$BACKEND_PORT \
    FAKE_LLM_URL=http://127.0.0.1:$FAKE_LLM_PORT PURSER_ADMIN_TOKEN=$(<"$STATE_DIR/admin-token") \
    DATABASE_URL=$database_url "$BIN_DIR/demo" 6>&- 9>&- &
  demo_pid=$!
  wait "$demo_pid"
}

start_demo_stack() {
  recreate_database "$database"
  start_stack "$database_url"
  used="ready, database $database"
}

finish() {
  local code=$?
  trap - EXIT
  [[ -z $demo_pid ]] || kill "$demo_pid" 2>/dev/null || true
  stop_stack
  release_postgres
  ((code == 0)) || say "The demo failed (exit code $code). Logs: $LOG_DIR" >&2
  exit "$code"
}

main "$@"
