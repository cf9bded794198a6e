# shellcheck shell=bash
# What a request costs in instructions: three nodes and their client in one process, counted by
# callgrind. Counts do not depend on what else the machine does. To be sourced after scripts/lib.sh.

# build_counted PROFILE FILE: builds the program that is counted, and copies it to FILE.
build_counted() {
    local binary
    binary="$(cd "$ROOT" && cargo build --locked --profile "$1" --bench instructions \
        --message-format=json-render-diagnostics |
        sed -n 's/.*"executable":"\([^"]*instructions-[^"]*\)".*/\1/p' | tail -n1)"
    [[ -n "$binary" ]] || die "the benchmark was not built"
    cp "$binary" "$2"
}

# count_run PROGRAM MIX REQUESTS SECONDS: the instructions of a run that lasts so long at least.
count_run() {
    local out="$1-$2-$3"
    STARLING_BENCH_MIX="$2" STARLING_BENCH_REQUESTS="$3" STARLING_BENCH_LASTS="$4" \
        valgrind --tool=callgrind --callgrind-out-file="$out.callgrind" "$1" >"$out.log" 2>&1 || {
        cat "$out.log" >&2
        die "a counted run failed"
    }
    sed -n 's/^summary: //p' "$out.callgrind"
}

# count_request PROGRAM MIX FEW MANY: the instructions of one request. It is the difference of two
# runs, of so few and so many, so that starting and stopping don't count; and of two that take equally
# long, so that what runs by the clock doesn't either.
count_request() {
    local few="$3" many="$4" begun=$SECONDS all least
    all="$(count_run "$1" "$2" "$many" 0)"
    least="$(count_run "$1" "$2" "$few" "$((SECONDS - begun))")"
    printf '%s' $(((all - least) / (many - few)))
}
