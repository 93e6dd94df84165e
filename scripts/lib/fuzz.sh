# shellcheck shell=bash
# Fuzz targets with libFuzzer, built by the tool chain that is there. Coverage comes from LLVM's own pass;
# the flags are those that cargo-fuzz sets, sanitizers apart, which need a nightly compiler: the filter has
# no unsafe code in what is fuzzed. The layout is cargo-fuzz's, which works here as well:
#
#   cargo fuzz run --features libfuzzer TARGET

FUZZ_BUILD_DIR=$TARGET_DIR/fuzz
FUZZ_SEEDS_DIR=$FUZZ_BUILD_DIR/seeds
FUZZ_FLAGS="--cfg fuzzing -Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4 \
-Cllvm-args=-sanitizer-coverage-inline-8bit-counters -Cllvm-args=-sanitizer-coverage-pc-table \
-Cllvm-args=-sanitizer-coverage-trace-compares -Ccodegen-units=1 -Cdebug-assertions -Coverflow-checks"

# The names of the targets.
fuzz_targets() {
  local file
  for file in fuzz/fuzz_targets/*.rs; do
    basename "$file" .rs
  done
}

# Builds every target and writes their seeds. The first build takes a minute: libFuzzer is C++.
build_fuzz_targets() {
  local host
  host=$(rustc -vV | sed -n 's/^host: //p')
  FUZZ_BIN_DIR=$FUZZ_BUILD_DIR/$host/release
  # With --target the flags are for the targets alone, not for build scripts.
  CARGO_TARGET_DIR=$FUZZ_BUILD_DIR RUSTFLAGS=$FUZZ_FLAGS \
    cargo build --quiet --locked --release --target "$host" -p purser-fuzz --features libfuzzer --bins
  rm -rf "$FUZZ_SEEDS_DIR"
  CARGO_TARGET_DIR=$TARGET_DIR \
    cargo run --quiet --locked -p purser-fuzz --example write-seeds -- "$FUZZ_SEEDS_DIR"
  used="$(fuzz_targets | wc -l) targets"
}
