#!/bin/bash
# Runs every fuzz target for some seconds, guided by coverage, on the stable compiler:
#   scripts/fuzz.sh [SECONDS_EACH]
# What makes a target panic is kept in target/fuzz/artifacts; run it again with target/fuzz/.../TARGET FILE.
set -euo pipefail
cd "$(dirname "$0")/.."

seconds=${1:-60}
host=$(rustc -vV | sed -n 's/^host: //p')
out=target/fuzz
# What `cargo fuzz` sets, without the sanitizers that only a nightly compiler has. With a target named, build
# scripts are left alone.
coverage="-Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4"
coverage+=" -Cllvm-args=-sanitizer-coverage-inline-8bit-counters -Cllvm-args=-sanitizer-coverage-pc-table"

printf 'fuzz: building\n'
RUSTFLAGS="--cfg fuzzing -Cdebug-assertions -Coverflow-checks $coverage" \
    cargo build --quiet --locked --release --manifest-path fuzz/Cargo.toml --target "$host" --target-dir $out
mkdir -p $out/artifacts
for source in fuzz/fuzz_targets/*.rs; do
    name=$(basename "$source" .rs)
    mkdir -p "$out/corpus/$name"
    printf 'fuzz: %s for %s s\n' "$name" "$seconds"
    # No single allocation above 64 MiB, no input above two messages of full length.
    "$out/$host/release/$name" -max_total_time="$seconds" -rss_limit_mb=1024 -malloc_limit_mb=64 -max_len=131072 \
        -artifact_prefix="$out/artifacts/$name-" "$out/corpus/$name" >"$out/$name.log" 2>&1 \
        || { tail -40 "$out/$name.log" >&2; exit 1; }
    grep '^Done ' "$out/$name.log"
done
