# shellcheck shell=bash
# The providers' own SDKs for Python, which the tests drive: a venv in the cache.

SDK_REQUIREMENTS=$ROOT/tests/sdks/requirements.txt
# The oldest Python that all of them run on.
SDK_PYTHON_OLDEST=3.11

sdk_home() {
  printf '%s/sdks-%s' "$CACHE_DIR" "$(sha256sum "$SDK_REQUIREMENTS" | cut -c1-12)"
}

sdk_python_path() { printf '%s/venv/bin/python' "$(sdk_home)"; }

# Sets SDK_PYTHON to a Python that has them.
ensure_sdks() {
  SDK_PYTHON=$(sdk_python_path)
  [[ -e $(sdk_home)/complete ]] && sdk_python_runs || install_sdks
  sdk_python_runs || die "$SDK_PYTHON does not run"
  used="$(sdk_versions) in $(sdk_home)"
}

sdk_python_runs() { "$SDK_PYTHON" -c '' 2>/dev/null; }

sdk_versions() {
  sed -n 's/^\(openai\|anthropic\)==\([0-9.]*\).*/\1 \2/p' "$SDK_REQUIREMENTS" | sort -r | paste -sd, | sed 's/,/, /g'
}

install_sdks() {
  local home
  home=$(sdk_home)
  say "SDKs: installing $(grep -c == "$SDK_REQUIREMENTS") Python packages, once"
  rm -rf "$home"
  mkdir -p "$home"
  make_venv "$home/venv"
  "$home/venv/bin/python" -c "import sys; sys.exit(sys.version_info < (${SDK_PYTHON_OLDEST/./, }))" ||
    die "the SDKs need Python $SDK_PYTHON_OLDEST or newer; python3 is $("$home/venv/bin/python" --version)"
  run_logged "$home/venv/bin/python" -m pip install --disable-pip-version-check --no-deps --only-binary :all: \
    --require-hashes -r "$SDK_REQUIREMENTS"
  # Last, so that an interrupted installation counts as none.
  : >"$home/complete"
}
