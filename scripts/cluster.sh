#!/bin/bash
# Runs the cluster tests and writes what they saw into docs/reference. Root.
#
#   scripts/cluster.sh kubelab      with upstream's Kubernetes, built here from Go modules (tests/kubelab)
#   HEPTO_K3S=/usr/local/bin/k3s scripts/cluster.sh k3s
#                                   with a k3s; HEPTO_K3S_IMAGES names a folder of its release's image archives, and
#                                   HEPTO_K3S_NEXT another version, to which the cluster is upgraded
set -euo pipefail
cd "$(dirname "$0")/.."

say() { echo "cluster: $*" >&2; }
fail() { say "$*"; exit 1; }

kind=${1:-}
case $kind in
kubelab) page=docs/reference/cluster-test.md ;;
k3s)
    page=docs/reference/cluster-test-k3s.md
    [ -n "${HEPTO_K3S:-}" ] || fail "HEPTO_K3S names no program; try: HEPTO_K3S=/usr/local/bin/k3s make test-k3s"
    [ -x "$HEPTO_K3S" ] || fail "HEPTO_K3S=$HEPTO_K3S is not a program; install k3s there, executable"
    HEPTO_K3S=$(realpath "$HEPTO_K3S")
    HEPTO_K3S_NEXT=${HEPTO_K3S_NEXT:-}
    [ -z "$HEPTO_K3S_NEXT" ] || [ -x "$HEPTO_K3S_NEXT" ] ||
        fail "HEPTO_K3S_NEXT=$HEPTO_K3S_NEXT is not a program; put the next release's k3s there, executable"
    [ -d "${HEPTO_K3S_IMAGES:-/}" ] || fail "HEPTO_K3S_IMAGES=$HEPTO_K3S_IMAGES is not a folder of image archives"
    ;;
*) fail "usage: scripts/cluster.sh kubelab|k3s" ;;
esac
[ "$(id -u)" = 0 ] || fail "it builds network namespaces and needs root; try: sudo -E make test-cluster"

built=$PWD/target/kubelab
mkdir -p "$built"

# Programs and their Debian packages. k3s brings its own containerd, runc and CNI plugins.
programs=(gcc:"gcc libc6-dev" iptables:iptables)
[ "$kind" = k3s ] || programs+=(containerd:containerd runc:runc /usr/lib/cni/bridge:containernetworking-plugins)
[ -x "$built/go/bin/go" ] || programs+=(go:golang-go)
scripts/toolchain.sh "${programs[@]}" >/dev/null

# Go 1.21 and later fetch by themselves the version that go.mod asks for. Debian 12's is older: it fetches that version as
# the module that it is, checked by Go's own checksum database.
[ ! -x "$built/go/bin/go" ] || PATH=$built/go/bin:$PATH
minor=$(go env GOVERSION | sed -n 's/^go1\.\([0-9]*\).*/\1/p')
if [ "${minor:-0}" -lt 21 ]; then
    wanted=$(sed -n 's/^toolchain //p' tests/kubelab/go.mod)
    module=golang.org/toolchain@v0.0.1-$wanted.linux-$(go env GOARCH)
    say "fetching $module"
    folder=$(cd / && GOFLAGS=-modcacherw go mod download -json "$module" | sed -n 's/^.*"Dir": "\(.*\)".*/\1/p')
    cp -r "$folder" "$built/go"
    chmod -R +x "$built/go/bin" "$built/go/pkg/tool"
    PATH=$built/go/bin:$PATH
fi

version=$(sed -n 's/^\tk8s.io\/kubernetes v//p; s/^require k8s.io\/kubernetes v//p' tests/kubelab/go.mod)
# One build of kubelab; the second differs by its version alone, so that it is linked anew and not compiled.
kubelab() {
    local of=k8s.io/component-base/version tags=netgo,osusergo,providerless,dockerless,sqlite_omit_load_extension
    CGO_ENABLED=1 go build -p "${KUBELAB_JOBS:-2}" -trimpath -tags $tags \
        -ldflags "-s -w -X $of.gitVersion=v$version+kubelab$1 -X $of.gitMajor=${version%%.*} \
            -X $of.gitMinor=$(echo "$version" | cut -d. -f2) -X $of.gitTreeState=clean" \
        -o "$2" .
}
build() {
    say "building the test's pod and its images"
    CGO_ENABLED=0 go build -trimpath -ldflags "-s -w" -o "$built/pod" ./pod
    go run ./archive -out "$built/images.tar" -program "$built/pod" -name /pod -command pause \
        rancher/mirrored-pause:3.6 hepto.test/pod:1
    [ "$kind" = kubelab ] || return 0
    say "building kubelab: minutes at the first time"
    kubelab 1 "$built/kubelab"
    kubelab 2 "$built/kubelab-next"
    go test ./join ./setting
}
(cd tests/kubelab && build)
if [ "$kind" = kubelab ]; then
    HEPTO_K3S=$built/kubelab HEPTO_K3S_NEXT=$built/kubelab-next
elif [ -z "$HEPTO_K3S_NEXT" ]; then
    say "HEPTO_K3S_NEXT names no other version: the cluster is upgraded to a copy of the same with another digest"
    # What follows an ELF file's sections is nobody's.
    HEPTO_K3S_NEXT=$built/k3s-next
    cp "$HEPTO_K3S" "$HEPTO_K3S_NEXT"
    echo next >>"$HEPTO_K3S_NEXT"
fi

export HEPTO_K3S HEPTO_K3S_NEXT HEPTO_TEST_IMAGES=$built/images.tar HEPTO_CLUSTER_RESULT=$built/result
rm -rf "$HEPTO_CLUSTER_RESULT"
mkdir "$HEPTO_CLUSTER_RESULT"
cargo build --workspace --bins --locked
# One after another: each is a cluster of its own.
cargo test --workspace --locked --test cluster -- --test-threads=1 "${@:2}"

module() { (cd tests/kubelab && go list -m -f '{{.Version}}' "$1"); }
package() { dpkg-query --show --showformat '${Version}' "$1" 2>/dev/null || echo "unknown"; }
{
    if [ "$kind" = kubelab ]; then
        echo "# The last run of make test-cluster"
        echo
        echo "Written by \`make test-cluster\`. In k3s's place was *kubelab* ([tests/kubelab](../../tests/kubelab)): upstream's"
        echo "components behind k3s's command line. It is not k3s."
        echo
        echo "| part | version |"
        echo "|---|---|"
        echo "| Kubernetes | $version, of Go modules, built by $(cd tests/kubelab && go env GOVERSION) |"
        echo "| flannel | $(module github.com/flannel-io/flannel), host-gw, both families |"
        echo "| kine | $(module github.com/k3s-io/kine), on SQLite |"
        for name in containerd runc containernetworking-plugins iptables; do
            echo "| $name | $(package $name), Debian's |"
        done
    else
        echo "# The last run of make test-k3s"
        echo
        echo "| part | version |"
        echo "|---|---|"
        echo "| k3s | $("$HEPTO_K3S" --version | head -n 1) |"
        echo "| k3s, upgraded to | $("$HEPTO_K3S_NEXT" --version | head -n 1) |"
    fi
    echo "| hepto-node | $(target/debug/hepto-node --version | sed 's/^hepto-node //'), debug build |"
    echo "| kernel | $(uname -sr), $(nproc) cores, $(findmnt --noheadings --output FSTYPE /sys/fs/cgroup | sed 's/^tmpfs$/cgroup v1 or hybrid/; s/^cgroup2$/cgroup v2/') |"
    echo "| day | $(date --utc +%F) |"
    for part in "$HEPTO_CLUSTER_RESULT"/*.md; do
        echo
        cat "$part"
    done
} >"$page.new"
mv "$page.new" "$page"
cat "$page"
