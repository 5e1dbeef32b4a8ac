#!/usr/bin/env bash
# MLflow's server for a cluster's head: basic authentication, an allow-list of Host headers, loopback by default.
#
#   clusters/mlflow_server.sh --folder DIR [--host 127.0.0.1] [--port 5000] [--allowed-hosts a,b] [--artifacts URI] [--detach]
#
# DIR keeps the database (runs, users) and, unless --artifacts names a bucket (s3://..., gs://...), the artefacts: one server at a
# time over one DIR. The first start makes the administrator's password, in ~/.mlflow/credentials with mode 600, where the driver's
# MLflow client on the same machine finds it by itself. In a container the two values come as MLFLOW_TRACKING_USERNAME and
# MLFLOW_TRACKING_PASSWORD from a secret instead. Over a DIR that has users already, their passwords stay what they were.
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

credentials=~/.mlflow/credentials
if [ -z "${MLFLOW_TRACKING_PASSWORD:-}" ] && [ ! -e "$credentials" ]; then
    mkdir -p ~/.mlflow
    printf '[mlflow]\nmlflow_tracking_username = admin\nmlflow_tracking_password = %s\n' "$(secret)" >"$credentials"
fi
field() { sed -n "s/^mlflow_tracking_$1 = //p" "$credentials"; }
user=${MLFLOW_TRACKING_USERNAME:-$(field username)}
password=${MLFLOW_TRACKING_PASSWORD:-$(field password)}

# Every process of the server reads it as it starts; the first of all writes the hash of the password into the database of users.
settings=~/.mlflow/basic_auth.ini
mkdir -p ~/.mlflow
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
