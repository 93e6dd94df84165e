# shellcheck shell=bash
# Processes of a stack: started in the background, known by process id and start time, and ended by those alone.

RUN_DIR=$STATE_DIR/run

# start_process NAME COMMAND...: detached from the terminal, with its output in the log folder. Only the
# backend keeps descriptor 9, and with it the cluster in use.
start_process() {
  local name=$1 log=$LOG_DIR/$1.log pid
  shift
  : >"$log"
  if [[ $name == backend ]]; then
    setsid "$@" >"$log" 2>&1 </dev/null 6>&- 7>&- 8>&- &
  else
    setsid "$@" >"$log" 2>&1 </dev/null 6>&- 7>&- 8>&- 9>&- &
  fi
  pid=$!
  printf '%s %s\n' "$pid" "$(start_time_of "$pid")" >"$RUN_DIR/$name.pid"
}

# rotate_logs NAME...: keeps the logs of the run before as NAME.log.1, and none older.
rotate_logs() {
  local name log
  for name in "$@"; do
    log=$LOG_DIR/$name.log
    rm -f "$log.1"
    [[ ! -e $log ]] || mv "$log" "$log.1"
  done
}

# The start time in clock ticks since boot: together with the id it names one process for good.
start_time_of() {
  local stat
  stat=$(cat "/proc/$1/stat" 2>/dev/null) || return 0
  read -r -a stat <<<"${stat##*) }"
  printf '%s' "${stat[19]}"
}

# pid_of NAME: the id of the process if it still runs, and runs as the one we started.
pid_of() {
  local pid started
  read -r pid started 2>/dev/null <"$RUN_DIR/$1.pid" || return 1
  [[ -n $started && $(start_time_of "$pid") == "$started" ]] || return 1
  # A zombie has ended; only its parent has not looked yet.
  [[ $(sed 's/.*) //' "/proc/$pid/stat" 2>/dev/null) != Z* ]] || return 1
  printf '%s' "$pid"
}

# wait_until NAME LIMIT_S COMMAND...: until COMMAND succeeds; fails with the log's end if NAME ends or time runs out.
wait_until() {
  local name=$1 limit_s=$2 until_ms
  shift 2
  until_ms=$(($(now_ms) + limit_s * 1000))
  until "$@"; do
    if ! pid_of "$name" >/dev/null; then
      show_tail "$LOG_DIR/$name.log"
      die "$name ended while it was starting"
    fi
    if (($(now_ms) > until_ms)); then
      show_tail "$LOG_DIR/$name.log"
      die "$name was not ready within $limit_s s"
    fi
    sleep 0.05
  done
}

# stop_process NAME LIMIT_S: SIGTERM, then SIGKILL after LIMIT_S.
stop_process() {
  local name=$1 limit_s=$2 pid until_ms
  if pid=$(pid_of "$name"); then
    kill -TERM "$pid" 2>/dev/null || true
    until_ms=$(($(now_ms) + limit_s * 1000))
    while pid_of "$name" >/dev/null && (($(now_ms) < until_ms)); do sleep 0.05; done
    if pid_of "$name" >/dev/null; then
      warn "$name did not stop within $limit_s s; killing it"
      kill -KILL "$pid" 2>/dev/null || true
    fi
  fi
  rm -f "$RUN_DIR/$name.pid"
}

# The port in the line that a program of ours prints when it is ready.
listening_port() {
  sed -n 's/^listening on 127\.0\.0\.1:\([0-9]*\)$/\1/p;T;q' "$LOG_DIR/$1.log"
}

is_listening() { [[ -n $(listening_port "$1") ]]; }
