#!/usr/bin/env bash
# cargo for the filter's target, with the tool chain and the test runner that set-up found.
#
#   scripts/wasm-cargo.sh test -p purser-filter --no-default-features --lib

# shellcheck source=scripts/lib/common.sh
source "$(dirname "${BASH_SOURCE[0]}")/lib/common.sh"
source scripts/lib/wasm.sh

[[ -r $STATE_DIR/env ]] || die "$STATE_DIR/env is missing; run scripts/setup.sh first"
# shellcheck disable=SC1091
source "$STATE_DIR/env"
wasm_cargo "$@"
