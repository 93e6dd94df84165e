#!/usr/bin/env bash
# The load that once found the regression: calls to a model that thinks, with bursts of ten times the
# rate, through Envoy alone, with Purser, and with a blocking transaction per check.
#
#   DURATION  seconds of each case (300)
#   SEED      of the model's latencies (1)
#   CASES     letters of the cases; a and d always (ade)
#   BOUNDS=1  fails when Purser's tail is a cliff compared with Envoy alone's

# shellcheck source=scripts/lib/common.sh
source "$(dirname "${BASH_SOURCE[0]}")/lib/common.sh"
source scripts/lib/packages.sh
source scripts/lib/ports.sh
source scripts/lib/wasm.sh
source scripts/lib/database.sh
source scripts/lib/postgres.sh
source scripts/lib/bench.sh

run_bench burst
