#!/bin/sh
# Installs what building and testing need and this machine lacks: Debian packages and a Rust toolchain.
# Arguments are more of the same, as command:package. Says nothing when all is there. Prints the target that
# `make static` builds for, as its last line.
set -eu

say() { echo "toolchain: $*" >&2; }

# Command -> Debian package. musl-gcc compiles ring's C for the static binary.
missing=
need() { command -v "$1" >/dev/null 2>&1 || [ -x "/usr/sbin/$1" ] || missing="$missing $2"; }
need cc "gcc libc6-dev"
need musl-gcc musl-tools
need nft nftables
need iptables-restore iptables
need ip iproute2
need ping iputils-ping
need unshare util-linux
need wireguard-go wireguard-go
need wg wireguard-tools
need python3 python3
need git git
for extra in "$@"; do need "${extra%%:*}" "${extra#*:}"; done
[ -e /usr/lib/x86_64-linux-gnu/faketime/libfaketime.so.1 ] || [ -e "/usr/lib/$(uname -m)-linux-gnu/faketime/libfaketime.so.1" ] || missing="$missing libfaketime"
have_rustup=no
if command -v rustup >/dev/null 2>&1; then
    have_rustup=yes
elif ! command -v cargo >/dev/null 2>&1; then
    . /etc/os-release
    case "${ID:-}:${VERSION_ID:-}" in
        debian:12) missing="$missing rustc-web cargo-web rustfmt-web rust-web-clippy" ;;
        debian:*) missing="$missing rustup" ;;
        *) say "there is no Rust here: install rustup from your distribution or from Rust's own site, then try again"; exit 1 ;;
    esac
fi

if [ -n "$missing" ]; then
    command -v apt-get >/dev/null 2>&1 || { say "install these with your package manager, then try again:$missing"; exit 1; }
    [ "$(id -u)" = 0 ] || { say "these Debian packages are missing; as root: apt-get install$missing"; exit 1; }
    say "installing Debian packages:$missing"
    apt-get -qq update >&2
    # shellcheck disable=SC2086  # a list of words on purpose
    DEBIAN_FRONTEND=noninteractive apt-get -qq install -y --no-install-recommends $missing >/dev/null
    command -v rustup >/dev/null 2>&1 && have_rustup=yes
fi

machine=$(uname -m)
if [ "$have_rustup" = yes ]; then
    # Reads rust-toolchain.toml: channel, components and the static target.
    channel=$(sed -n 's/^channel = "\(.*\)"/\1/p' rust-toolchain.toml)
    rustup toolchain list | grep -q "^$channel-" || rustup toolchain install --profile minimal "$channel" >&2
    rustup component add --toolchain "$channel" clippy rustfmt >/dev/null 2>&1
    rustup target add --toolchain "$channel" "$machine-unknown-linux-musl" >/dev/null 2>&1
    echo "$machine-unknown-linux-musl"
else
    # Debian's own Rust has no musl target; glibc linked statically serves, but releases come from the first way.
    echo "$machine-unknown-linux-gnu"
fi
