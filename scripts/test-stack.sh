#!/usr/bin/env bash
# Starts and stops a stack as a user would, on free ports and with a cluster of its own, and tries
# what `up` prints. Ends with a line like cargo's.

# shellcheck source=scripts/lib/common.sh
source "$(dirname "${BASH_SOURCE[0]}")/lib/common.sh"
source scripts/lib/packages.sh
source scripts/lib/ports.sh
source scripts/lib/database.sh
source scripts/lib/postgres.sh
source scripts/lib/process.sh

passed=0 failed=0
out=''

# check WHAT COMMAND...
check() {
  local what=$1
  shift
  if "$@"; then
    passed=$((passed + 1))
    say "ok: $what"
  else
    failed=$((failed + 1))
    say "FAILED: $what; the output was:"
    printf '%s\n' "$out" | sed 's/^/    /'
  fi
}

# run COMMAND...: its output in $out, its exit code in $code.
run() {
  code=0
  out=$("$@" 2>&1 6>&- 9>&-) || code=$?
}

contains() { [[ $out == *"$1"* ]]; }
lacks() { [[ $out != *"$1"* ]]; }
exit_code_is() { ((code == $1)); }
run_example() { run bash -c "$(sed -n 's/^  curl/curl -f/p' <<<"$guide" | sed -n "$1p")"; }

main() {
  make_state_dir
  exec 6>>"$STATE_DIR/test-stack.lock"
  wait_for_lock 6 "another test of the stack" 600
  server_url=''
  if database_url_is_given; then
    server_url=$DATABASE_URL
    database=$(database_name purser_test_stack)
    recreate_database "$database"
    DATABASE_URL=$(url_with_database "$DATABASE_URL" "$database")
  fi
  unset PG_DIR LLM_UPSTREAM
  export STATE_DIR=$STATE_DIR/test-stack EGRESS_PORT=0 INTERCEPT_PORT=0 ENVOY_ADMIN_PORT=0 BACKEND_PORT=0 FAKE_LLM_PORT=0
  # Where the stack has it anyway; for this script alone.
  PG_DIR=$STATE_DIR/pg
  trap finish EXIT
  scripts/stack.sh down >/dev/null
  [[ -n $server_url ]] || forget_database
  test_up
  test_readme
  test_ports
  test_second_stack
  test_down
  test_failed_start
  conclude
}

conclude() {
  local verdict=ok
  ((failed == 0)) || verdict=FAILED
  say "test result: $verdict. $passed passed; $failed failed; 0 ignored"
  exit "$((failed != 0))"
}

# What a run before left in the cluster must not decide this one. In a shell of its own, because the
# cluster's URL must not become the one that this test was given.
forget_database() (
  [[ -s $PG_DIR/password ]] || return 0
  make_state_dir
  use_postgres
  ensure_postgres
  drop_database purser
  release_postgres
)

finish() {
  trap - EXIT
  second_stack down >/dev/null
  scripts/stack.sh down >/dev/null
  if [[ -n $server_url ]]; then
    DATABASE_URL=$server_url
    drop_database "$database"
  fi
}

test_up() {
  run scripts/stack.sh up
  guide=$out
  check "up starts a stack" exit_code_is 0
  ((code == 0)) || conclude
  check "up prints the base URL" contains "export OPENAI_BASE_URL=http://127.0.0.1:"
  check "up keeps the admin token to itself" lacks "$(<"$STATE_DIR/admin-token")"
  check "the token is its owner's alone" test "$(stat -c %a "$STATE_DIR/admin-token")" = 600
  run_example 1
  check "the printed call is answered" contains '"choices"'
  run_example 2
  check "the printed stream ends as streams do" contains 'data: [DONE]'
  run_example 3
  check "the printed question shows the seeded org" contains '"org":"demo"'
  run_example 4
  check "the printed call to OpenAI's own address is answered" contains '"choices"'
  run bash -c "$(sed -n 's/^  curl\(.*\) --cacert [^ ]*/curl\1/p' <<<"$guide")"
  check "whoever does not trust the local authority refuses it" exit_code_is 60
  check "the certificate's key is its owner's alone" test "$(stat -c %a "$STATE_DIR/tls/mesh-key.pem")" = 600
  check "and that of the authority is not kept" test "$(grep -l 'PRIVATE KEY' "$STATE_DIR"/tls/* | wc -l)" = 1
  # As a second `up` would; here the stack is known to run.
  # shellcheck disable=SC1091
  source "$STATE_DIR/run/ports"
  run python3 scripts/lib/seed.py "http://127.0.0.1:$BACKEND_PORT" "$STATE_DIR/admin-token"
  check "seeding again is fine" exit_code_is 0
  run_example 3
  check "and adds no budget" test "$(grep -o '"limit_usd":"1000.00"' <<<"$out" | wc -l)" = 1
  run scripts/stack.sh up
  check "a second up says so" contains "Already running"
  check "and is no failure" exit_code_is 0
  run curl -fsS "http://127.0.0.1:$ENVOY_ADMIN_PORT/stats?filter=purser_outbox_items"
  check "the filter tells how many settlements wait" contains "wasmcustom.purser_outbox_items: "
}

# Every command of the README that talks to a running stack, as it stands but for ports and folder.
test_readme() {
  local script=$STATE_DIR/readme.sh count
  # Blocks that start or stop a stack are what the other tests do. The back ticks are the README's.
  # shellcheck disable=SC2016
  sed -n '/^```sh$/,/^```$/p' README.md | grep -vE '^(```|([A-Z_]+=[^ ]+ )*make )' |
    sed -E -e "s/127.0.0.1:10000/127.0.0.1:$EGRESS_PORT/g; s/127.0.0.1:8088/127.0.0.1:$BACKEND_PORT/g" \
      -e "s|\.local/admin-token|$STATE_DIR/admin-token|g" -e 's/(^|\$\()curl -sS/\1curl -fsS/g' >"$script"
  count=$(grep -cE '(^|\$\()curl ' "$script")
  check "the README's examples are found" test "$count" -ge 4
  run bash -e -o pipefail "$script"
  check "the README's $count examples run as they stand" exit_code_is 0
  check "the plain one is answered" contains '"choices"'
  check "the budget it makes is shown" contains '"limit_usd":"2.50"'
  check "the caller it names has that budget" contains 'x-purser-remaining-user: 2.4'
  check "its stream ends as streams do" contains 'data: [DONE]'
  check "the top-up is shown" contains '"topped_up_usd":"5.00"'
  check "the override is in force" contains '"active":true'
  check "the edits are in the audit log" contains '"object":"call_rules"'
  run scripts/stack.sh status
  check "status shows the stack" contains "envoy: process "
  run scripts/stack.sh logs
  check "logs shows the calls" contains '"path":"/v1/chat/completions"'
}

test_ports() {
  local port=$EGRESS_PORT
  export EGRESS_PORT=0 INTERCEPT_PORT=0 ENVOY_ADMIN_PORT=0 BACKEND_PORT=0 FAKE_LLM_PORT=0
  STATE_DIR=$STATE_DIR/other EGRESS_PORT=$port run scripts/stack.sh up
  check "a port in use is refused" exit_code_is 1
  check "by number and variable" contains "port $port is in use; choose another one: EGRESS_PORT="
}

second_stack() { env "STATE_DIR=$STATE_DIR/other" "PG_DIR=$PG_DIR" scripts/stack.sh "$@"; }

# port_of STATE_DIR VARIABLE
port_of() { sed -n "s/^$2=//p" "$1/run/ports"; }

# Beside the first, with the first one's fake LLM as a provider of its own; then its backend dies.
test_second_stack() {
  local other=$STATE_DIR/other provider
  provider=127.0.0.1:$(port_of "$STATE_DIR" FAKE_LLM_PORT)
  LLM_UPSTREAM=$provider run second_stack up
  check "a second stack starts" exit_code_is 0
  ((code == 0)) || return 0
  check "and says how to stop it, not the first" contains "STATE_DIR=$other PG_DIR=$PG_DIR make down"
  run second_stack status
  check "its status is that of a whole stack" exit_code_is 0
  check "and lists the ports it has" contains "EGRESS_PORT="
  check "and no port of a fake LLM" lacks "FAKE_LLM_PORT"
  check "nor one of an interception, which needs its certificates" lacks "INTERCEPT_PORT"
  kill -KILL "$(RUN_DIR=$other/run pid_of backend)"
  run curl -fsS -i "http://127.0.0.1:$(port_of "$other" EGRESS_PORT)/v1/chat/completions" \
    -H 'content-type: application/json' -d '{"model":"gpt-4o-mini","messages":[{"role":"user","content":"Hello"}]}'
  check "without its backend, a call fails open" contains "x-purser-failed-open: true"
  run second_stack status
  check "status is a failure then" exit_code_is 1
  run second_stack up
  check "up refuses a stack that is not whole" exit_code_is 1
  check "and says what is missing and what to do" contains "(backend does not run); stop the rest with 'STATE_DIR="
  check "and nothing else" lacks "Already running"
  run second_stack down
  check "down says how many settlements were not delivered" contains "settlements that were not delivered: 1 (the backend has ended)"
}

test_down() {
  local pids
  pids=$(cut -d' ' -f1 "$STATE_DIR"/run/*.pid)
  run scripts/stack.sh down
  check "down stops the stack" exit_code_is 0
  check "and every settlement was delivered" lacks "not delivered"
  check "no process is left" all_gone "$pids"
  run scripts/stack.sh down
  check "a second down says there is none" contains "No stack runs"
  run scripts/stack.sh status
  check "and so does status, as a failure" exit_code_is 1
  check "without a port" test "$out" = "No stack runs in $STATE_DIR."
}

# A zombie has ended too; only its parent has not looked yet.
all_gone() {
  local pid state
  for pid in $1; do
    state=$(sed 's/.*) //' "/proc/$pid/stat" 2>/dev/null || true)
    [[ -z $state || $state == Z* ]] || return 1
  done
}

test_failed_start() {
  ENVOY=/bin/false run scripts/stack.sh up
  check "a start that fails is a failure" exit_code_is 1
  check "and names what failed" contains "envoy ended while it was starting"
  run scripts/stack.sh status
  check "and leaves nothing running" lacks ": process "
  out=$(ls "$STATE_DIR/log")
  check "the logs of the run before are kept" grep -q '"path":"/v1/chat/completions"' "$STATE_DIR/log/envoy.log.1"
}

main "$@"
