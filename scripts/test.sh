#!/usr/bin/env bash
# Every check there is. Sets up what it needs; needs no terminal. Exit code 0 only if all passed.
set -euo pipefail
# shellcheck source=scripts/lib.sh
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
exec </dev/null
cd "$ROOT"

VENV="$TOOLS_DIR/python"
# Far from the default ports, so that a cluster someone is working with is left alone.
export CLUSTER_BASE_PORT="${CLUSTER_BASE_PORT:-17070}"
NODE="http://127.0.0.1:$CLUSTER_BASE_PORT"
WORK="$(mktemp -d)"
export CLUSTER_DIR="$WORK/cluster"

results=()
failed=0

# step NAME COMMAND...: runs a check, and notes how it went and how long it took.
step() {
    local name="$1" started=$SECONDS outcome=passed
    shift
    heading "$name"
    # Not in an `if`: that would switch off `set -e` inside of functions.
    set +e
    (
        set -e
        "$@"
    )
    local status=$?
    set -e
    if [[ $status -ne 0 ]]; then
        outcome="FAILED ($status)"
        failed=$((failed + 1))
    fi
    results+=("$(printf '%-28s %-12s %5s s' "$name" "$outcome" $((SECONDS - started)))")
}

skip() {
    results+=("$(printf '%-28s %s' "$1" "skipped: $2")")
}

finish() {
    if [[ -d "$CLUSTER_DIR" ]]; then
        ./scripts/cluster.sh down >/dev/null 2>&1 || true
    fi
    rm -rf "$WORK"
}
trap finish EXIT
trap 'exit 130' INT TERM

ensure_cargo_deny() {
    command -v cargo-deny >/dev/null && return
    say "installing cargo-deny into $TOOLS_DIR; this takes some minutes, once"
    # A target folder of its own: the project's stays as it is.
    CARGO_TARGET_DIR="$CACHE_DIR/tools-target" cargo install cargo-deny --locked --root "$TOOLS_DIR"
}

ensure_python_tools() {
    local probe="import openapi_spec_validator, prometheus_client"
    "$VENV/bin/python" -c "$probe" 2>/dev/null && return
    rm -rf "$VENV"
    python3 -m venv "$VENV" 2>/dev/null || {
        rm -rf "$VENV"
        ensure_packages python3-venv
        python3 -m venv "$VENV"
    }
    "$VENV/bin/pip" install --quiet openapi-spec-validator prometheus-client
}

deny() {
    ensure_cargo_deny
    cargo deny --offline check licenses bans sources || cargo deny check licenses bans sources
}

tests() {
    if command -v cargo-nextest >/dev/null; then
        say "with cargo nextest"
        cargo nextest run --locked --no-fail-fast
    else
        say "with cargo test (cargo-nextest is not installed)"
        cargo test --locked --no-fail-fast --lib --bins --tests
    fi
}

SIMULATOR=(--locked --release --features sim)

# Determinism, and that planted bugs are found.
simulator_tests() {
    if command -v cargo-nextest >/dev/null; then
        cargo nextest run "${SIMULATOR[@]}" --test simulator --no-fail-fast --success-output final
    else
        cargo test "${SIMULATOR[@]}" --test simulator --no-fail-fast -- --nocapture
    fi
}

# New seeds each time, the same ones for the same commit; and those that failed once.
simulator_seeds() {
    local first
    first="$(git rev-parse HEAD 2>/dev/null | cut -c1-12)"
    cargo run "${SIMULATOR[@]}" --bin starling-sim -- \
        --seeds "${SIMULATOR_SEEDS:-300}" --from "$((16#${first:-0}))" \
        --file tests/simulator/seeds.txt
}

documentation() {
    RUSTDOCFLAGS="-D warnings" cargo doc --locked --no-deps
}

shell_scripts() {
    ensure_packages shellcheck
    shellcheck -x scripts/*.sh benches/*.sh .ci/run
}

openapi() {
    fetch "$NODE/openapi.json" -o "$WORK/openapi.json"
    "$VENV/bin/python" -m openapi_spec_validator "$WORK/openapi.json"
}

metrics() {
    fetch "$NODE/metrics" -o "$WORK/metrics.txt"
    "$VENV/bin/python" scripts/check-metrics.py "$WORK/metrics.txt"
}

live_checks() {
    build dev
    export CLUSTER_BINARY="$BINARY"
    step "cluster of three" ./scripts/cluster.sh up 3
    step "README's commands" python3 scripts/check-readme.py README.md \
        --base-port "$CLUSTER_BASE_PORT" --path "$(dirname "$BINARY")"
    step "openapi.json" openapi
    step "metrics" metrics
    step "cluster stops" ./scripts/cluster.sh down
}

heading "set-up"
ensure_build_tools
ensure_python_tools

step "format" cargo fmt --all --check
step "clippy" cargo clippy --locked --all-targets --features sim -- -D warnings
step "clippy without the simulator" cargo clippy --locked --lib --bins -- -D warnings
step "licenses, bans, sources" deny
step "shell scripts" shell_scripts
step "tests" tests
step "simulator's tests" simulator_tests
step "simulator" simulator_seeds
step "documentation's examples" cargo test --locked --doc
step "documentation" documentation
step "cost of requests" ./scripts/guard.sh --short
step "build" build dev
if [[ $failed -eq 0 || -x "$CARGO_TARGET_DIR/debug/starling" ]]; then
    live_checks
else
    skip "checks of a live cluster" "there is no build"
fi

heading "summary"
printf '%s\n' "${results[@]}"
if [[ $failed -gt 0 ]]; then
    die "$failed checks failed, after $SECONDS s"
fi
say "all checks passed, after $SECONDS s"
