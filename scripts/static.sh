#!/bin/sh
# Builds the static release binary, and fails unless it is static, small enough, and runs.
# TARGET=aarch64-unknown-linux-musl builds for another architecture where its C compiler is installed (Debian:
# gcc-aarch64-linux-gnu and libc6-dev-arm64-cross).
set -eu
limit=20000000 # bytes

target=${TARGET:-$(scripts/toolchain.sh | tail -n 1)}
case "$target" in
    *-musl) ! command -v rustup >/dev/null 2>&1 || rustup target add "$target" >/dev/null 2>&1 ;;
    # The whole glibc goes in: needs its static archive, part of Debian's libc6-dev.
    *) export RUSTFLAGS="${RUSTFLAGS:-} -C target-feature=+crt-static" ;;
esac
case "$target" in
    # Its C compiler has glibc's headers, by which SQLite would call open64 and the like, which musl does not have: file
    # offsets have 64 bits there in either case.
    aarch64-*) [ "$(uname -m)" = aarch64 ] || export CC_aarch64_unknown_linux_musl=aarch64-linux-gnu-gcc \
        CARGO_TARGET_AARCH64_UNKNOWN_LINUX_MUSL_LINKER=rust-lld LIBSQLITE3_FLAGS=-DSQLITE_DISABLE_LFS ;;
esac
# A k3s to carry inside; its bytes are not ours to keep small.
if [ -n "${EMBED_K3S:-}" ]; then
    EMBED_K3S=$(realpath -e "$EMBED_K3S")
    export EMBED_K3S
    limit=$((limit + $(stat -c %s "$EMBED_K3S")))
fi
# No paths of this machine in it, so that others get the same bytes.
RUSTFLAGS="${RUSTFLAGS:-} --remap-path-prefix=$PWD=. --remap-path-prefix=${CARGO_HOME:-$HOME/.cargo}=cargo"
export RUSTFLAGS
cargo build --release --locked --package hepto-node --target "$target"
binary=target/$target/release/hepto-node
cp "$binary" target/hepto-node

size=$(stat -c %s target/hepto-node)
[ "$size" -le "$limit" ] || { echo "static: $size bytes, more than $limit" >&2; exit 1; }
# A dynamic program names its loader in the program header PT_INTERP.
if readelf -lW target/hepto-node | grep -q INTERP; then
    echo "static: target/hepto-node asks for a dynamic loader" >&2; exit 1
fi
if [ "${target%%-*}" = "$(uname -m)" ]; then
    # It must run where there is nothing but a kernel: an empty root.
    root=$(mktemp -d)
    trap 'rm -rf "$root"' EXIT
    cp target/hepto-node "$root/hepto-node"
    if [ "$(id -u)" = 0 ]; then chroot "$root" /hepto-node --version; else target/hepto-node --version; fi
fi
echo "static: target/hepto-node, $target, $size bytes"
