#!/usr/bin/env bash
# From a clone to a running cluster of three nodes, and a first look at what it does.
set -euo pipefail
# shellcheck source=scripts/lib.sh
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

BASE_PORT="${CLUSTER_BASE_PORT:-7070}"
NODE_1="http://127.0.0.1:$BASE_PORT"
NODE_2="http://127.0.0.1:$((BASE_PORT + 10))"
NODE_3="http://127.0.0.1:$((BASE_PORT + 20))"
cluster="$ROOT/scripts/cluster.sh"

# Shows a command, then runs it.
show() {
    printf '\n$ %s\n' "$*"
    "$@"
}

put() {
    show curl --noproxy '*' -sSf --max-time 15 -X PUT "$1" -H 'Content-Type: text/plain' --data-binary "$2"
}

# get URL EXPECTED
get() {
    local answer
    printf '\n$ %s\n' "curl $1"
    answer="$(fetch --max-time 15 "$1")" || die "the read failed; see: scripts/cluster.sh status"
    say "$answer"
    [[ "$answer" == "$2" ]] || die "expected: $2"
}

heading "what a build needs"
ensure_build_tools
say "all there"

heading "building"
build release
export CLUSTER_BINARY="$BINARY"

heading "three nodes"
show "$cluster" up 3

heading "a write through one node, a read at quorum through another"
put "$NODE_1/v1/kv/hello/world" "a flock turns as one"
get "$NODE_2/v1/kv/hello/world?consistency=quorum" "a flock turns as one"

heading "a node dies, and nothing stops"
show "$cluster" kill 3
put "$NODE_1/v1/kv/hello/world" "and has no leader"
get "$NODE_2/v1/kv/hello/world?consistency=quorum" "and has no leader"

heading "it comes back, and knows what it has missed"
show "$cluster" restart 3
get "$NODE_3/v1/kv/hello/world?consistency=quorum" "and has no leader"
show "$cluster" status

heading "done"
say "Three nodes are running: $NODE_1, $NODE_2, $NODE_3"
say "Go on with the tour in README.md. The binary: $BINARY"
say "Stop them with: scripts/cluster.sh down"
