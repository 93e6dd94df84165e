#!/usr/bin/env bash
# Builds the filter for Envoy and the programs beside it. Set-up comes first: scripts/setup.sh.
#
# PROFILE=release builds the programs optimised; the filter always is.

# shellcheck source=scripts/lib/common.sh
source "$(dirname "${BASH_SOURCE[0]}")/lib/common.sh"
source scripts/lib/wasm.sh

[[ -r $STATE_DIR/env ]] || die "$STATE_DIR/env is missing; run scripts/setup.sh first"
# shellcheck disable=SC1091
source "$STATE_DIR/env"

build_filter() {
  wasm_cargo build --quiet -p purser-filter --profile wasm
  strip_filter
  used="$((($(stat -c %s "$PURSER_WASM") + 1023) / 1024)) KiB of wasm"
}

build_programs() {
  CARGO_TARGET_DIR=$TARGET_DIR cargo build --quiet --locked --workspace --bins --profile "${PROFILE:-dev}"
  used="profile ${PROFILE:-dev}"
}

step "filter" build_filter
step "programs" build_programs
