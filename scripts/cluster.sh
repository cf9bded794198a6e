#!/usr/bin/env bash
# A cluster on this machine whose nodes run in the background: for trying things out, and for
# hurting it. Nodes are numbered from 1.
set -euo pipefail
# shellcheck source=scripts/lib.sh
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

DIR="${CLUSTER_DIR:-$ROOT/.starling/cluster}"
BASE_PORT="${CLUSTER_BASE_PORT:-7070}"
BINARY="${CLUSTER_BINARY:-}"
readonly READY_SECONDS=60 STOP_SECONDS=12

usage() {
    cat <<USAGE
Usage: scripts/cluster.sh COMMAND

  up [N]      start N nodes (3), or those of an earlier run that are not running
  down        stop all nodes; their data stays in $DIR
  status      show the processes, and the cluster as one of them sees it
  kill I      end node I with SIGKILL, as a crash would
  pause I     stop node I with SIGSTOP: it is there, but says nothing
  resume I    let node I go on
  restart I   start node I again; stops it first if it runs
  wipe I      take node I its disk: it starts empty, and asks to take its own place again
  add         start one node more, and take it in
  remove I    send node I away: it gives its data to the others and stops
  replace I   give node I's place to a new node; if node I does not run, it is given up as dead

Environment: CLUSTER_BASE_PORT (7070; node I has HTTP port base+10*(I-1), peer port one more),
CLUSTER_DIR (.starling/cluster in the clone), CLUSTER_BINARY (the release build).
USAGE
}

node_dir() { printf '%s/node-%s' "$DIR" "$1"; }
http_port() { printf '%s' $((BASE_PORT + 10 * ($1 - 1))); }
peer_port() { printf '%s' $((BASE_PORT + 10 * ($1 - 1) + 1)); }
url() { printf 'http://127.0.0.1:%s' "$(http_port "$1")"; }
count() { cat "$DIR/nodes" 2>/dev/null || printf 0; }

# Prints the process id of node I if it runs: only if the noted process is that very node.
running_pid() {
    local dir pid
    dir="$(node_dir "$1")"
    pid="$(cat "$dir/pid" 2>/dev/null)" || return 1
    tr '\0' '\n' 2>/dev/null <"/proc/$pid/cmdline" | grep -qxF "$dir/starling.toml" || return 1
    printf '%s' "$pid"
}

process_state() {
    local pid
    if ! pid="$(running_pid "$1")"; then
        printf 'not running'
    elif [[ "$(sed 's/.*) //' "/proc/$pid/stat" | cut -d' ' -f1)" == T ]]; then
        printf 'paused, pid %s' "$pid"
    else
        printf 'running, pid %s' "$pid"
    fi
}

check_node() {
    [[ "${1:-}" =~ ^[1-9][0-9]*$ ]] || die "name a node by its number, 1 to $(count)"
    [[ $1 -le $(count) ]] || die "there is no node $1; there are $(count) (see: $0 up)"
}

# Node I as one of N founders; or, with "join", as one that comes later.
write_settings() {
    local i="$1" n="$2" how="${3:-}" j dir
    dir="$(node_dir "$i")"
    mkdir -p "$dir/data"
    {
        printf 'id = "node-%s"\nhttp = "127.0.0.1:%s"\n' "$i" "$(http_port "$i")"
        printf 'peer = "127.0.0.1:%s"\ndata_dir = "%s/data"\n' "$(peer_port "$i")" "$dir"
        if [[ "$how" == join ]]; then
            printf 'join = ['
            for ((j = 1; j <= n; j++)); do
                [[ "$j" == "$i" || ! -d "$(node_dir "$j")" ]] || printf '"127.0.0.1:%s", ' "$(peer_port "$j")"
            done
            printf ']\n'
        else
            printf 'initial_nodes = [\n'
            for ((j = 1; j <= n; j++)); do
                printf '  { id = "node-%s", peer = "127.0.0.1:%s" },\n' "$j" "$(peer_port "$j")"
            done
            printf ']\n'
        fi
    } >"$dir/starling.toml"
}

find_binary() {
    if [[ -z "$BINARY" ]]; then
        BINARY="$CARGO_TARGET_DIR/release/starling"
        [[ -x "$BINARY" ]] || { ensure_build_tools && build release; }
    fi
    [[ -x "$BINARY" ]] || die "$BINARY is no program"
}

start() {
    local i="$1" dir
    dir="$(node_dir "$i")"
    # Its own session: it outlives this script and its terminal.
    setsid nohup "$BINARY" server --config "$dir/starling.toml" </dev/null >>"$dir/log" 2>&1 &
    printf '%s\n' "$!" >"$dir/pid"
    disown
}

wait_gone() {
    local i="$1" tenths
    for ((tenths = 0; tenths < STOP_SECONDS * 10; tenths++)); do
        running_pid "$i" >/dev/null || return 0
        sleep 0.1
    done
    return 1
}

wait_ready() {
    local i="$1" tenths
    for ((tenths = 0; tenths < READY_SECONDS * 5; tenths++)); do
        # Another node may have the port: then this one ends.
        if fetch -o /dev/null "$(url "$i")/readyz" 2>/dev/null && running_pid "$i" >/dev/null; then
            return 0
        fi
        # The process is not there before setsid has become the node: a second is plenty.
        if ((tenths > 5)) && ! running_pid "$i" >/dev/null; then
            die "node-$i ended while it started; the end of $(node_dir "$i")/log: $(tail -n 1 "$(node_dir "$i")/log")"
        fi
        sleep 0.2
    done
    die "node-$i is not ready after $READY_SECONDS s; see $(node_dir "$i")/log"
}

stop() {
    local i="$1" pid
    pid="$(running_pid "$i")" || return 0
    kill -TERM "$pid" 2>/dev/null || true
    # A paused one hears of it only when it goes on.
    kill -CONT "$pid" 2>/dev/null || true
    wait_gone "$i" && return 0
    say "node-$i did not stop within $STOP_SECONDS s and is killed"
    kill -KILL "$pid" 2>/dev/null || true
    wait_gone "$i" || die "node-$i can't be killed"
}

cmd_up() {
    local n="${1:-}" present i
    present="$(count)"
    [[ -z "$n" ]] && n=$((present > 0 ? present : 3))
    [[ "$n" =~ ^[1-9][0-9]?$ ]] || die "up takes a number of nodes, 1 to 99"
    if ((present > 0 && present != n)); then
        die "$DIR holds a cluster of $present nodes; 'down' and delete that folder to make one of $n"
    fi
    find_binary
    for ((i = 1; i <= n; i++)); do
        [[ -f "$(node_dir "$i")/starling.toml" ]] || write_settings "$i" "$n"
    done
    printf '%s\n' "$n" >"$DIR/nodes"
    for ((i = 1; i <= n; i++)); do
        running_pid "$i" >/dev/null || start "$i"
    done
    for ((i = 1; i <= n; i++)); do
        wait_ready "$i"
        say "node-$i is ready: $(url "$i")"
    done
}

cmd_down() {
    local i pids=()
    # All at once: one after the other, the last would wait for nodes that are gone.
    for ((i = 1; i <= $(count); i++)); do
        stop "$i" &
        pids+=("$!")
    done
    for i in "${pids[@]}"; do wait "$i"; done
    say "all nodes are stopped; their data is in $DIR"
}

cmd_status() {
    local i asked=""
    [[ "$(count)" -gt 0 ]] || die "there is no cluster in $DIR; make one with: $0 up"
    for ((i = 1; i <= $(count); i++)); do
        printf 'node-%-3s %s  %s\n' "$i" "$(url "$i")" "$(process_state "$i")"
        if [[ -z "$asked" ]] && fetch -o /dev/null --max-time 2 "$(url "$i")/readyz" 2>/dev/null; then
            asked="$i"
        fi
    done
    [[ -n "$asked" ]] || die "no node is ready"
    find_binary
    say
    "$BINARY" cluster status --node "$(url "$asked")"
}

cmd_kill() {
    local pid
    pid="$(running_pid "$1")" || die "node-$1 is not running"
    kill -KILL "$pid"
    wait_gone "$1" || die "node-$1 can't be killed"
    say "node-$1 is killed; start it again with: $0 restart $1"
}

cmd_pause() {
    local pid
    pid="$(running_pid "$1")" || die "node-$1 is not running"
    kill -STOP "$pid"
    say "node-$1 is paused; let it go on with: $0 resume $1"
}

cmd_resume() {
    local pid
    pid="$(running_pid "$1")" || die "node-$1 is not running"
    kill -CONT "$pid"
    say "node-$1 goes on"
}

cmd_restart() {
    find_binary
    stop "$1"
    start "$1"
    wait_ready "$1"
    say "node-$1 is ready: $(url "$1")"
}

# Prints the number of a node that serves, other than I.
ready_other_than() {
    local i
    for ((i = 1; i <= $(count); i++)); do
        [[ "$i" == "${1:-}" ]] && continue
        if fetch -o /dev/null --max-time 2 "$(url "$i")/readyz" 2>/dev/null; then
            printf '%s' "$i"
            return
        fi
    done
    die "no other node is ready"
}

# Applies a change through node I once the candidate that it needs has shown itself.
apply_through() {
    local through="$1" tenths
    shift
    for ((tenths = 0; tenths < READY_SECONDS * 10; tenths++)); do
        if "$BINARY" cluster plan --node "$(url "$through")" "$@" >/dev/null 2>&1; then
            "$BINARY" cluster apply --yes --wait --node "$(url "$through")" "$@"
            return
        fi
        sleep 0.1
    done
    "$BINARY" cluster plan --node "$(url "$through")" "$@"
    die "it could not be applied within $READY_SECONDS s"
}

# Starts a node more, which waits to be taken in; prints its number.
start_candidate() {
    local i
    i=$(($(count) + 1))
    printf '%s\n' "$i" >"$DIR/nodes"
    write_settings "$i" "$i" join
    start "$i"
    printf '%s' "$i"
}

cmd_add() {
    local i through
    [[ "$(count)" -gt 0 ]] || die "there is no cluster in $DIR; make one with: $0 up"
    find_binary
    through="$(ready_other_than)"
    i="$(start_candidate)"
    apply_through "$through" --join "node-$i=127.0.0.1:$(peer_port "$i")"
    wait_ready "$i"
    say "node-$i is in the cluster: $(url "$i")"
}

cmd_remove() {
    local through
    find_binary
    through="$(ready_other_than "$1")"
    "$BINARY" cluster apply --yes --wait --node "$(url "$through")" --leave "node-$1"
    stop "$1"
    say "node-$1 has left; its folder is $(node_dir "$1")"
}

cmd_replace() {
    local through i dead=()
    find_binary
    through="$(ready_other_than "$1")"
    running_pid "$1" >/dev/null || dead=(--dead "node-$1")
    i="$(start_candidate)"
    apply_through "$through" --join "node-$i=127.0.0.1:$(peer_port "$i")" \
        --replace "node-$1=node-$i" "${dead[@]}"
    stop "$1"
    wait_ready "$i"
    say "node-$i has the place of node-$1: $(url "$i")"
}

cmd_wipe() {
    local dir
    dir="$(node_dir "$1")"
    find_binary
    stop "$1"
    rm -rf "${dir:?}/data"
    mkdir "$dir/data"
    start "$1"
    say "node-$1 starts with an empty disk. To the others it is a stranger under a known name: it must"
    say "not serve, as it lacks what it once acknowledged, and asks to take its own place:"
    say "  $BINARY cluster apply --replace node-$1=node-$1 --yes --node $(url "$(ready_other_than "$1")")"
    sleep 2
    say "The end of its log: $(tail -n 1 "$dir/log")"
}

main() {
    local command="${1:-}"
    shift || true
    case "$command" in
        up) cmd_up "$@" ;;
        down) cmd_down ;;
        status) cmd_status ;;
        add) cmd_add ;;
        kill | pause | resume | restart | wipe | remove | replace)
            check_node "${1:-}"
            "cmd_$command" "$1"
            ;;
        -h | --help | help) usage ;;
        *)
            usage >&2
            exit 2
            ;;
    esac
}

mkdir -p "$DIR"
DIR="$(cd "$DIR" && pwd)"
main "$@"
