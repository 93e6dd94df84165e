# shellcheck shell=bash
# A tool chain that builds for wasm32-unknown-unknown, and the runner for tests in Node.
#
# Three ways, the first that works: the active tool chain has the target; rustup adds it; Debian's
# own compiler builds the standard library from its source package, linked with rustup's rust-lld.

WASM_TARGET=wasm32-unknown-unknown
WASM_TARGET_DIR=$TARGET_DIR/wasm
# What Envoy loads, and the same with the names of its functions, to read a trace with.
SHIPPED_WASM=$WASM_TARGET_DIR/$WASM_TARGET/wasm/purser.wasm
export PURSER_WASM=$SHIPPED_WASM
NAMED_WASM=$WASM_TARGET_DIR/$WASM_TARGET/wasm/purser_filter.wasm
DEBIAN_RUSTC=/usr/bin/rustc

# Sets WASM_RUSTC and WASM_LINKER: both empty when plain cargo does it.
ensure_wasm_target() {
  local sysroot refused
  sysroot=$(rustc --print sysroot)
  refused=$CACHE_DIR/rustup-refused-$(basename "$sysroot")
  [[ -z ${PURSER_RETRY_RUSTUP-} ]] || rm -f "$refused"
  WASM_RUSTC='' WASM_LINKER=''
  if has_wasm_target "$sysroot"; then
    used="$(rustc --version | cut -d' ' -f1-2), its own $WASM_TARGET"
  elif [[ ! -e $refused ]] && add_target_with_rustup && has_wasm_target "$sysroot"; then
    used="$(rustc --version | cut -d' ' -f1-2), $WASM_TARGET added by rustup"
  else
    use_debian_toolchain "$sysroot"
    # Remembered only now: where this way works, the next run need not wait for rustup again.
    : >>"$refused"
    used="rustc-web $("$DEBIAN_RUSTC" --version | cut -d' ' -f2) (Debian); PURSER_RETRY_RUSTUP=1 asks rustup again"
  fi
}

has_wasm_target() {
  compgen -G "$1/lib/rustlib/$WASM_TARGET/lib/libstd-*.rlib" >/dev/null
}

add_target_with_rustup() {
  command -v rustup >/dev/null && try_logged timeout 180 rustup target add "$WASM_TARGET"
}

use_debian_toolchain() {
  local sysroot=$1 host
  host=$(rustc -vV | sed -n 's/^host: //p')
  WASM_RUSTC=$DEBIAN_RUSTC
  WASM_LINKER=$sysroot/lib/rustlib/$host/bin/rust-lld
  [[ -x $WASM_LINKER ]] ||
    die "no way to build for $WASM_TARGET: this tool chain lacks the target and rust-lld ($WASM_LINKER). Try: rustup target add $WASM_TARGET"
  debian_rust_source_is_there || apt_install "a Rust compiler with the $WASM_TARGET target" rustc-web rust-web-src
  debian_rust_source_is_there || die "rustc-web and rust-web-src are installed, but $DEBIAN_RUSTC has no source to build std from"
}

debian_rust_source_is_there() {
  local sysroot
  sysroot=$("$DEBIAN_RUSTC" --print sysroot 2>/dev/null) && [[ -d $sysroot/lib/rustlib/src/rust/library/std ]]
}

# wasm_cargo SUBCOMMAND ARGUMENT...: cargo for the wasm target, with the tool chain found at set-up.
wasm_cargo() {
  local subcommand=$1
  shift
  local settings=("CARGO_TARGET_DIR=$WASM_TARGET_DIR" "CARGO_TARGET_WASM32_UNKNOWN_UNKNOWN_RUNNER=$WASM_RUNNER")
  if [[ -n $WASM_NODE_DIR ]]; then settings+=("PATH=$WASM_NODE_DIR:$PATH"); fi
  local flags=(--target "$WASM_TARGET")
  if [[ -n $WASM_RUSTC ]]; then
    settings+=("RUSTC=$WASM_RUSTC" RUSTC_BOOTSTRAP=1 "CARGO_TARGET_WASM32_UNKNOWN_UNKNOWN_LINKER=$WASM_LINKER")
    flags+=("-Zbuild-std=std,panic_abort")
  fi
  env "${settings[@]}" cargo "$subcommand" "${flags[@]}" "$@"
}

# The built filter without its names.
strip_filter() {
  python3 "$ROOT/scripts/lib/strip_names.py" "$NAMED_WASM" "$SHIPPED_WASM"
}

# The runner has to be of the very version of the wasm-bindgen in the lock file, so that is where the pin stands.
wasm_bindgen_version() {
  awk '$0 == "name = \"wasm-bindgen\"" { getline; gsub(/[^0-9.]/, ""); print; exit }' "$ROOT/Cargo.lock"
}

wasm_runner_path() {
  printf '%s' "$CACHE_DIR/wasm-bindgen-$(wasm_bindgen_version)/bin/wasm-bindgen-test-runner"
}

# Sets WASM_RUNNER. The first build takes minutes.
ensure_wasm_runner() {
  local version home
  version=$(wasm_bindgen_version)
  [[ -n $version ]] || die "Cargo.lock names no wasm-bindgen, so the version of its test runner is unknown"
  WASM_RUNNER=$(wasm_runner_path)
  home=${WASM_RUNNER%/bin/*}
  if [[ ! -x $WASM_RUNNER ]]; then
    say "wasm test runner: building wasm-bindgen-cli $version, once (some minutes)"
    # Optimised only where it shows: the runner is as quick as ever, and built in half the time.
    run_logged env "CARGO_TARGET_DIR=$CACHE_DIR/build" \
      cargo install wasm-bindgen-cli --version "=$version" --bin wasm-bindgen-test-runner --root "$home" \
      --config 'profile.release.opt-level=0' \
      --config 'profile.release.package.walrus.opt-level=2' \
      --config 'profile.release.package.wasmparser.opt-level=2' \
      --config 'profile.release.package.wasm-bindgen-cli-support.opt-level=1'
    rm -rf "$CACHE_DIR/build"
  fi
  used="wasm-bindgen $version"
}
