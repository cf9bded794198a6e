# shellcheck shell=bash
# What the scripts have in common: finding or installing what a build needs, and building.
# To be sourced by scripts that have set -euo pipefail.

ROOT="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
readonly ROOT

# Outlives the clone, so that RocksDB is compiled once for all of them.
CACHE_DIR="${XDG_CACHE_HOME:-$HOME/.cache}/starling"
export CARGO_TARGET_DIR="${CARGO_TARGET_DIR:-$CACHE_DIR/target}"
TOOLS_DIR="$CACHE_DIR/tools"
export PATH="/usr/lib/ccache:$TOOLS_DIR/bin:$HOME/.cargo/bin:$PATH"

# Compiling RocksDB needs a C++ compiler and libclang (its bindings are generated).
readonly BUILD_PACKAGES=(g++ clang libclang-dev ccache pkg-config curl git ca-certificates python3)

say() { printf '%s\n' "$*"; }
heading() { printf '\n== %s\n' "$*"; }
die() {
    printf 'error: %s\n' "$*" >&2
    exit 1
}

as_root() {
    if [[ $(id -u) -eq 0 ]]; then
        "$@"
    elif command -v sudo >/dev/null; then
        sudo "$@"
    else
        die "'$*' needs root; run it as root, or install sudo, and start again"
    fi
}

is_installed() {
    [[ "$(dpkg-query -W -f='${db:Status-Status}' "$1" 2>/dev/null)" == installed ]]
}

# Installs those of the named Debian packages that are missing.
ensure_packages() {
    command -v apt-get >/dev/null ||
        die "this is no Debian system: install a C++ compiler, libclang, ccache, pkg-config, curl, git and python3 by hand, then run cargo build --release"
    local missing=() package
    for package in "$@"; do
        is_installed "$package" || missing+=("$package")
    done
    [[ ${#missing[@]} -eq 0 ]] && return
    say "installing: ${missing[*]}"
    as_root apt-get update -q >/dev/null
    as_root env DEBIAN_FRONTEND=noninteractive \
        apt-get install -y -q --no-install-recommends "${missing[@]}" >/dev/null
}

# Whether the first version is at least the second.
version_at_least() {
    [[ "$(printf '%s\n%s\n' "$2" "$1" | sort -V | head -n1)" == "$2" ]]
}

wanted_rust() {
    sed -n 's/^rust-version = "\(.*\)"/\1/p' "$ROOT/Cargo.toml"
}

has_rust() {
    command -v cargo >/dev/null || return 1
    local found
    found="$(rustc --version 2>/dev/null | cut -d' ' -f2)"
    [[ -n "$found" ]] && version_at_least "$found" "$(wanted_rust)"
}

ensure_rust() {
    has_rust && return
    local wanted
    wanted="$(wanted_rust)"
    say "installing Rust (at least $wanted)"
    if ! command -v rustup >/dev/null && [[ -n "$(apt-cache madison rustup 2>/dev/null)" ]]; then
        ensure_packages rustup
    fi
    if command -v rustup >/dev/null; then
        # What fails here shows below, in one line.
        rustup toolchain install stable --profile minimal -c clippy -c rustfmt || true
        rustup default stable || true
    else
        curl --proto '=https' --tlsv1.2 -sSf --max-time 60 https://sh.rustup.rs |
            sh -s -- -y --no-modify-path --profile minimal -c clippy -c rustfmt || true
    fi
    hash -r
    has_rust ||
        die "Rust $wanted or newer is needed and could not be installed: install it from https://rustup.rs, then run this again"
}

ensure_build_tools() {
    ensure_packages "${BUILD_PACKAGES[@]}"
    ensure_rust
}

# build PROFILE: builds the binary and sets BINARY to its path.
build() {
    local profile="$1" folder="$1" flags=()
    if [[ "$profile" == dev ]]; then folder=debug; else flags=(--profile "$profile"); fi
    if [[ -z "$(find "$CARGO_TARGET_DIR/$folder/build" -name 'librocksdb.a' -print -quit 2>/dev/null)" ]]; then
        say "the first build takes about 20 minutes on 2 cores, most of it for RocksDB; later ones don't"
    fi
    (cd "$ROOT" && cargo build --locked "${flags[@]}" --bin starling)
    # shellcheck disable=SC2034 # for the script that sources this
    BINARY="$CARGO_TARGET_DIR/$folder/starling"
}

# Fetches a URL of a local node; fails on any status but success.
fetch() {
    curl --noproxy '*' -sSf --max-time 10 "$@"
}
