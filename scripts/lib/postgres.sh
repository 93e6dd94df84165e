# shellcheck shell=bash
# PostgreSQL: a private cluster with a password of its own, or the server that DATABASE_URL names.
#
# Whoever uses the cluster holds a shared lock on users.lock: a test run for as long as it runs, a
# stack for as long as its backend lives. The last one to go stops it, unless `make setup` asked for
# it to stay (the file `keep`).

PG_OLDEST=15
PG_ROLE=purser
PG_DIR=${PG_DIR:-$STATE_DIR/pg}
[[ $PG_DIR == /* ]] || PG_DIR=$ROOT/$PG_DIR

# Sets DATABASE_URL. The caller holds the lock on the cluster's users, or sets `keep`.
ensure_postgres() {
  local version
  if database_url_is_given; then
    [[ $DATABASE_URL =~ ^postgres(ql)?:// ]] || die "DATABASE_URL must start with postgres://"
    version=$(server_version)
    used="$version at $(url_without_password "$DATABASE_URL") (from DATABASE_URL)"
    return
  fi
  (umask 022 && mkdir -p "$PG_DIR")
  exec 8>>"$PG_DIR/start.lock"
  wait_for_lock 8 "another start of PostgreSQL" 120
  find_pg_bin
  if [[ -z $PG_BIN ]]; then
    # Debian's package also makes a cluster for the whole system; that one is never touched.
    apt_install "PostgreSQL $PG_OLDEST or newer" postgresql
    find_pg_bin
    [[ -n $PG_BIN ]] || die "the installed PostgreSQL is older than $PG_OLDEST; install a newer one, or set DATABASE_URL"
  fi
  place_cluster
  [[ -s $PG_HOME/data/PG_VERSION && -s $PG_DIR/password ]] || create_cluster
  pg_is_running || start_cluster
  exec 8>&-
  DATABASE_URL=$(private_url postgres)
  version=$(server_version)
  used="$version on 127.0.0.1:$(pg_port), data in $PG_HOME"
}

# Whether the caller's DATABASE_URL is a server of theirs. A private cluster's own URL, exported from
# an `env` file, does not count.
database_url_is_given() {
  [[ -n ${DATABASE_URL-} && ! $DATABASE_URL =~ ^postgres://$PG_ROLE:[0-9a-f]{48}@127\.0\.0\.1:[0-9]+/postgres$ ]]
}

private_url() { printf 'postgres://%s:%s@127.0.0.1:%s/%s' "$PG_ROLE" "$(<"$PG_DIR/password")" "$(pg_port)" "$1"; }

# Sets PG_BIN: the folder with the server's programs, of the version of the data if there is data.
find_pg_bin() {
  local folder version wanted='' best=0
  PG_BIN=''
  [[ -s $PG_DIR/version ]] && wanted=$(<"$PG_DIR/version")
  for folder in "$(pg_config --bindir 2>/dev/null || true)" "$(dirname "$(command -v postgres || true)")" \
    /usr/lib/postgresql/*/bin; do
    [[ -x $folder/postgres && -x $folder/initdb && -x $folder/pg_ctl ]] || continue
    version=$("$folder/postgres" --version)
    version=${version##*) }
    version=${version%%[!0-9]*}
    if ((version >= PG_OLDEST && version > best)) && [[ -z $wanted || $version == "$wanted" ]]; then
      PG_BIN=$folder best=$version
    fi
  done
}

# Sets PG_USER and PG_HOME. The server refuses to run as root, and a clone under /root is closed to
# everyone else: the data then goes where its user can reach it.
place_cluster() {
  PG_USER='' PG_HOME=$PG_DIR
  ((EUID == 0)) || return 0
  PG_USER=postgres
  if ! id -u "$PG_USER" >/dev/null 2>&1; then
    PG_USER=purser
    id -u "$PG_USER" >/dev/null 2>&1 ||
      run_logged useradd --system --no-create-home --shell /usr/sbin/nologin "$PG_USER"
  fi
  if ! as_pg test -x "$PG_DIR"; then
    PG_HOME=/var/lib/purser/$(printf '%s' "$PG_DIR" | sha256sum | cut -c1-12)
    (umask 022 && mkdir -p "$PG_HOME")
  fi
}

# as_pg COMMAND...: as the cluster's user, away from folders that it may not read, without our locks.
as_pg() {
  if [[ -n $PG_USER ]]; then
    (cd / && exec setpriv --reuid="$PG_USER" --regid="$(id -g "$PG_USER")" --init-groups -- "$@") \
      6>&- 7>&- 8>&- 9>&-
  else
    (cd / && exec "$@") 6>&- 7>&- 8>&- 9>&-
  fi
}

create_cluster() {
  local password data=$PG_HOME/data password_file=$PG_HOME/initial-password
  password=$(random_hex 24)
  # Data without its password is what an interrupted set-up or a deleted clone left behind.
  ! pg_is_running || run_logged as_pg "$PG_BIN/pg_ctl" stop -m immediate -w -D "$data"
  rm -rf "$data" "$PG_HOME/socket"
  mkdir -m 700 "$data" "$PG_HOME/socket"
  printf '%s\n' "$password" | write_private "$password_file"
  : >"$PG_HOME/server.log"
  [[ -z $PG_USER ]] || chown "$PG_USER:" "$data" "$PG_HOME/socket" "$password_file" "$PG_HOME/server.log"
  run_logged as_pg "$PG_BIN/initdb" -D "$data" -U "$PG_ROLE" --pwfile="$password_file" \
    --auth=scram-sha-256 --encoding=UTF8 --no-locale
  rm -f "$password_file"
  say "listen_addresses = '127.0.0.1'
max_connections = 200" >>"$data/postgresql.conf"
  cp "$data/PG_VERSION" "$PG_DIR/version"
  printf '%s\n' "$password" | write_private "$PG_DIR/password"
}

start_cluster() {
  local port socket=$PG_HOME/socket attempt
  rm -f "$PG_DIR/keep"
  # A socket's path has a hard limit of 107 bytes, and the setting is a list; TCP works without one.
  [[ $socket =~ ^[A-Za-z0-9_./\ -]{1,80}$ ]] || socket=''
  port=$(cat "$PG_DIR/port" 2>/dev/null || true)
  for attempt in 1 2 3; do
    if [[ -z $port ]] || port_is_taken "$port"; then port=$(free_port); fi
    say "$port" >"$PG_DIR/port"
    try_logged as_pg "$PG_BIN/pg_ctl" start -w -t 60 -D "$PG_HOME/data" -l "$PG_HOME/server.log" \
      -o "-p $port -c unix_socket_directories='$socket'" && return
    warn "PostgreSQL did not start on port $port (attempt $attempt of 3)"
    port=''
  done
  show_tail "$PG_HOME/server.log" 15
  die "PostgreSQL did not start"
}

pg_is_running() { as_pg "$PG_BIN/pg_ctl" status -D "$PG_HOME/data" >/dev/null 2>&1; }

# The port of the running server, by its own word.
pg_port() { sed -n 4p "$PG_HOME/data/postmaster.pid"; }

# use_postgres: from here on, the cluster is in use by this process and those that inherit descriptor 9.
use_postgres() {
  (umask 022 && mkdir -p "$PG_DIR")
  exec 9>>"$PG_DIR/users.lock"
  wait_for_lock 9 "PostgreSQL, which is being stopped" 60 -s
}

# release_postgres: ends this process's use, and stops the cluster if that was the last one.
release_postgres() {
  exec 9>&-
  [[ -s $PG_DIR/password && ! -e $PG_DIR/keep ]] || return 0
  exec 9>>"$PG_DIR/users.lock"
  if flock -n -x 9; then
    find_pg_bin
    place_cluster
    if [[ -n $PG_BIN ]] && pg_is_running; then
      try_logged as_pg "$PG_BIN/pg_ctl" stop -m fast -w -t 60 -D "$PG_HOME/data" ||
        warn "PostgreSQL did not stop; its log: $PG_HOME/server.log"
    fi
  fi
  exec 9>&-
}
