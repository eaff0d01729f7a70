#!/bin/sh
# Makes the cluster on the first start, then runs Postgres and turns SIGTERM into a fast shutdown: Postgres itself takes
# SIGTERM as "wait until every client has gone".
#
# POSTGRES_USER           superuser that is made (default: postgres)
# POSTGRES_DB             database that is made (default: the user's name)
# POSTGRES_PASSWORD_FILE  file with the password; read once, when the cluster is made
# POSTGRES_TRUST=1        instead of a password: whoever reaches the port is let in (tests only)
#
# Arguments are passed on to Postgres.
set -eu

: "${POSTGRES_USER:=postgres}"
: "${POSTGRES_DB:=$POSTGRES_USER}"

# make_cluster AUTHENTICATION [initdb's ARGUMENTS]
make_cluster() {
    umask 077
    # The cluster gets its own name only once it is whole, so a first start that was cut short is simply repeated.
    rm -rf "$PGDATA.new"
    initdb --pgdata="$PGDATA.new" --username="$POSTGRES_USER" --auth-local=trust --encoding=UTF8 \
        --locale=C.UTF-8 --no-instructions --auth-host="$@" >/dev/null
    if [ "$POSTGRES_DB" != postgres ]; then
        printf 'CREATE DATABASE "%s";\n' "$POSTGRES_DB" |
            postgres --single -D "$PGDATA.new" -c log_min_messages=error postgres >/dev/null
    fi
    echo "host all all all $1" >>"$PGDATA.new/pg_hba.conf"
    mv "$PGDATA.new" "$PGDATA"
}

if [ ! -e "$PGDATA" ]; then
    if [ -n "${POSTGRES_PASSWORD_FILE:-}" ]; then
        if [ ! -s "$POSTGRES_PASSWORD_FILE" ]; then
            echo "orca-postgres: $POSTGRES_PASSWORD_FILE is missing or empty: put the password there" >&2
            exit 64
        fi
        make_cluster scram-sha-256 --pwfile="$POSTGRES_PASSWORD_FILE"
    elif [ "${POSTGRES_TRUST:-}" = 1 ]; then
        make_cluster trust --no-sync
    else
        echo "orca-postgres: no password: set POSTGRES_PASSWORD_FILE, or POSTGRES_TRUST=1 for tests" >&2
        exit 64
    fi
fi

postgres -c listen_addresses='*' -c unix_socket_directories=/run/postgresql "$@" &
child=$!
trap 'kill -INT "$child"' TERM INT
trap 'kill -QUIT "$child"' QUIT
trap 'kill -HUP "$child"' HUP
# A signal ends `wait` early: wait again for as long as Postgres is there.
while :; do
    code=0
    wait "$child" || code=$?
    kill -0 "$child" 2>/dev/null || exit "$code"
done
