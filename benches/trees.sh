#!/usr/bin/env bash
# What keeping the hash trees adds to the instructions of a quorum PUT: three nodes and their clients
# in one process, counted by callgrind, once as shipped and once built without trees. Takes about
# 15 minutes.
set -euo pipefail
shopt -s inherit_errexit
# shellcheck source=scripts/lib.sh
source "$(dirname "${BASH_SOURCE[0]}")/../scripts/lib.sh"
cd "$ROOT"
ensure_packages valgrind

WORK="$(mktemp -d)"
trap 'rm -rf "$WORK"' EXIT

# count NAME PUTS: the instructions of a run with so many PUTs.
count() {
    STARLING_BENCH_PUTS="$2" valgrind --tool=callgrind --callgrind-out-file="$WORK/$1-$2" \
        "$WORK/$1" puts 2>"$WORK/log" >&2 || { cat "$WORK/log" >&2; die "the run failed"; }
    sed -n 's/^summary: //p' "$WORK/$1-$2"
}

# per_put NAME: the difference of two runs, so that starting and stopping don't count.
per_put() {
    local few many
    few="$(count "$1" 500)"
    many="$(count "$1" 2500)"
    printf '%s' $(((many - few) / 2000))
}

# build NAME: the benchmark's binary.
build_benchmark() {
    local binary
    binary="$(cargo bench --locked --bench repair --no-run --message-format=json 2>/dev/null |
        sed -n 's/.*"executable":"\([^"]*repair-[^"]*\)".*/\1/p' | tail -n1)"
    cp "$binary" "$WORK/$1"
}

build_benchmark with
STARLING_BENCH_WITHOUT_TREES=1 build_benchmark without
with="$(per_put with)"
without="$(per_put without)"
say "a quorum PUT on all three nodes, its client with it: $with instructions"
say "the same without trees: $without"
say "the trees add $(((with - without) * 1000 / without)) per mille"
