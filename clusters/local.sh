#!/usr/bin/env bash
# A Ray head on this machine, to which you submit jobs as to a cluster:
#
#   clusters/local.sh start [--num-cpus N ...]   # a head with its job server on 127.0.0.1; other options go to `ray start`
#   clusters/local.sh submit RECIPE [...]        # same as `python -m study submit RECIPE --address ... [...]`
#   clusters/local.sh status                     # nodes and demand, as Ray's autoscaler sees them
#   clusters/local.sh stop                       # stops this head and its jobs, and no other Ray on this machine
#
# XSTILTS_LOCAL (default ./runs/local-cluster): folder of the head's process id and log, and of a file `tmp` that names the folder
# of Ray's own logs. XSTILTS_PORT (default 8265): port of the job server. Ray's other ports listen on all addresses of the machine,
# because `ray start` replaces a loopback address by the machine's own. Without the token they answer only with metrics for
# Prometheus and with the node's health.
set -euo pipefail

state=${XSTILTS_LOCAL:-runs/local-cluster}
port=${XSTILTS_PORT:-8265}
python=${PYTHON:-python}
export RAY_AUTH_MODE=token RAY_USAGE_STATS_ENABLED=0
ray=("$python" -m ray.scripts.scripts)

# Whether a process of the group runs; a zombie does not.
alive() { ps -eo pgid=,stat= | awk -v group="$1" '$1 == group && $2 !~ /^Z/ { live = 1 } END { exit !live }'; }
ended() { # GROUP N: wait for its end, at most N half-seconds
    for _ in $(seq "$2"); do
        alive "$1" || return 0
        sleep 0.5
    done
    return 1
}
running() { [ -e "$state/pid" ] && alive "$(cat "$state/pid")"; }
answers() { "$python" -c "import socket; socket.create_connection(('127.0.0.1', $port), 1)" 2>/dev/null; }
# Without an explicit token, use that of `ray get-auth-token`; create it if missing.
ensure_token() {
    if [ -z "${RAY_AUTH_TOKEN:-}" ]; then
        local path=${RAY_AUTH_TOKEN_PATH:-$HOME/.ray/auth_token}
        [ -e "$path" ] || (umask 077 && "${ray[@]}" get-auth-token --generate >/dev/null)
        chmod 600 "$path"
    fi
}

case ${1:-} in
start)
    shift
    if running && answers; then echo "already running: http://127.0.0.1:$port" && exit 0; fi
    # After a restart of the machine another process may have the number in the file.
    if answers; then echo "error: port $port is in use; set XSTILTS_PORT to a free one" >&2 && exit 2; fi
    ensure_token
    mkdir -p "$state"
    # Its own process group, so that `stop` ends nothing else. Free ports, so that several heads can run; Ray's default worker
    # ports, 10002 to 19999, would be unusable as the job server's. No draining (30 s) at its end: no other node can take over.
    export RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S=0
    # Its own temporary folder, too: Ray stores there the address that it gives to jobs, and in the shared one every newly started
    # Ray overwrites it. Not in $state, whose path may be too long for socket names.
    [ -d "$(cat "$state/tmp" 2>/dev/null)" ] || mktemp -d /tmp/xstilts-XXXXXX >"$state/tmp"
    RAY_TMPDIR=$(cat "$state/tmp")
    export RAY_TMPDIR
    ready=$RAY_TMPDIR/ray/ray_current_cluster # Ray writes it last, when the node is up too
    rm -f "$ready"
    "$python" -c 'import socket; s = socket.socket(); s.bind(("", 0)); print(s.getsockname()[1])' >"$state/gcs"
    setsid "${ray[@]}" start --head --block --port="$(cat "$state/gcs")" --dashboard-host=127.0.0.1 --dashboard-port="$port" \
        --dashboard-agent-listen-port=0 --include-dashboard=true --min-worker-port=0 --max-worker-port=0 "$@" \
        >"$state/log" 2>&1 &
    echo $! >"$state/pid"
    for _ in $(seq 120); do
        if [ -s "$ready" ] && answers; then echo "http://127.0.0.1:$port" && exit 0; fi
        [ -n "$(jobs -r)" ] || break
        sleep 0.5
    done
    echo "error: the head did not start; see $state/log" >&2
    exit 1
    ;;
submit)
    shift
    ensure_token
    exec "$python" -m study submit "$@" --address "http://127.0.0.1:$port"
    ;;
status)
    running || { echo "not running" >&2 && exit 1; }
    ensure_token
    exec "${ray[@]}" status --address "$("$python" -c 'import ray; print(ray.util.get_node_ip_address())'):$(cat "$state/gcs")"
    ;;
stop)
    if running; then
        pid=$(cat "$state/pid")
        kill -TERM -- "-$pid"
        if ! ended "$pid" 60; then
            kill -KILL -- "-$pid" 2>/dev/null || true
            ended "$pid" 20 || { echo "error: processes of group $pid survive SIGKILL" >&2 && exit 1; }
        fi
    fi
    rm -f "$state/pid"
    ;;
*)
    sed -n '2,12p' "$0" >&2
    exit 2
    ;;
esac
