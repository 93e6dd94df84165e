# shellcheck shell=bash
# What every script shares: where things are, how a step reports, how a failure reads.
#
# File descriptors with a fixed meaning: 6 the lock of one stack, 7 the lock of the cache, 8 the
# lock of the cluster's start and stop, 9 the shared lock of whoever uses the cluster.

set -euo pipefail
export LC_ALL=C

ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd -P)
cd "$ROOT"

CACHE_DIR=${XDG_CACHE_HOME:-${HOME:?HOME is not set}/.cache}/purser
STATE_DIR=${STATE_DIR:-.local}
[[ $STATE_DIR == /* ]] || STATE_DIR=$ROOT/$STATE_DIR
LOG_DIR=$STATE_DIR/log
SETUP_LOG=$LOG_DIR/setup.log
TARGET_DIR=$ROOT/target

# A state folder has to be open to the user that PostgreSQL runs as; its secrets are files of mode 0600.
make_state_dir() {
  (umask 022 && mkdir -p "$STATE_DIR" "$LOG_DIR" "$STATE_DIR/run")
}

say() { printf '%s\n' "$*"; }

warn() { printf 'warning: %s\n' "$*" >&2; }

die() {
  printf 'error: %s\n' "$*" >&2
  exit 1
}

# make_command TARGET: how `make TARGET` is typed so that it means this state folder.
make_command() {
  local settings=''
  [[ $STATE_DIR == "$ROOT/.local" ]] || settings="STATE_DIR=$(printf %q "$STATE_DIR") "
  [[ ${PG_DIR:-$STATE_DIR/pg} == "$STATE_DIR/pg" ]] || settings+="PG_DIR=$(printf %q "$PG_DIR") "
  printf '%smake %s' "$settings" "$1"
}

# The time since the epoch in milliseconds.
now_ms() { printf '%s' "$((${EPOCHREALTIME/./} / 1000))"; }

# seconds_since START_MS: "1.2", to one decimal place.
seconds_since() {
  local tenths=$((($(now_ms) - $1) / 100))
  printf '%s.%s' "$((tenths / 10))" "$((tenths % 10))"
}

# step NAME FUNCTION: runs FUNCTION and prints one line: what it left in $used, and the time it took.
step() {
  local name=$1 started_ms
  started_ms=$(now_ms)
  used=''
  "$2"
  say "$name: $used, $(seconds_since "$started_ms") s"
}

# run_logged COMMAND...: the output goes to the set-up log; a failure shows its end and stops.
run_logged() {
  try_logged "$@" || {
    show_tail "$SETUP_LOG" 25
    die "failed: $1 ${2-} ${3-} ... (the whole output: $SETUP_LOG)"
  }
}

# try_logged COMMAND...: the same, but a failure is left to the caller.
try_logged() {
  printf '\n== %(%F %T)T %s\n' -1 "$*" >>"$SETUP_LOG"
  "$@" >>"$SETUP_LOG" 2>&1 </dev/null
}

show_tail() {
  [[ -s $1 ]] || return 0
  printf -- '--- the last lines of %s\n' "$1" >&2
  tail -n "${2:-20}" "$1" >&2
  printf -- '---\n' >&2
}

# write_private FILE: standard input becomes FILE, whole or not at all, readable by its owner only.
write_private() {
  local partial=$1.$$
  (umask 077 && cat >"$partial")
  mv -f "$partial" "$1"
}

random_hex() { od -An -N "$1" -tx1 /dev/urandom | tr -d ' \n'; }

# wait_for_lock FD WHAT LIMIT_S [OPTION...]: takes a lock on an open descriptor, and says so if it has to wait.
wait_for_lock() {
  local fd=$1 what=$2 limit_s=$3
  shift 3
  flock "$@" -n "$fd" && return
  say "waiting for $what (at most $limit_s s)"
  flock "$@" -w "$limit_s" "$fd" || die "gave up after $limit_s s, waiting for $what"
}
