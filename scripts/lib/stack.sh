# shellcheck shell=bash
# One stack: fake LLM (or a real upstream), backend and Envoy, each on a port of its own.

# Those who carry traffic come first, and stop first.
PROCESSES=(envoy intercept backend fake-llm)

EGRESS_PORT=${EGRESS_PORT:-10000}
ENVOY_ADMIN_PORT=${ENVOY_ADMIN_PORT:-9901}
BACKEND_PORT=${BACKEND_PORT:-8088}
FAKE_LLM_PORT=${FAKE_LLM_PORT:-9100}
INTERCEPT_PORT=${INTERCEPT_PORT:-10443}
TLS_DIR=$STATE_DIR/tls
FAILURE_MODE=${FAILURE_MODE:-open}
UNIDENTIFIED=${UNIDENTIFIED:-'{"org":"demo","team":"default","user":"default"}'}
BIN_DIR=$TARGET_DIR/${PROFILE_DIR:-debug}

# start_stack DATABASE_URL: sets the port variables to what the processes really listen on. Whoever
# calls this stops the stack if it fails.
start_stack() {
  local backend_url=$1 upstream=${LLM_UPSTREAM-} names
  rm -f "$RUN_DIR"/*
  rotate_logs "${PROCESSES[@]}"
  make_token token
  make_token admin-token
  if [[ -z $upstream ]]; then
    mapfile -t names < <(intercepted_names | sed 's/^/--name=/')
    start_process fake-llm "$BIN_DIR/fake-llm" --listen "127.0.0.1:$FAKE_LLM_PORT" \
      --tls-listen 127.0.0.1:0 --certificates "$TLS_DIR" "${names[@]}"
    wait_until fake-llm 20 is_listening fake-llm
    FAKE_LLM_PORT=$(listening_port fake-llm)
    upstream=127.0.0.1:$FAKE_LLM_PORT
  fi
  start_backend "$backend_url"
  start_envoy "$upstream"
  write_ports >"$RUN_DIR/ports"
}

write_ports() {
  local name names=(EGRESS_PORT ENVOY_ADMIN_PORT BACKEND_PORT)
  [[ -n ${LLM_UPSTREAM-} ]] || names+=(FAKE_LLM_PORT)
  for name in "${names[@]}"; do
    printf '%s=%s\n' "$name" "${!name}"
  done
}

make_token() {
  [[ -s $STATE_DIR/$1 ]] || random_hex 24 | write_private "$STATE_DIR/$1"
}

start_backend() {
  DATABASE_URL=$1 PURSER_TOKEN=$(<"$STATE_DIR/token") PURSER_ADMIN_TOKEN=$(<"$STATE_DIR/admin-token") \
    PURSER_LISTEN_ADDR=127.0.0.1:$BACKEND_PORT \
    start_process backend "$BIN_DIR/budget-backend" serve
  wait_until backend 90 is_listening backend
  BACKEND_PORT=$(listening_port backend)
  wait_until backend 30 answers "http://127.0.0.1:$BACKEND_PORT/readyz"
}

start_envoy() {
  local upstream_host=${1%:*} upstream_port=${1##*:}
  upstream_host=${upstream_host#[}
  UPSTREAM_HOST=${upstream_host%]} UPSTREAM_PORT=$upstream_port \
    BACKEND_HOST=127.0.0.1 PURSER_TOKEN=$(<"$STATE_DIR/token") \
    render_template envoy/egress.yaml | write_private "$STATE_DIR/envoy.yaml"
  start_process envoy "$ENVOY" -c "$STATE_DIR/envoy.yaml" --disable-hot-restart --concurrency "${ENVOY_CONCURRENCY:-2}" \
    --admin-address-path "$RUN_DIR/envoy-admin" --drain-time-s 5 --drain-strategy immediate \
    --log-level warning --component-log-level wasm:info
  wait_until envoy 30 envoy_is_ready envoy
  ENVOY_ADMIN_PORT=$(envoy_admin_port envoy)
  EGRESS_PORT=$(envoy_listener_port envoy)
}

# start_interception: an Envoy that decrypts calls to LLM hosts and sends them to the fake LLM, which
# has certificates of an authority of its own for their names. Apart from the other one, so that
# neither's traffic is in the other's way.
start_interception() {
  BACKEND_HOST=127.0.0.1 PURSER_TOKEN=$(<"$STATE_DIR/token") ENVOY_ADMIN_PORT=0 AWS_REGION=us-east-1 \
    INTERCEPT_CERT_FILE=$TLS_DIR/mesh.pem INTERCEPT_KEY_FILE=$TLS_DIR/mesh-key.pem \
    UPSTREAM_CA_FILE=$TLS_DIR/provider-ca.pem \
    render_template envoy/intercept.yaml |
    sed -E "s/address: [a-z0-9.-]+, port_value: 443\}/address: 127.0.0.1, port_value: $(tls_port_of_fake)}/" |
    write_private "$STATE_DIR/intercept.yaml"
  start_process intercept "$ENVOY" -c "$STATE_DIR/intercept.yaml" --disable-hot-restart --concurrency 1 \
    --admin-address-path "$RUN_DIR/intercept-admin" --drain-time-s 5 --drain-strategy immediate \
    --log-level warning --component-log-level wasm:info
  wait_until intercept 30 envoy_is_ready intercept
  INTERCEPT_PORT=$(envoy_listener_port intercept)
  printf 'INTERCEPT_PORT=%s\n' "$INTERCEPT_PORT" >>"$RUN_DIR/ports"
}

# The names that the interception decrypts, one a line.
intercepted_names() {
  AWS_REGION=us-east-1 render_template envoy/intercept.yaml |
    sed -n '/^ *server_names:/,/^ *transport_socket:/s/^ *- "\{0,1\}\([^"]*\)"\{0,1\}$/\1/p'
}

tls_port_of_fake() { sed -n 's/^listening with TLS on 127\.0\.0\.1:\([0-9]*\)$/\1/p;T;q' "$LOG_DIR/fake-llm.log"; }

# The placeholders of a configuration, replaced as plain text; any other ${...} stays as it is.
render_template() {
  local text name
  text=$(<"$1")
  for name in EGRESS_PORT INTERCEPT_PORT ENVOY_ADMIN_PORT BACKEND_HOST BACKEND_PORT UPSTREAM_HOST UPSTREAM_PORT \
    PURSER_WASM PURSER_TOKEN UNIDENTIFIED FAILURE_MODE AWS_REGION \
    INTERCEPT_CERT_FILE INTERCEPT_KEY_FILE UPSTREAM_CA_FILE; do
    [[ -z ${!name+set} ]] || text=${text//"\${$name}"/"${!name}"}
  done
  printf '%s\n' "$text"
}

answers() { curl -fs -m 2 -o /dev/null "$1"; }

# envoy_admin_port NAME
envoy_admin_port() { sed 's/.*://' "$RUN_DIR/$1-admin"; }

# envoy_is_ready NAME
envoy_is_ready() {
  [[ -s $RUN_DIR/$1-admin ]] && answers "http://127.0.0.1:$(envoy_admin_port "$1")/ready" &&
    [[ -n $(envoy_listener_port "$1") ]]
}

# envoy_listener_port NAME: the admin page has one line per listener, name::address:port.
envoy_listener_port() {
  curl -fs -m 2 "http://127.0.0.1:$(envoy_admin_port "$1")/listeners" | sed -n '1s/.*:\([0-9]*\)$/\1/p'
}

# stop_stack: what runs of it, the traffic first and the backend after whoever reports to it. Safe
# to call at any point of a start.
stop_stack() {
  local admin name
  for name in intercept envoy; do
    if pid_of "$name" >/dev/null && [[ -s $RUN_DIR/$name-admin ]]; then
      admin=http://127.0.0.1:$(envoy_admin_port "$name")
      drain_envoy "$admin"
      drain_outbox "$admin"
    fi
    stop_process "$name" 10
  done
  stop_process backend 20
  stop_process fake-llm 5
  rm -f "$RUN_DIR"/*
}

# No new connections; then wait until no request is under way, to the upstream or to the backend. A
# stop at once would cut streams and lose what the filter has yet to report.
drain_envoy() {
  local admin=$1 quiet=0 calls until_ms=$(($(now_ms) + ${DRAIN_S:-5} * 1000))
  curl -fs -m 2 -o /dev/null -X POST "$admin/drain_listeners?graceful" || return 0
  while ((quiet < 3 && $(now_ms) < until_ms)); do
    if requests_under_way "$admin"; then quiet=0; else quiet=$((quiet + 1)); fi
    sleep 0.1
  done
  ((quiet < 3)) || return 0
  calls=$(stat_sum "$admin" '^http\.(egress|intercept)\.downstream_rq_active$') || return 0
  ((calls == 0)) || warn_of_loss "calls that were still under way after ${DRAIN_S:-5} s and are cut off: $calls"
}

requests_under_way() {
  curl -fs -m 2 "$1/stats?filter=(downstream_rq_active|upstream_rq_active)$" |
    grep -v '^http\.admin\.' | grep -qv ': 0$'
}

# drain_outbox ADMIN_URL: waits until every settlement is acknowledged. They are in Envoy's memory
# alone, and after an outage of the backend the filter waits for up to 2 s before it tries again.
drain_outbox() {
  local items until_ms=$(($(now_ms) + ${OUTBOX_S:-15} * 1000))
  while items=$(stat_sum "$1" purser_outbox_items) && ((items > 0)); do
    # Whoever answers there will take them, also a backend that somebody started by hand.
    if ! pid_of backend >/dev/null && ! backend_is_alive; then
      warn_of_loss "settlements that were not delivered: $items (the backend has ended)"
      return
    elif (($(now_ms) > until_ms)); then
      warn_of_loss "settlements that were not delivered: $items (the backend did not take them within ${OUTBOX_S:-15} s)"
      return
    fi
    sleep 0.1
  done
  [[ -n $items ]] || warn "Envoy's admin port does not answer; whether settlements are lost is not known"
}

backend_is_alive() {
  (
    # shellcheck disable=SC1091
    source "$RUN_DIR/ports" && answers "http://127.0.0.1:$BACKEND_PORT/healthz"
  )
}

# stat_sum ADMIN_URL REGEX: the sum of the statistics whose names match; 0 if there are none.
stat_sum() {
  local stats
  stats=$(curl -fs -m 2 "$1/stats?filter=$2") || return 1
  awk -F ': ' '{ sum += $2 } END { print sum + 0 }' <<<"$stats"
}

# warn_of_loss WHAT
warn_of_loss() {
  warn "$1; their holds expire and are charged in full, what failed open is lost"
}

stack_is_running() {
  local name
  for name in "${PROCESSES[@]}"; do
    if pid_of "$name" >/dev/null; then return 0; fi
  done
  return 1
}
