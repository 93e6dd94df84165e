#!/usr/bin/env bash
# Measures how long each of an operator's questions takes over a long history, on a database of its own. The
# exit code is 1 when one takes longer than 100 ms.
#
#   ROWS    calls to fill in (10000000; takes minutes and about 6 GB of disk)

# shellcheck source=scripts/lib/common.sh
source "$(dirname "${BASH_SOURCE[0]}")/lib/common.sh"
source scripts/lib/packages.sh
source scripts/lib/ports.sh
source scripts/lib/database.sh
source scripts/lib/postgres.sh

bench_pid='' database=''

main() {
  local bench_url
  make_state_dir
  # Two at once would measure each other.
  exec 6>>"$STATE_DIR/bench-reports.lock"
  wait_for_lock 6 "another run of this benchmark" 3600
  : >"$SETUP_LOG"
  mkdir -p "$CACHE_DIR"
  use_postgres
  trap finish EXIT
  step "postgres" ensure_postgres
  step "build" build_bench
  database=$(database_name purser_bench)
  recreate_database "$database"
  bench_url=$(url_with_database "$DATABASE_URL" "$database")
  BENCH_DATABASE_URL=$bench_url CARGO_TARGET_DIR=$TARGET_DIR \
    cargo bench --quiet --locked -p budget-backend --bench reports 6>&- 9>&- &
  bench_pid=$!
  wait "$bench_pid"
  bench_pid=''
}

build_bench() {
  CARGO_TARGET_DIR=$TARGET_DIR cargo bench --quiet --locked -p budget-backend --bench reports --no-run 6>&- 9>&-
  used="optimised"
}

finish() {
  local code=$?
  trap - EXIT
  if [[ -n $bench_pid ]]; then
    kill "$bench_pid" 2>/dev/null || true
    wait "$bench_pid" 2>/dev/null || true
  fi
  [[ -z $database ]] || drop_database "$database"
  release_postgres
  exit "$code"
}

main "$@"
