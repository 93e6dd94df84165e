#!/usr/bin/env bash
# Streams through Envoy alone and with Purser: what is added to the first token and to every event,
# and the CPU an event takes.
#
#   ROUNDS   rounds of both cases, each with fresh processes (3)
#   STREAMS  streams at a time (500)
#   EVENTS   events of each (200)

# shellcheck source=scripts/lib/common.sh
source "$(dirname "${BASH_SOURCE[0]}")/lib/common.sh"
source scripts/lib/packages.sh
source scripts/lib/ports.sh
source scripts/lib/wasm.sh
source scripts/lib/database.sh
source scripts/lib/postgres.sh
source scripts/lib/bench.sh

run_bench stream
