#!/usr/bin/env bash
# A stack to point an SDK at: PostgreSQL, backend, fake LLM and Envoy.
#
#   scripts/stack.sh up|down|status|logs
#
# EGRESS_PORT, INTERCEPT_PORT, ENVOY_ADMIN_PORT, BACKEND_PORT and FAKE_LLM_PORT choose the ports (0 is
# any free one), STATE_DIR the folder for everything it writes; with these a second stack runs beside
# the first. LLM_UPSTREAM=host:port sends the calls there instead of to the fake LLM, and TLS is then
# not intercepted.

# shellcheck source=scripts/lib/common.sh
source "$(dirname "${BASH_SOURCE[0]}")/lib/common.sh"
PROFILE=${PROFILE:-dev}
PROFILE_DIR=${PROFILE/#dev/debug}
source scripts/lib/packages.sh
source scripts/lib/ports.sh
source scripts/lib/wasm.sh
source scripts/lib/database.sh
source scripts/lib/postgres.sh
source scripts/lib/process.sh
source scripts/lib/stack.sh

main() {
  case ${1-} in
    up) up ;;
    down) down ;;
    status) status ;;
    logs) logs ;;
    *) die "usage: scripts/stack.sh up|down|status|logs" ;;
  esac
}

lock_stack() {
  make_state_dir
  exec 6>>"$RUN_DIR.lock"
  wait_for_lock 6 "another command on the stack in $STATE_DIR" 900
}

up() {
  local database_url missing
  lock_stack
  if stack_is_running; then
    missing=$(missing_parts)
    [[ -z $missing ]] ||
      die "the stack in $STATE_DIR is not whole ($missing); stop the rest with '$(make_command down)', then start it again"
    say "Already running in $STATE_DIR:"
    status
    return
  fi
  check_upstream
  require_free_ports EGRESS_PORT INTERCEPT_PORT ENVOY_ADMIN_PORT BACKEND_PORT FAKE_LLM_PORT
  use_postgres
  trap 'abandon' EXIT
  scripts/setup.sh --for-run
  PROFILE=$PROFILE scripts/build.sh
  # shellcheck disable=SC1091
  source "$STATE_DIR/env"
  database_url=$DATABASE_URL
  if ! database_url_is_given; then
    create_database purser
    database_url=$(url_with_database "$DATABASE_URL" purser)
  fi
  step "stack" start_all
  trap - EXIT
  print_guide
}

start_all() {
  start_stack "$database_url"
  [[ -n ${LLM_UPSTREAM-} ]] || start_interception
  python3 scripts/lib/seed.py "http://127.0.0.1:$BACKEND_PORT" "$STATE_DIR/admin-token"
  used="ready on port $EGRESS_PORT"
}

check_upstream() {
  [[ -z ${LLM_UPSTREAM-} || $LLM_UPSTREAM =~ ^[^/:]+:[0-9]+$ || $LLM_UPSTREAM =~ ^\[[0-9a-fA-F:]+\]:[0-9]+$ ]] ||
    die "LLM_UPSTREAM must be host:port, not '$LLM_UPSTREAM'"
}

abandon() {
  local code=$?
  trap - EXIT
  stop_stack
  release_postgres
  exit "$code"
}

down() {
  lock_stack
  if stack_is_running; then
    stop_stack
    say "Stopped the stack in $STATE_DIR."
  else
    say "No stack runs in $STATE_DIR."
  fi
  rm -f "$PG_DIR/keep"
  [[ ! -d $PG_DIR ]] || release_postgres
}

# Prints a line per process, and the ports. Fails unless the stack is whole.
status() {
  local name pid
  if ! stack_is_running; then
    say "No stack runs in $STATE_DIR."
    return 1
  fi
  for name in "${PROCESSES[@]}"; do
    if pid=$(pid_of "$name"); then
      say "  $name: process $pid"
    elif is_part "$name"; then
      say "  $name: does not run; its log: $LOG_DIR/$name.log"
    fi
  done
  [[ -z $(missing_parts) ]] || return 1
  sed 's/^/  /' "$RUN_DIR/ports"
}

# What a stack that runs lacks, in words; nothing if it is whole.
missing_parts() {
  local name parts=()
  for name in "${PROCESSES[@]}"; do
    if is_part "$name" && ! pid_of "$name" >/dev/null; then parts+=("$name does not run"); fi
  done
  # Written last, by a start that went through.
  if ((${#parts[@]} == 0)) && [[ ! -s $RUN_DIR/ports ]]; then parts+=("its start was cut short"); fi
  ((${#parts[@]} == 0)) || printf '%s, ' "${parts[@]}" | sed 's/, $//'
}

# is_part NAME: a stack with an upstream of its own has no fake LLM, and intercepts nothing.
is_part() { [[ $1 != fake-llm && $1 != intercept || -e $RUN_DIR/$1.pid ]]; }

# Follows at a terminal; elsewhere prints what there is.
logs() {
  local follow=() files=() name
  for name in "${PROCESSES[@]}"; do
    [[ ! -e $LOG_DIR/$name.log ]] || files+=("$LOG_DIR/$name.log")
  done
  ((${#files[@]} > 0)) || die "no logs in $LOG_DIR; '$(make_command up)' writes them"
  [[ ! -t 1 ]] || follow=(-F)
  tail -n 40 "${follow[@]}" "${files[@]}"
}

print_guide() {
  local url=http://127.0.0.1:$EGRESS_PORT/v1 upstream=${LLM_UPSTREAM:-the fake LLM}
  local call="curl -sS $url/chat/completions -H 'content-type: application/json'"
  local key_line="  export OPENAI_API_KEY=any"
  if [[ -n ${LLM_UPSTREAM-} ]]; then
    # The variable is for the shell of whoever pastes the line.
    # shellcheck disable=SC2016
    call+=' -H "authorization: Bearer $OPENAI_API_KEY"'
    key_line="  export OPENAI_API_KEY=...    # your own, for $LLM_UPSTREAM"
  fi
  cat <<GUIDE

Purser is up; calls go to $upstream. For any OpenAI SDK:
  export OPENAI_BASE_URL=$url
$key_line

A call, and the same as a stream:
  $call -d '{"model":"gpt-4o-mini","messages":[{"role":"user","content":"Say hello"}]}'
  $call -N -d '{"model":"gpt-4o-mini","stream":true,"messages":[{"role":"user","content":"Say hello"}]}'

What was spent:
  curl -sS 'http://127.0.0.1:$BACKEND_PORT/v1/budgets?org=demo' -H "authorization: Bearer \$(cat $(printf %q "$STATE_DIR/admin-token"))"

$(guide_to_interception)
The admin token is in $STATE_DIR/admin-token. To see the logs, and to stop everything:
  $(make_command logs)
  $(make_command down)
GUIDE
}

# Empty, or a paragraph with a line's end after it.
guide_to_interception() {
  [[ -z ${LLM_UPSTREAM-} ]] || return 0
  cat <<GUIDE
A call to OpenAI's own address, intercepted; for an app, SSL_CERT_FILE=$TLS_DIR/mesh-ca.pem says the same as --cacert:
  curl -sS --cacert $(printf %q "$TLS_DIR/mesh-ca.pem") --resolve api.openai.com:$INTERCEPT_PORT:127.0.0.1 https://api.openai.com:$INTERCEPT_PORT/v1/chat/completions -H 'content-type: application/json' -d '{"model":"gpt-4o-mini","messages":[{"role":"user","content":"Say hello"}]}'

GUIDE
}

main "$@"
