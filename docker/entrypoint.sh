#!/bin/sh
# Gives the database's password from a mounted secret to PostgreSQL's client, which takes no
# password file that others may read, as mounted secrets may be.
set -eu
if [ -n "${PGPASSWORD_FILE:-}" ]; then
    PGPASSWORD=$(cat "$PGPASSWORD_FILE")
    export PGPASSWORD
fi
exec "$@"
