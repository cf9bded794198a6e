#!/usr/bin/env bash
# Starts a cluster of its own, runs a standard set of loads against it, and writes a report folder:
# an index to read, and for each load the table, the results for `starling bench --compare`, the
# histograms and a chart.
set -euo pipefail
# shellcheck source=scripts/lib.sh
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

usage() {
    cat <<USAGE
Usage: scripts/load.sh [REPORT_FOLDER]

Runs three nodes on this machine and writes what they took to REPORT_FOLDER (reports/DATE-TIME); takes
about three minutes. Compare two reports with:
  starling bench --compare OLD/NAME.json NEW/NAME.json

Environment: LOAD_NODES (3), LOAD_SECONDS (8) for each load, LOAD_KEYS (10000),
CLUSTER_BASE_PORT (7570), CLUSTER_BINARY (the release build).
USAGE
}

case "${1:-}" in
    -h | --help | help) usage; exit 0 ;;
    -*) usage >&2; exit 2 ;;
esac

NODES="${LOAD_NODES:-3}"
SECONDS_EACH="${LOAD_SECONDS:-8}"
KEYS="${LOAD_KEYS:-10000}"
REPORT="${1:-$ROOT/reports/$(date +%Y-%m-%d-%H%M%S)}"
export CLUSTER_BASE_PORT="${CLUSTER_BASE_PORT:-7570}"
BINARY="${CLUSTER_BINARY:-$CARGO_TARGET_DIR/release/starling}"
export CLUSTER_BINARY="$BINARY"
if [[ ! -x "$BINARY" ]]; then
    [[ "$BINARY" == "$CARGO_TARGET_DIR/release/starling" ]] || die "$BINARY is no program"
    ensure_build_tools
    build release
fi

[[ ! -e "$REPORT" ]] || die "$REPORT is there already; name another folder"
mkdir -p "$REPORT"
# Not the system's folder for temporary files, which may be memory: fsync must cost.
export CLUSTER_DIR="$REPORT/cluster"
finish() {
    "$ROOT/scripts/cluster.sh" down >/dev/null || true
    rm -rf "$CLUSTER_DIR"
}
trap finish EXIT

"$ROOT/scripts/cluster.sh" up "$NODES" >/dev/null
ASKED=()
for ((i = 1; i <= NODES; i++)); do
    ASKED+=(--node "http://127.0.0.1:$((CLUSTER_BASE_PORT + 10 * (i - 1)))")
done

# Runs one load: its name, then what to ask of `starling bench`.
load() {
    local name="$1"
    shift
    say "$name"
    "$BINARY" bench "$@" "${ASKED[@]}" --keys "$KEYS" --duration "$SECONDS_EACH" \
        --save "$REPORT/$name.json" --chart "$REPORT/$name.html" \
        --histograms "$REPORT/$name.hlog" >"$REPORT/$name.txt" 2>"$REPORT/$name.log" ||
        die "$name failed; the end of its log: $(tail -n 1 "$REPORT/$name.log")"
    rm "$REPORT/$name.log"
    {
        printf '## %s\n\n[chart](%s.html) · [results](%s.json) · [histograms](%s.hlog)\n\n' \
            "$name" "$name" "$name" "$name"
        sed 's/^/    /' "$REPORT/$name.txt"
        printf '\n'
    } >>"$REPORT/index.md"
}

{
    printf '# Load of %s\n\n' "$(date -u +%Y-%m-%dT%H:%M:%SZ)"
    printf '%s nodes, %s keys, %s s each, on %s cores of: %s; Linux %s.\n' \
        "$NODES" "$KEYS" "$SECONDS_EACH" "$(nproc)" \
        "$(sed -n 's/^model name[^:]*: //p' /proc/cpuinfo | head -n1)" "$(uname -r)"
    printf '%s, commit %s.\n\n' "$("$BINARY" --version)" \
        "$(git -C "$ROOT" rev-parse --short HEAD 2>/dev/null || printf 'unknown')"
    printf 'The nodes and the generator share the machine. Figures of different machines do not compare.\n\n'
} >"$REPORT/index.md"

for connections in 1 16 64; do
    load "write-$connections" write --connections "$connections"
    load "read-$connections" read --no-load --connections "$connections"
    load "mixed-$connections" mixed --no-load --connections "$connections"
done
load read-one-64 read --no-load --consistency one --connections 64
for workload in a b c d f; do
    load "ycsb-$workload" "ycsb-$workload"
done
say "the report: $REPORT/index.md"
