#!/usr/bin/env bash
# Fetches and starts what Purser is built, run and tested with. Safe to repeat, and to run twice at once.
#
#   scripts/setup.sh [--tests] [--for-run]
#
# --tests     also what only the tests need (Node, the wasm test runner, the SDKs)
# --for-run   the caller uses the database and stops it; without it, the database stays up

# shellcheck source=scripts/lib/common.sh
source "$(dirname "${BASH_SOURCE[0]}")/lib/common.sh"
source scripts/lib/packages.sh
source scripts/lib/python.sh
source scripts/lib/envoy.sh
source scripts/lib/node.sh
source scripts/lib/wasm.sh
source scripts/lib/sdks.sh
source scripts/lib/ports.sh
source scripts/lib/database.sh
source scripts/lib/postgres.sh

write_env() {
  local name
  for name in ENVOY PURSER_WASM DATABASE_URL WASM_RUSTC WASM_LINKER WASM_RUNNER WASM_NODE_DIR SDK_PYTHON; do
    printf 'export %s=%q\n' "$name" "${!name}"
  done | write_private "$STATE_DIR/env"
}

main() {
  local for_tests='' for_run='' option
  for option in "$@"; do
    case $option in
      --tests) for_tests=yes ;;
      --for-run) for_run=yes ;;
      *) die "unknown option $option; known are --tests and --for-run" ;;
    esac
  done
  make_state_dir
  : >"$SETUP_LOG"
  mkdir -p "$CACHE_DIR"
  exec 7>>"$CACHE_DIR/lock"
  wait_for_lock 7 "another set-up that fills $CACHE_DIR" 1800
  step "basics" ensure_basics
  step "wasm target" ensure_wasm_target
  step "envoy" ensure_envoy
  WASM_RUNNER=$(wasm_runner_path)
  SDK_PYTHON=$(sdk_python_path)
  find_node
  if [[ -n $for_tests ]]; then
    step "node" ensure_node
    step "wasm test runner" ensure_wasm_runner
    step "SDKs" ensure_sdks
  fi
  exec 7>&-
  [[ -n $for_run ]] || use_postgres
  step "postgres" ensure_postgres
  write_env
  if [[ -z $for_run ]] && ! database_url_is_given; then
    : >"$PG_DIR/keep"
    say "PostgreSQL stays up until '$(make_command down)'. For a shell of your own: source $(printf %q "$STATE_DIR/env")"
  fi
}

main "$@"
