#!/usr/bin/env bash
# Whether requests have become dearer: their instructions, and their rates in proportion to the
# machine's limit of the same run, beside the figures that were recorded last.
set -euo pipefail
shopt -s inherit_errexit
# shellcheck source=scripts/lib.sh
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
# shellcheck source=benches/instructions.sh
source "$ROOT/benches/instructions.sh"

RECORDED="$ROOT/benches/recorded.tsv"
# By how much a figure may be worse than the recorded one, in per cent. Instructions repeat within 5 %;
# rates depend on what else the machine does.
INSTRUCTIONS_SLACK=8
RATIO_SLACK=20

usage() {
    cat <<USAGE
Usage: scripts/guard.sh [--short | --record]

Measures what requests cost, prints it beside benches/recorded.tsv, and fails if something has become
worse. To be run before a release, on a machine with nothing else to do; takes about 20 minutes.

  --short   counts instructions of the build that tests use, and does not judge; some minutes
  --record  measures all, and writes it to benches/recorded.tsv
USAGE
}

MODE=judge
case "${1:-}" in
    "") ;;
    --short) MODE=short ;;
    --record) MODE=record ;;
    -h | --help) usage; exit 0 ;;
    *) usage >&2; exit 2 ;;
esac

WORK="$(mktemp -d)"
trap 'rm -rf "$WORK"' EXIT
measured="$WORK/measured.tsv"

# instructions PROFILE FEW MANY: writes a line for each kind of request.
instructions() {
    local mix
    build_counted "$1" "$WORK/$1"
    for mix in put get; do
        printf 'instructions\t%s, %s\t%s\n' "$mix" "$1" \
            "$(count_request "$WORK/$1" "$mix" "$2" "$3")" >>"$measured"
    done
}

# The lines of the benchmark's table that have a ratio to the limit: a name of several words, the
# number of connections, then figures, of which the fourth is the ratio of the rates.
ratios() {
    (cd "$ROOT" && cargo bench --locked --bench cluster) | tee "$WORK/table" >&2
    awk 'match($0, /^[A-Za-z, ]+ +[0-9]+ /) && !/^limit/ && NF > 8 {
        for (i = 1; i <= NF && $i !~ /^[0-9]+$/; i++) name = i == 1 ? $i : name " " $i
        printf "ratio\t%s, %s connections\t%s\n", name, $i, $(i + 4)
    }' "$WORK/table" >>"$measured"
}

# Prints each figure beside the recorded one; exits with 1 if one is worse by more than its slack.
compare() {
    awk -F '\t' -v instructions="$INSTRUCTIONS_SLACK" -v ratio="$RATIO_SLACK" '
        NR == FNR { recorded[$1 "\t" $2] = $3; next }
        FNR == 1 { printf "%-13s %-38s %12s %12s %9s\n", "", "", "recorded", "now", "worse by" }
        {
            was = recorded[$1 "\t" $2]
            if (was == "") { printf "%-13s %-38s %12s %12s\n", $1, $2, "-", $3; next }
            by = ($1 == "ratio" ? was / $3 - 1 : $3 / was - 1) * 100
            slack = $1 == "ratio" ? ratio : instructions
            verdict = by > slack ? "  too much" : ""
            printf "%-13s %-38s %12s %12s %7.1f %%%s\n", $1, $2, was, $3, by, verdict
            failed = failed || by > slack
        }
        END { exit failed }' "$RECORDED" "$measured"
}

ensure_packages valgrind
instructions dev 300 1500
if [[ $MODE == short ]]; then
    compare || say "not judged: a release is, by scripts/guard.sh"
    exit 0
fi
instructions bench 500 3000
ratios
if [[ $MODE == record ]]; then
    cp "$measured" "$RECORDED"
    cat "$RECORDED"
    exit 0
fi
compare || die "requests have become dearer: see above. Look for the cause; if it is worth its price, record it with scripts/guard.sh --record"
