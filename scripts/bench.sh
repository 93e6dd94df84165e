#!/usr/bin/env bash
# Measures calls through Envoy alone, with a filter that does nothing, with a callout to a constant
# answer, with Purser in full, and with a blocking transaction per check, at fixed rates and at
# saturation. What it measures is in the tables it prints; the exit code says whether everything ran
# and the books balance.
#
#   ROUNDS  rounds of all cases, each with fresh processes (6)
#   CELL_S  seconds of one measurement (8)
#   CASES   letters of the cases; a, c and d always (abcde)

# shellcheck source=scripts/lib/common.sh
source "$(dirname "${BASH_SOURCE[0]}")/lib/common.sh"
source scripts/lib/packages.sh
source scripts/lib/ports.sh
source scripts/lib/wasm.sh
source scripts/lib/database.sh
source scripts/lib/postgres.sh
source scripts/lib/bench.sh

run_bench side-by-side oha
