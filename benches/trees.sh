#!/usr/bin/env bash
# What keeping the hash trees adds to the instructions of a quorum PUT: once as shipped, once built
# without trees. Takes about 15 minutes.
set -euo pipefail
shopt -s inherit_errexit
# shellcheck source=scripts/lib.sh
source "$(dirname "${BASH_SOURCE[0]}")/../scripts/lib.sh"
# shellcheck source=benches/instructions.sh
source "$ROOT/benches/instructions.sh"
ensure_packages valgrind

WORK="$(mktemp -d)"
trap 'rm -rf "$WORK"' EXIT

build_counted bench "$WORK/with"
STARLING_BENCH_WITHOUT_TREES=1 build_counted bench "$WORK/without"
with="$(count_request "$WORK/with" put 500 3000)"
without="$(count_request "$WORK/without" put 500 3000)"
say "a quorum PUT on all three nodes, its client with it: $with instructions"
say "the same without trees: $without"
say "the trees add $(((with - without) * 1000 / without)) per mille"
