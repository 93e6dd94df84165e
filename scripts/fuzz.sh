#!/usr/bin/env bash
# Feeds the filter's readers and writers what libFuzzer makes of the golden corpus: fuzz/src has what must
# hold for any bytes. A failure leaves its input in fuzz/artifacts/TARGET/ and says how to run it again.
#
#   scripts/fuzz.sh [--short] [TARGET...]
#
# --short   for every run of the tests: the same 50,000 inputs each time, so that what fails, fails again,
#           and nothing is kept. Without it, inputs that reached something new stay in
#           fuzz/corpus/TARGET/ for the next run.
#
#   FUZZ_S     seconds for each target at most (300)
#   FUZZ_SEED  of the inputs (1 with --short, else another each time; printed)
#   FUZZ_JOBS  targets at a time (as many as there are processors)

# shellcheck source=scripts/lib/common.sh
source "$(dirname "${BASH_SOURCE[0]}")/lib/common.sh"
source scripts/lib/packages.sh
source scripts/lib/fuzz.sh

# Ten times what the largest of them needs.
MAX_RSS_MB=512
MAX_INPUT_BYTES=16384
# One input; a loaded machine must not fail it.
MAX_INPUT_S=30
SHORT_RUNS=50000

targets=() failed=()
is_short=''
declare -A target_of=()

main() {
  local option
  for option in "$@"; do
    case $option in
      --short) is_short=yes ;;
      -*) die "unknown option $option; known is --short" ;;
      *)
        [[ -e fuzz/fuzz_targets/$option.rs ]] || die "no target $option; known are: $(fuzz_targets | xargs)"
        targets+=("$option")
        ;;
    esac
  done
  ((${#targets[@]} > 0)) || mapfile -t targets < <(fuzz_targets)
  FUZZ_S=${FUZZ_S:-300}
  FUZZ_SEED=${FUZZ_SEED:-$([[ -n $is_short ]] && printf 1 || printf '%s' "$RANDOM")}
  say "seed $FUZZ_SEED"
  FUZZ_JOBS=${FUZZ_JOBS:-$(nproc)}
  make_state_dir
  : >>"$SETUP_LOG"
  exec 6>>"$STATE_DIR/fuzz.lock"
  wait_for_lock 6 "another fuzz run" 3600
  ensure_command c++ g++
  step "fuzz targets" build_fuzz_targets
  trap stop EXIT
  run_all
  ((${#failed[@]} == 0)) || die "what must hold didn't: ${failed[*]}"
}

# At most FUZZ_JOBS at a time; one that failed does not stop the others.
run_all() {
  local target
  for target in "${targets[@]}"; do
    while ((${#target_of[@]} >= FUZZ_JOBS)); do
      wait_for_one
    done
    start "$target"
  done
  while ((${#target_of[@]} > 0)); do
    wait_for_one
  done
}

start() {
  local target=$1 learned runs=-1
  learned=fuzz/corpus/$target
  if [[ -n $is_short ]]; then
    runs=$SHORT_RUNS
    learned=$FUZZ_BUILD_DIR/short/$target
    rm -rf "$learned"
  fi
  mkdir -p "$learned" "fuzz/artifacts/$target"
  "$FUZZ_BIN_DIR/$target" -seed="$FUZZ_SEED" -runs="$runs" -max_total_time="$FUZZ_S" -timeout="$MAX_INPUT_S" -rss_limit_mb="$MAX_RSS_MB" \
    -max_len="$MAX_INPUT_BYTES" -dict=fuzz/words.dict -print_final_stats=1 \
    -artifact_prefix="fuzz/artifacts/$target/" "$learned" "$FUZZ_SEEDS_DIR/$target" \
    >"$LOG_DIR/fuzz-$target.log" 2>&1 </dev/null 6>&- &
  target_of[$!]=$target
}

wait_for_one() {
  local pid code=0
  wait -n -p pid "${!target_of[@]}" || code=$?
  report "${target_of[$pid]}" "$code"
  unset "target_of[$pid]"
}

report() {
  local target=$1 code=$2 log=$LOG_DIR/fuzz-$1.log runs reached artifact
  if ((code == 0)); then
    runs=$(sed -n 's/^stat::number_of_executed_units: //p' "$log")
    reached=$(sed -n 's/.* cov: \([0-9]*\) .*/\1/p' "$log" | tail -n 1)
    # A target that ran nothing, or without coverage, shows nothing.
    if ((${runs:-0} > 0 && ${reached:-0} > 0)); then
      say "$target: $runs inputs, $reached places reached"
      return
    fi
  fi
  failed+=("$target")
  # What didn't hold stands above the call stack.
  grep -h -A 3 'panicked at' "$log" | cut -c 1-2000 >&2 || true
  show_tail "$log" 12
  artifact=$(sed -n 's/.*Test unit written to //p' "$log" | tail -n 1)
  warn "$target: exit code $code${artifact:+; again: $FUZZ_BIN_DIR/$target $artifact}"
}

stop() {
  local code=$?
  trap - EXIT
  ((${#target_of[@]} == 0)) || kill "${!target_of[@]}" 2>/dev/null || true
  exit "$code"
}

main "$@"
