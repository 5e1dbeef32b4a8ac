#!/usr/bin/env bash
# MLflow's server for a cluster's head: basic authentication, an allow-list of Host headers, loopback by default.
#
#   clusters/mlflow_server.sh --folder DIR [--host 127.0.0.1] [--port 5000] [--allowed-hosts a,b] [--artifacts URI] [--detach]
#
# DIR holds the database (runs, users) and, unless --artifacts names a bucket (s3://..., gs://...), the artifacts. Only one server at
# a time may use a DIR. The first start creates the administrator's password in DIR/credentials, mode 600. Every start copies it to
# ~/.mlflow/credentials, where the driver's MLflow client on the same machine finds it; so does a new machine with an old DIR. In a
# container, MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD come from a secret instead, and no file holds them. A DIR that has
# users keeps their passwords: a start without their credentials is refused.
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
    *) echo "error: $1: unknown option; see the first lines of $0" >&2 && exit 2 ;;
    esac
done
[ -n "$folder" ] || { echo "error: --folder is missing: give the folder for the server's database" >&2 && exit 2; }
mkdir -p "$folder"
folder=$(cd "$folder" && pwd)
python=${PYTHON:-python}

secret() { "$python" -c 'import secrets; print(secrets.token_urlsafe(32))'; }

# Whether the credentials of a file are valid in the present database, which stores only password hashes.
valid() {
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
sys.exit(not any(check_password_hash(stored, password) for (stored,) in hashes))
PYTHON
}
put() { # SOURCE TARGET: copy atomically
    cp "$1" "$2.part" && mv "$2.part" "$2"
}

kept=$folder/credentials credentials=~/.mlflow/credentials
mkdir -p ~/.mlflow
if [ -n "${MLFLOW_TRACKING_PASSWORD:-}" ]; then
    user=${MLFLOW_TRACKING_USERNAME:-admin} password=$MLFLOW_TRACKING_PASSWORD
else
    if [ ! -e "$kept" ]; then
        if [ -e "$folder/users.db" ] && ! { [ -e "$credentials" ] && valid "$credentials"; }; then
            cat >&2 <<REFUSED
error: $folder has users, but their credentials are missing: neither $kept nor MLFLOW_TRACKING_USERNAME and
MLFLOW_TRACKING_PASSWORD exist, and ~/.mlflow/credentials is missing or another server's. Write the original credentials into
$kept, as the lines [mlflow], mlflow_tracking_username = ... and mlflow_tracking_password = ...; or, if they are lost, move
$folder/users.db away: the next start creates a new administrator, and the runs stay.
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
        echo "~/.mlflow/credentials belonged to another server; moved to $credentials.before" >&2
    fi
    chmod 600 "$kept"
    put "$kept" "$credentials"
    field() { sed -n "s/^mlflow_tracking_$1 *= *//p" "$kept"; }
    user=$(field username) password=$(field password)
fi

# Every server process reads it at its start; the first one writes the password's hash into the user database.
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
        echo "a server already answers on port $port: nothing started" && exit 0
    fi
    nohup "${server[@]}" >"$folder/server.log" 2>&1 &
    echo "MLflow on http://$host:$port, log in $folder/server.log"
else
    exec "${server[@]}"
fi
