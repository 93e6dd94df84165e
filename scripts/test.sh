#!/usr/bin/env bash
# Every check there is, in one run: the scripts, format, lints, unit, database and system tests, the
# filter's pure modules in Node, and the stack and the demo as a user starts them. A part that fails
# does not hide the next one. The last line sums up; the exit code is 0 only if nothing failed.

# shellcheck source=scripts/lib/common.sh
source "$(dirname "${BASH_SOURCE[0]}")/lib/common.sh"
source scripts/lib/packages.sh
source scripts/lib/ports.sh
source scripts/lib/wasm.sh
source scripts/lib/database.sh
source scripts/lib/postgres.sh

PART_LIMIT_S=1800
passed=0 failed=0 ignored=0
part_pid=''

main() {
  local started_ms
  started_ms=$(now_ms)
  make_state_dir
  use_postgres
  trap finish EXIT
  scripts/setup.sh --tests --for-run
  scripts/build.sh
  # shellcheck disable=SC1091
  source "$STATE_DIR/env"
  export CARGO_TARGET_DIR=$TARGET_DIR
  part "scripts" scripts/check-scripts.sh
  part "format" cargo fmt --all --check
  part "lints" cargo clippy --locked --workspace --all-targets -- -D warnings
  part "tests" cargo test --locked --workspace --no-fail-fast
  part "wasm" scripts/wasm-cargo.sh test -p purser-filter --no-default-features --lib
  part "fuzz" scripts/fuzz.sh --short
  part "stack" scripts/test-stack.sh
  part "demo" scripts/demo.sh
  # As the README says to build what is deployed.
  part "release" env PROFILE=release scripts/build.sh
  # Short: whether it runs and its books balance; what it measures is for a quiet machine.
  part "bench" env ROWS=0 CELL_S=1 ROUNDS=1 scripts/bench-ledger.sh
  part "bench-filter" env ROUNDS=1 REQUESTS=200 scripts/bench-filter.sh
  say "== all parts: $(seconds_since "$started_ms") s"
  ((ignored == 0)) || say "$ignored ignored"
  say "$passed passed, $failed failed"
  ((failed == 0))
}

# part NAME COMMAND...: runs it, shows and keeps its output, and adds its results to the sum.
part() {
  local name=$1 log=$LOG_DIR/test-$1.log started_ms code=0
  shift
  started_ms=$(now_ms)
  say "== $name"
  : >"$log"
  timeout -k 30 "$PART_LIMIT_S" "$@" >"$log" 2>&1 </dev/null 9>&- &
  part_pid=$!
  tail -n +1 -s 0.1 -f --pid="$part_pid" "$log"
  wait "$part_pid" || code=$?
  add_results "$log" "$code"
  say "== $name: exit code $code, $(seconds_since "$started_ms") s"
}

# Sums the closing lines that cargo and wasm-bindgen print. A part without any is one check by
# itself, and one that failed counts as failed even if every test in it passed.
add_results() {
  local counts runs part_passed part_failed part_ignored
  counts=$(awk '/^test result: / { runs++; p += $4; f += $6; i += $8 } END { print p + 0, f + 0, i + 0, runs + 0 }' "$1")
  read -r part_passed part_failed part_ignored runs <<<"$counts"
  if (($2 == 0 && runs == 0)); then part_passed=1; fi
  if (($2 != 0 && part_failed == 0)); then part_failed=1; fi
  passed=$((passed + part_passed)) failed=$((failed + part_failed)) ignored=$((ignored + part_ignored))
}

finish() {
  local code=$?
  trap - EXIT
  # The time limit's process passes the signal on to the whole part.
  [[ -z $part_pid ]] || kill "$part_pid" 2>/dev/null || true
  release_postgres
  exit "$code"
}

main "$@"
