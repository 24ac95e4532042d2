#!/bin/bash
# Builds what a release consists of, in target/dist: deb, rpm, static tarball, SBOM, SHA256SUMS.
#
#   PROGRAM=PATH      packs this program and builds none
#   ONLY="deb rpm"    makes these alone, of deb, rpm, tarball, sbom
#   OUT=FOLDER        in place of target/dist
#
# The same commit, built by the same toolchain, gives the same bytes.
set -euo pipefail
cd "$(dirname "$0")/.."

say() { echo "dist: $*" >&2; }
fail() { say "$*"; exit 1; }

version=$(sed -n 's/^version = "\(.*\)"/\1/p' Cargo.toml)
arch=$(uname -m)
target=$arch-unknown-linux-musl
out=${OUT:-target/dist} package=target/package root=target/package/root tools=$PWD/target/tools
parts=${ONLY:-deb rpm tarball sbom}
SOURCE_DATE_EPOCH=${SOURCE_DATE_EPOCH:-$(git log -1 --format=%ct)}
export SOURCE_DATE_EPOCH LC_ALL=C
umask 022

# tool NAME VERSION OPTIMISATION: a cargo subcommand, in target/tools. What runs for a second has no need of a long build.
tool() {
    ! grep -qs "^\"$1 $2 " "$tools/.crates.toml" || return 0
    say "building $1 $2, once"
    CARGO_PROFILE_RELEASE_OPT_LEVEL=$3 CARGO_PROFILE_RELEASE_LTO=off CARGO_PROFILE_RELEASE_CODEGEN_UNITS=16 \
        CARGO_TARGET_DIR=target/tools/build cargo install --quiet --locked --root "$tools" "$1@$2"
    rm -rf target/tools/build
}

# Everything that goes into the packages, where Cargo.toml of hepto-node looks for it.
lay_out() {
    mkdir -p $root/completions $root/man1 $root/doc $root/deb
    install -m 0755 "${PROGRAM:-target/hepto-node}" $root/hepto-node
    [ "$($root/hepto-node --version)" = "hepto-node $version" ] || fail "the program is not hepto-node $version"
    cp 'dist/hepto-node@.service' $root/
    $root/hepto-node man --out $root/man1
    $root/hepto-node completions bash >$root/completions/hepto-node.bash
    $root/hepto-node completions zsh >$root/completions/_hepto-node
    $root/hepto-node completions fish >$root/completions/hepto-node.fish
    cp README.md dist/prometheus/hepto.rules.yaml $root/doc/
    cp dist/grafana/hepto.json $root/doc/grafana.json
    cp CHANGELOG.md $root/doc/changelog
    scripts/notices.py "$target" >$root/doc/third-party
    debian_files
    gzip -9n $root/man1/* $root/doc/changelog $root/doc/third-party $root/doc/grafana.json $root/deb/changelog.Debian
    chmod -R u=rwX,go=rX $root
}

# What Debian's policy asks for, from the files that say it already.
debian_files() {
    paragraph() { sed 's/^$/./; s/^/ /' "$1"; }
    {
        echo "Format: https://www.debian.org/doc/packaging-manuals/copyright-format/1.0/"
        echo "Upstream-Name: hepto-node"
        echo "Source: https://forge.tedomum.net/acides/hepto"
        echo "Comment: The licences of the libraries in the program are in third-party.gz beside this file."
        echo
        echo "Files: *"
        echo "Copyright: $(sed -n 's/^Copyright (c) //p' LICENSE-MIT)"
        echo "License: Expat or Apache-2.0"
        echo
        echo "License: Expat"
        sed '1,/^Copyright/d' LICENSE-MIT | sed '/./,$!d' >$root/deb/expat
        paragraph $root/deb/expat
        echo
        echo "License: Apache-2.0"
        echo " On Debian systems its text is in /usr/share/common-licenses/Apache-2.0."
    } >$root/deb/copyright
    rm $root/deb/expat
    {
        echo "hepto-node ($version-1) unstable; urgency=medium"
        echo
        echo "  * What has changed is in changelog.gz."
        echo
        echo " -- The hepto-node authors <>  $(date --utc --rfc-email --date="@$SOURCE_DATE_EPOCH")"
    } >$root/deb/changelog.Debian
}

# The packages' scripts, whole.
lay_out_scripts() {
    local file
    for file in dist/deb/post* dist/rpm/post*; do
        install -D -m 0755 /dev/null "$package/scripts/${file#dist/}"
        sed -e '/^#NODES#$/{r dist/package.sh' -e 'd}' "$file" >"$package/scripts/${file#dist/}"
    done
}

deb() {
    tool cargo-deb 3.8.0 1
    "$tools/bin/cargo-deb" --no-build --no-strip --quiet --package hepto-node --target "$target" --output "$out/"
}

rpm() {
    tool cargo-generate-rpm 0.21.1 1
    # Neither zstd nor a digest that rpm before 4.14 does not know.
    "$tools/bin/cargo-generate-rpm" --package crates/hepto-node --target "$target" --payload-compress gzip --output "$out/"
}

tarball() {
    local name=hepto-node-$version-$arch-linux
    local folder=$out/$name
    mkdir -p "$folder/completions" "$folder/man1"
    cp $root/hepto-node $root/hepto-node@.service README.md CHANGELOG.md LICENSE-* "$folder/"
    cp $root/completions/* "$folder/completions/"
    cp $root/man1/* "$folder/man1/"
    gzip -dc $root/doc/third-party.gz >"$folder/THIRD-PARTY"
    # As git has it: without what a run has left in it.
    git archive HEAD dist/ansible dist/grafana dist/prometheus | tar -x -C "$folder" --strip-components=1
    tar -c --sort=name --format=ustar --owner=0 --group=0 --numeric-owner --mode='u=rwX,go=rX' \
        --mtime="@$SOURCE_DATE_EPOCH" -C "$out" "$name" | gzip -9n >"$folder.tar.gz"
    rm -r "$folder"
}

# CycloneDX, of what is linked into this program. The tool writes a file for each crate of the workspace, so it gets a copy.
sbom() {
    tool cargo-cyclonedx 0.5.9 0
    local source=$PWD/$package/source
    mkdir "$source"
    git archive HEAD Cargo.toml Cargo.lock bench crates tests | tar -x -C "$source"
    "$tools/bin/cargo-cyclonedx" cyclonedx --manifest-path "$source/Cargo.toml" --format json --spec-version 1.5 \
        --describe binaries --target "$target" --no-build-deps -qq
    scripts/sbom.py "$target" "$source/crates/hepto-node/hepto-node_bin.cdx.json" "$source" \
        >"$out/hepto-node-$version-$arch.cdx.json"
}

built_for=$(scripts/toolchain.sh | tail -n 1)
if [ -z "${PROGRAM:-}" ]; then
    [ "$built_for" = "$target" ] || fail "a release is built for $target; for that, install rustup"
    scripts/static.sh
fi
rm -rf "$package" "$out"/hepto-node[_-]* "$out/SHA256SUMS"
mkdir -p "$package" "$out"
lay_out
lay_out_scripts
for part in $parts; do $part; done
rm -r "$package"
(cd "$out" && sha256sum -- * >SHA256SUMS && cat SHA256SUMS)
