# shellcheck shell=bash
# What the benchmarks through Envoy share: tools, optimised programs, a database of their own, and an
# end that leaves nothing behind.

OHA_VERSION=1.16.0
BENCH_DIR=$STATE_DIR/bench

bench_pid='' bench_database=''

# run_bench SUBCOMMAND [oha]: sets everything up and measures.
run_bench() {
  local subcommand=$1 with_oha=${2-}
  make_state_dir
  # Open to PostgreSQL's user, as the rest of the state is.
  (umask 022 && mkdir -p "$BENCH_DIR")
  # Two at once would measure each other.
  exec 6>>"$STATE_DIR/bench.lock"
  wait_for_lock 6 "another benchmark" 3600
  use_postgres
  trap finish_bench EXIT
  scripts/setup.sh --for-run 6>&-
  # shellcheck disable=SC1091
  source "$STATE_DIR/env"
  [[ -z $with_oha ]] || step "oha" ensure_oha
  step "build" build_bench
  bench_database=$(database_name purser_bench_calls)
  recreate_database "$bench_database"
  BENCH_DATABASE_URL=$(url_with_database "$DATABASE_URL" "$bench_database") \
    BENCH_OUTPUT=$BENCH_DIR BENCH_EGRESS=$ROOT/envoy/egress.yaml \
    BENCH_FLOOR_WASM=$WASM_TARGET_DIR/$WASM_TARGET/wasm/bench_floor.wasm \
    "$TARGET_DIR/release/purser-bench" "$subcommand" 6>&- 9>&- &
  bench_pid=$!
  wait "$bench_pid"
  bench_pid=''
}

build_bench() {
  wasm_cargo build --quiet --locked -p purser-filter -p bench-floor --profile wasm 6>&- 9>&-
  strip_filter
  CARGO_TARGET_DIR=$TARGET_DIR cargo build --quiet --locked --release -p budget-backend -p bench 6>&- 9>&-
  used="optimised"
}

# Sets OHA. A path given in OHA is taken as it is.
ensure_oha() {
  local home=$CACHE_DIR/oha-$OHA_VERSION
  if [[ -n ${OHA-} ]]; then
    oha_is_pinned "$OHA" || warn "OHA=$OHA is not oha $OHA_VERSION, which these measurements were made with"
  else
    OHA=$home/bin/oha
    oha_is_pinned "$OHA" || install_oha "$home"
    oha_is_pinned "$OHA" || die "$OHA does not run or is not oha $OHA_VERSION"
  fi
  export OHA
  used="$OHA_VERSION in $OHA"
}

oha_is_pinned() { [[ $("$1" --version 2>/dev/null) == "oha $OHA_VERSION" ]]; }

install_oha() {
  exec 7>>"$CACHE_DIR/lock"
  wait_for_lock 7 "another set-up that fills $CACHE_DIR" 1800
  if ! oha_is_pinned "$1/bin/oha"; then
    say "oha: building $OHA_VERSION, once (some minutes)"
    # Without optimising across crates: half the time to build, and far faster than Envoy all the same.
    run_logged env "CARGO_TARGET_DIR=$CACHE_DIR/build" \
      cargo install oha --version "=$OHA_VERSION" --locked --root "$1" \
      --config 'profile.release.lto=false' --config 'profile.release.codegen-units=16'
    rm -rf "$CACHE_DIR/build"
  fi
  exec 7>&-
}

finish_bench() {
  local code=$?
  trap - EXIT
  if [[ -n $bench_pid ]]; then
    kill "$bench_pid" 2>/dev/null || true
    wait "$bench_pid" 2>/dev/null || true
  fi
  [[ -z $bench_database ]] || drop_database "$bench_database" || warn "the database $bench_database is left behind"
  release_postgres
  exit "$code"
}
