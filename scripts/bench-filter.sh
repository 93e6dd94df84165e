#!/usr/bin/env bash
# Measures what the filter costs in the real Envoy, beyond a filter that only buffers and asks: CPU for
# requests of 1 KB to 4 MB and for each chunk of a stream, the module's size, memory for each idle VM. The
# numbers are in the tables it prints; the exit code says only whether everything ran.
#
#   ROUNDS      turns of both filters (7)
#   REQUESTS    requests of 1 KB in a turn; fewer of what is larger (3000)
#   OTHER_WASM  another build of the filter, measured in turn with this one: what a change costs or saves
#   ONLY_SMALL  set to anything: requests of 1 KB only, no memory and no targets

# shellcheck source=scripts/lib/common.sh
source "$(dirname "${BASH_SOURCE[0]}")/lib/common.sh"
source scripts/lib/packages.sh
source scripts/lib/python.sh
source scripts/lib/envoy.sh
source scripts/lib/node.sh
source scripts/lib/wasm.sh

bench_pid=''

main() {
  make_state_dir
  # Two at once would measure each other.
  exec 6>>"$STATE_DIR/bench-filter.lock"
  wait_for_lock 6 "another run of this benchmark" 3600
  : >>"$SETUP_LOG"
  mkdir -p "$CACHE_DIR"
  exec 7>>"$CACHE_DIR/lock"
  wait_for_lock 7 "a set-up that fills $CACHE_DIR" 1800
  step "basics" ensure_basics
  step "wasm target" ensure_wasm_target
  step "envoy" ensure_envoy
  exec 7>&-
  WASM_RUNNER=$(wasm_runner_path)
  WASM_NODE_DIR=''
  step "filters" build_filters
  step "benchmark" build_bench
  trap finish EXIT
  ENVOY=$ENVOY "$TARGET_DIR/debug/bench-filter" 6>&- &
  bench_pid=$!
  wait "$bench_pid"
  bench_pid=''
}

build_filters() {
  wasm_cargo build --quiet --locked -p purser-filter -p bench-floor --profile wasm
  strip_filter
  used="optimised"
}

build_bench() {
  CARGO_TARGET_DIR=$TARGET_DIR cargo build --quiet --locked -p system-tests --bin bench-filter
  # Only the proxy's time counts, and what calls it need not be fast.
  used="profile dev"
}

finish() {
  local code=$?
  trap - EXIT
  if [[ -n $bench_pid ]]; then
    kill "$bench_pid" 2>/dev/null || true
    wait "$bench_pid" 2>/dev/null || true
  fi
  exit "$code"
}

main "$@"
