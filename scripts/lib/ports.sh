# shellcheck shell=bash
# Ports on 127.0.0.1.

free_port() {
  python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])'
}

port_is_taken() { (exec 3<>"/dev/tcp/127.0.0.1/$1") 2>/dev/null; }

# require_free_ports VARIABLE...: every port that is taken is named at once. Port 0 means any free one.
require_free_ports() {
  local variable port taken=0
  for variable in "$@"; do
    port=${!variable}
    if [[ ! $port =~ ^(0|[1-9][0-9]{0,4})$ ]] || ((port > 65535)); then
      die "$variable must be a port number, not '$port'"
    fi
    if ((port != 0)) && port_is_taken "$port"; then
      printf 'error: port %s is in use; choose another one: %s=...\n' "$port" "$variable" >&2
      taken=1
    fi
  done
  ((taken == 0)) || exit 1
}
