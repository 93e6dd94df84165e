# shellcheck shell=bash
# Programs that come from the system's package manager.

# apt_install REASON PACKAGE...: installs Debian packages, or says exactly which ones are missing.
apt_install() {
  local reason=$1 as_root=()
  shift
  command -v apt-get >/dev/null ||
    die "$reason is missing. Install it with your package manager (Debian calls it: $*), then run this again."
  if ((EUID != 0)); then
    command -v sudo >/dev/null || die "$reason is missing. As root: apt-get install $*"
    as_root=(sudo)
    [[ -t 0 ]] || as_root=(sudo -n)
  fi
  as_root+=(env DEBIAN_FRONTEND=noninteractive apt-get -q -o DPkg::Lock::Timeout=300)
  try_logged "${as_root[@]}" update || warn "apt-get update failed; trying with the package lists as they are"
  try_logged "${as_root[@]}" install -y --no-install-recommends --no-remove "$@" || {
    show_tail "$SETUP_LOG" 15
    die "$reason is missing and could not be installed. As root: apt-get install $*"
  }
}

# ensure_command COMMAND PACKAGE...: COMMAND is there afterwards.
ensure_command() {
  local command=$1
  shift
  command -v "$command" >/dev/null || apt_install "$command" "$@"
}

# What everything else stands on. A Rust tool chain alone has no linker.
ensure_basics() {
  command -v cargo >/dev/null || die "cargo is missing. Install Rust: https://rustup.rs"
  ensure_command cc gcc libc6-dev
  ensure_command curl curl ca-certificates
  ensure_command python3 python3
  used="$(rustc --version), $(python3 --version)"
}
