#!/usr/bin/env bash
# MLflow's server for a cluster's head: basic authentication, an allow-list of Host headers, loopback by default.
#
#   clusters/mlflow_server.sh --folder DIR [--host 127.0.0.1] [--port 5000] [--allowed-hosts a,b] [--artifacts URI] [--detach]
#
# DIR keeps the database (runs, users) and, unless --artifacts names a bucket (s3://..., gs://...), the artefacts: one server at a
# time over one DIR. The first start makes the administrator's password and keeps it in DIR/credentials, mode 600; every start puts
# it into ~/.mlflow/credentials, where the driver's MLflow client on the same machine finds it by itself, also on a new machine over
# an old DIR. In a container the two values come as MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD from a secret instead, and
# no file holds them. Over a DIR that has users already, their passwords stay what they were: without either it is refused.
set -euo pipefail
umask 077

folder="" host=127.0.0.1 port=5000 allowed="" artifacts="" detach=false
while [ $# -gt 0 ]; do
    case $1 in
    --folder) folder=$2 && shift 2 ;;
    --host) host=$2 && shift 2 ;;
    --port) port=$2 && shift 2 ;;
    --allowed-hosts) allowed=$2 && shift 2 ;;
    --artifacts) artifacts=$2 && shift 2 ;;
    --detach) detach=true && shift ;;
    *) echo "error: $1: not an option; the first lines of $0 have them" >&2 && exit 2 ;;
    esac
done
[ -n "$folder" ] || { echo "error: --folder: where the server keeps its database" >&2 && exit 2; }
mkdir -p "$folder"
folder=$(cd "$folder" && pwd)
python=${PYTHON:-python}

secret() { "$python" -c 'import secrets; print(secrets.token_urlsafe(32))'; }

# Whether these credentials are a user's of the database that is there, which holds the passwords' hashes alone.
opens() {
    "$python" - "$folder/users.db" "$1" <<'PYTHON'
import configparser
import sqlite3
import sys

from werkzeug.security import check_password_hash

given = configparser.RawConfigParser()
given.read(sys.argv[2])
name, password = (given.get("mlflow", f"mlflow_tracking_{what}", fallback="") for what in ("username", "password"))
hashes = sqlite3.connect(f"file:{sys.argv[1]}?mode=ro", uri=True).execute(
    "SELECT password_hash FROM users WHERE username = ?", (name,)
)
sys.exit(not any(check_password_hash(one, password) for (one,) in hashes))
PYTHON
}
put() { # SOURCE TARGET: whole or not at all
    cp "$1" "$2.part" && mv "$2.part" "$2"
}

kept=$folder/credentials credentials=~/.mlflow/credentials
mkdir -p ~/.mlflow
if [ -n "${MLFLOW_TRACKING_PASSWORD:-}" ]; then
    user=${MLFLOW_TRACKING_USERNAME:-admin} password=$MLFLOW_TRACKING_PASSWORD
else
    if [ ! -e "$kept" ]; then
        if [ -e "$folder/users.db" ] && ! { [ -e "$credentials" ] && opens "$credentials"; }; then
            cat >&2 <<REFUSED
error: $folder has users and no credentials of theirs are here: neither $kept nor MLFLOW_TRACKING_USERNAME and
MLFLOW_TRACKING_PASSWORD, and ~/.mlflow/credentials is missing or another server's. Put the ones that it was made with into
$kept, as the lines [mlflow], mlflow_tracking_username = ... and mlflow_tracking_password = ...; or, if nobody has them, move
$folder/users.db away: the next start makes a new administrator, and the runs stay.
REFUSED
            exit 2
        fi
        if [ ! -e "$credentials" ]; then
            printf '[mlflow]\nmlflow_tracking_username = admin\nmlflow_tracking_password = %s\n' "$(secret)" >"$credentials"
        fi
        put "$credentials" "$kept"
    fi
    if [ -e "$credentials" ] && ! cmp -s "$kept" "$credentials"; then
        mv "$credentials" "$credentials.before"
        echo "~/.mlflow/credentials were another server's; they are in $credentials.before" >&2
    fi
    chmod 600 "$kept"
    put "$kept" "$credentials"
    field() { sed -n "s/^mlflow_tracking_$1 *= *//p" "$kept"; }
    user=$(field username) password=$(field password)
fi

# Every process of the server reads it as it starts; the first of all writes the hash of the password into the database of users.
settings=~/.mlflow/basic_auth.ini
cat >"$settings" <<INI
[mlflow]
default_permission = READ
database_uri = sqlite:///$folder/users.db
admin_username = $user
admin_password = $password
authorization_function = mlflow.server.auth:authenticate_request_basic_auth
INI
export MLFLOW_AUTH_CONFIG_PATH=$settings MLFLOW_DISABLE_TELEMETRY=true
export MLFLOW_FLASK_SERVER_SECRET_KEY=${MLFLOW_FLASK_SERVER_SECRET_KEY:-$(secret)}

server=(
    "$python" -m mlflow server --app-name basic-auth --host "$host" --port "$port" --workers 1
    --allowed-hosts "${allowed:-localhost:$port,127.0.0.1:$port}"
    --backend-store-uri "sqlite:///$folder/mlflow.db" --artifacts-destination "${artifacts:-$folder/artifacts}"
)
unset MLFLOW_TRACKING_USERNAME MLFLOW_TRACKING_PASSWORD
if $detach; then
    if "$python" -c "import socket; socket.create_connection(('127.0.0.1', $port), 1)" 2>/dev/null; then
        echo "something answers on port $port already; left alone" && exit 0
    fi
    nohup "${server[@]}" >"$folder/server.log" 2>&1 &
    echo "MLflow on http://$host:$port, log in $folder/server.log"
else
    exec "${server[@]}"
fi
