#!/usr/bin/env bash
# A Ray head of your own on this machine, to submit jobs to as to a cluster:
#
#   clusters/local.sh start [--num-cpus N ...]   # a head, its job server on 127.0.0.1; further options go to `ray start`
#   clusters/local.sh submit RECIPE [...]        # as `python -m study submit RECIPE --address ... [...]`
#   clusters/local.sh status                     # nodes and demand, as Ray's autoscaler sees them
#   clusters/local.sh stop                       # ends this head and what runs on it, and no other Ray of this machine
#
# XSTILTS_LOCAL (./runs/local-cluster) holds the head's process id and log, and names the folder of Ray's own logs (`tmp`).
# XSTILTS_PORT (8265) is the job server's. Ray's other ports listen on all addresses of the machine: `ray start` makes the machine's
# own of a loopback address. They take no call without the token, and tell everybody their numbers for Prometheus and that the node
# is well.
set -euo pipefail

state=${XSTILTS_LOCAL:-runs/local-cluster}
port=${XSTILTS_PORT:-8265}
python=${PYTHON:-python}
export RAY_AUTH_MODE=token RAY_USAGE_STATS_ENABLED=0
ray=("$python" -m ray.scripts.scripts)

# Whether a process of the head's group lives; one that ended and was not asked for its end (a zombie) does not.
alive() { ps -eo pgid=,stat= | awk -v group="$1" '$1 == group && $2 !~ /^Z/ { found = 1 } END { exit !found }'; }
ended() { # GROUP N: wait for its end, for N half seconds at most
    for _ in $(seq "$2"); do
        alive "$1" || return 0
        sleep 0.5
    done
    return 1
}
running() { [ -e "$state/pid" ] && alive "$(cat "$state/pid")"; }
answers() { "$python" -c "import socket; socket.create_connection(('127.0.0.1', $port), 1)" 2>/dev/null; }
# Without an explicit token the one of `ray get-auth-token` is used, and made if there is none.
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
    if running; then echo "already running: http://127.0.0.1:$port" && exit 0; fi
    if answers; then echo "error: something else listens on port $port; set XSTILTS_PORT" >&2 && exit 2; fi
    ensure_token
    mkdir -p "$state"
    # A process group of its own: `stop` ends it and nothing else. Free ports, so that it gets along with other heads; those
    # that workers have otherwise, 10002 to 19999, Ray refuses as the job server's. No half minute of draining at its end, which is
    # for nodes whose work another could take over.
    export RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S=0
    # A temporary folder of its own, too: there Ray notes the address that it gives to jobs, and in the common one that of whichever
    # Ray began last on this machine. Not in $state, whose path may be too long for the names of sockets.
    [ -d "$(cat "$state/tmp" 2>/dev/null)" ] || mktemp -d /tmp/xstilts-XXXXXX >"$state/tmp"
    RAY_TMPDIR=$(cat "$state/tmp")
    export RAY_TMPDIR
    noted=$RAY_TMPDIR/ray/ray_current_cluster # written last, when the node is there as well
    rm -f "$noted"
    "$python" -c 'import socket; s = socket.socket(); s.bind(("", 0)); print(s.getsockname()[1])' >"$state/gcs"
    setsid "${ray[@]}" start --head --block --port="$(cat "$state/gcs")" --dashboard-host=127.0.0.1 --dashboard-port="$port" \
        --dashboard-agent-listen-port=0 --include-dashboard=true --min-worker-port=0 --max-worker-port=0 "$@" \
        >"$state/log" 2>&1 &
    echo $! >"$state/pid"
    for _ in $(seq 120); do
        if [ -s "$noted" ] && answers; then echo "http://127.0.0.1:$port" && exit 0; fi
        [ -n "$(jobs -r)" ] || break
        sleep 0.5
    done
    echo "error: the head did not come up; see $state/log" >&2
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
            ended "$pid" 20 || { echo "error: processes of the group $pid outlive SIGKILL" >&2 && exit 1; }
        fi
    fi
    rm -f "$state/pid"
    ;;
*)
    sed -n '2,12p' "$0" >&2
    exit 2
    ;;
esac
