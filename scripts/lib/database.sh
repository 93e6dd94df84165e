# shellcheck shell=bash
# Databases on the server that DATABASE_URL names. Passwords stay out of argument lists, where every
# user of the machine can read them.

# run_psql URL ARGUMENT...
run_psql() {
  local url=$1 password=''
  shift
  find_psql
  if [[ $url =~ ^(postgres(ql)?://[^:@/]*):([^@/]*)@(.*)$ ]]; then
    printf -v password '%b' "${BASH_REMATCH[3]//%/\\x}"
    url=${BASH_REMATCH[1]}@${BASH_REMATCH[4]}
  fi
  PGPASSWORD=${password:-${PGPASSWORD-}} PGCONNECT_TIMEOUT=10 PGOPTIONS='-c client_min_messages=warning' \
    "$PSQL" -X -q -A -t -v ON_ERROR_STOP=1 "$@" -d "$url"
}

find_psql() {
  [[ -z ${PSQL-} ]] || return 0
  PSQL=$(command -v psql || true)
  if [[ -z $PSQL && -n ${PG_BIN-} && -x $PG_BIN/psql ]]; then PSQL=$PG_BIN/psql; fi
  if [[ -z $PSQL ]]; then
    apt_install psql postgresql-client
    PSQL=psql
  fi
}

# The version of the server at DATABASE_URL; stops if it can't be reached or is too old.
server_version() {
  local number
  number=$(run_psql "$DATABASE_URL" -c 'SHOW server_version_num') ||
    die "no PostgreSQL answers at $(url_without_password "$DATABASE_URL")"
  ((number >= PG_OLDEST * 10000)) || die "PostgreSQL $PG_OLDEST or newer is needed; the server's version is $number"
  printf 'PostgreSQL %s.%s' "$((number / 10000))" "$((number % 10000))"
}

url_without_password() {
  if [[ $1 =~ ^(postgres(ql)?://[^:@/]*):[^@/]*@(.*)$ ]]; then
    printf '%s@%s' "${BASH_REMATCH[1]}" "${BASH_REMATCH[3]}"
  else
    printf '%s' "$1"
  fi
}

# url_with_database URL NAME: the same server, another database.
url_with_database() {
  local query=''
  [[ $1 != *\?* ]] || query="?${1#*\?}"
  [[ ${1%%\?*} =~ ^(postgres(ql)?://[^/]*) ]] || die "DATABASE_URL must start with postgres://"
  printf '%s/%s%s' "${BASH_REMATCH[1]}" "$2" "$query"
}

# database_name PREFIX: clones may share a server, and the name says whose database it is.
database_name() { printf '%s_%s' "$1" "$(printf '%s' "$STATE_DIR" | sha256sum | cut -c1-8)"; }

# create_database NAME: unless it is there.
create_database() {
  local found
  found=$(run_psql "$DATABASE_URL" -c "SELECT 1 FROM pg_database WHERE datname = '$1'")
  [[ -n $found ]] || run_psql "$DATABASE_URL" -c "CREATE DATABASE $1"
}

drop_database() { run_psql "$DATABASE_URL" -c "DROP DATABASE IF EXISTS $1 WITH (FORCE)"; }

# recreate_database NAME: empty, whatever was there.
recreate_database() {
  drop_database "$1"
  run_psql "$DATABASE_URL" -c "CREATE DATABASE $1"
}
