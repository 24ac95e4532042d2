#!/bin/bash
# Tries what scripts/dist.sh made: what is in the packages, what Debian's and rpm's own checkers say of them, and their
# life (installed, upgraded, removed, purged) with a stand-in for systemctl that writes down what it is told. All of it
# happens in a view of this machine to which writes are private, and which is gone at the end. Root, on Debian.
set -euo pipefail
cd "$(dirname "$0")/.."

say() { echo "dist-check: $*" >&2; }
fail() { say "$*"; exit 1; }

[ "$(id -u)" = 0 ] || fail "it needs root, for a root of its own to install into; try: sudo -E make dist-check"
if [ "${1:-}" != inside ]; then
    scripts/toolchain.sh lintian:lintian rpm:rpm rpmlint:rpmlint >/dev/null
    exec unshare --mount --propagation private "$0" inside
fi

view=$PWD/target/dist-check
deb=$(echo target/dist/*_"$(dpkg --print-architecture)".deb)
rpm=$(echo target/dist/*."$(uname -m)".rpm)
[[ -e $deb && -e $rpm ]] || fail "there is no deb or no rpm of this machine's architecture in target/dist; first: make dist"
node=hepto-node@mars.service

# --- What is in them.

# contains LIST PATH MODE: that LIST, of lines `mode path`, has PATH with MODE.
contains() { grep -qxF -e "$3 $2" "$1" || fail "$(basename "$1") has no $2 with mode $3"; }

contents() {
    local list doc=/usr/share/doc/hepto-node
    dpkg-deb --contents "$deb" | awk '{ sub(/^\./, "", $6); print $1, $6 }' >"$view/deb"
    rpm --query --package --list --verbose "$rpm" 2>/dev/null | awk '{ print $1, $NF }' >"$view/rpm"
    contains "$view/deb" /usr/share/zsh/vendor-completions/_hepto-node -rw-r--r--
    contains "$view/deb" $doc/copyright -rw-r--r--
    contains "$view/rpm" /usr/share/zsh/site-functions/_hepto-node -rw-r--r--
    contains "$view/rpm" /usr/share/licenses/hepto-node/LICENSE-MIT -rw-r--r--
    for list in "$view/deb" "$view/rpm"; do
        contains "$list" /usr/bin/hepto-node -rwxr-xr-x
        contains "$list" /usr/lib/systemd/system/hepto-node@.service -rw-r--r--
        contains "$list" /usr/share/man/man1/hepto-node.1.gz -rw-r--r--
        contains "$list" /usr/share/man/man1/hepto-node-config-check.1.gz -rw-r--r--
        contains "$list" /usr/share/bash-completion/completions/hepto-node -rw-r--r--
        contains "$list" /usr/share/fish/vendor_completions.d/hepto-node.fish -rw-r--r--
        contains "$list" $doc/third-party.gz -rw-r--r--
        contains "$list" $doc/changelog.gz -rw-r--r--
    done
    (cd target/dist && sha256sum --check --quiet --strict SHA256SUMS)
}

checkers() {
    lintian --fail-on error,warning --tag-display-limit 0 "$deb"
    rpm --checksig --nosignature "$rpm" >/dev/null || fail "rpm finds a digest of $rpm wrong"
    rpmlint --config dist/rpm/rpmlint.toml "$rpm" >"$view/rpmlint" || { cat "$view/rpmlint"; fail "rpmlint"; }
}

# --- A machine to install on.

# The root of this machine, to be written without consequences. It has a systemd that runs, as far as one can see.
machine() {
    mkdir "$view/upper" "$view/work" "$view/root"
    mount -t overlay overlay -o "lowerdir=/,upperdir=$view/upper,workdir=$view/work" "$view/root" ||
        fail "this kernel has no overlay file system; try: modprobe overlay"
    root=$view/root units=$view/root/etc/systemd/system
    mount -t tmpfs tmpfs "$root/run"
    mount --rbind /dev "$root/dev"
    mount -t proc proc "$root/proc"
    mkdir -p "$root/packages" "$root/run/systemd/system"
    mount -t tmpfs tmpfs "$root/packages"
    rm -rf "$root/etc/hepto" "$units"/hepto-node@* "$root/usr/sbin/policy-rc.d" "$root/usr/local/bin/hepto-node"
    # Reading all manual pages of this machine anew, at each installation, would take most of the time.
    rm -f "$root/var/lib/man-db/auto-update"
    [ -e "$root/var/lib/dpkg/status" ] || fail "/var is a file system of its own here: this check sees the root's alone"
    rm -f "$root/usr/bin/systemctl" "$root/bin/systemctl"
    cat >"$root/usr/bin/systemctl" <<'STANDIN'
#!/bin/sh
echo "$*" >>/run/told
case "$*" in
    list-units*) cat /run/nodes 2>/dev/null ;;
    *"$(cat /run/fails 2>/dev/null || echo nothing)"*) exit 1 ;;
esac
STANDIN
    chmod 0755 "$root/usr/bin/systemctl"
    mkdir -p "$units/multi-user.target.wants"
}

# Two running nodes, with configs, keys, data, and units that start at boot.
nodes() {
    local name
    : >"$root/run/nodes"
    for name in mars venus; do
        echo "hepto-node@$name.service loaded active running Kubernetes node $name" >>"$root/run/nodes"
        printf '[node]\nname = "%s"\nstorage = "/srv/check"\n[cluster]\nname = "acides"\n' "$name" \
            >"$root/etc/hepto/$name.toml"
        mkdir -p "$root/srv/check/$name"
        ln -sf /lib/systemd/system/hepto-node@.service "$units/multi-user.target.wants/hepto-node@$name.service"
    done
    echo secret >"$root/etc/hepto/acides.cluster.key"
}

# Runs a command in the machine; what it prints is in $view/said, and what systemctl was told, in $view/told.
inside() {
    rm -f "$root/run/told"
    local code=0
    chroot "$root" /usr/bin/env DEBIAN_FRONTEND=noninteractive PATH=/usr/sbin:/usr/bin:/sbin:/bin "$@" \
        >"$view/said" 2>&1 || code=$?
    sed 's/^--system //' "$root/run/told" >"$view/told" 2>/dev/null || : >"$view/told"
    [ $code = 0 ] || { cat "$view/said" >&2; fail "$* ended with $code"; }
}

told() { grep -qxF -e "$1" "$view/told" || { cat "$view/told" >&2; fail "$step: systemctl was not told: $1"; }; }
# Nothing but looking, reading units again, and what is named.
told_only() {
    local others
    others=$(grep -v -e '^list-units' -e '^daemon-reload$' "$view/told" | grep -vxF -e "${1:-nothing}") || return 0
    fail "$step: systemctl was told: $others"
}
said() { grep -qF -e "$1" "$view/said" || { cat "$view/said" >&2; fail "$step: it does not say: $1"; }; }
keeps() {
    local path
    for path in /etc/hepto/mars.toml /etc/hepto/acides.cluster.key /srv/check/mars; do
        [ -e "$root$path" ] || fail "$step: $path is gone"
    done
}
step() {
    step=$*
    say "$step"
}

both_reloaded() {
    told daemon-reload
    told "reload $node"
    told "reload hepto-node@venus.service"
    [ "$(grep -c ^reload "$view/told")" = "$(grep -vc -e ^list-units -e ^daemon-reload "$view/told")" ] ||
        fail "$step: systemctl was told more than to reload: $(cat "$view/told")"
}

# --- The deb.

status() {
    chroot "$root" dpkg-query --show --showformat '${db:Status-Status} ${Version}' hepto-node 2>/dev/null || echo absent
}

deb_life() {
    local dpkg=(dpkg --force-unsafe-io) next
    cp "$deb" "$root/packages/first.deb"
    # The same, but of a later version.
    dpkg-deb --raw-extract "$deb" "$view/next"
    next=$(sed -n 's/^Version: //p' "$view/next/DEBIAN/control").1
    sed -i "s/^Version: .*/Version: $next/" "$view/next/DEBIAN/control"
    dpkg-deb --build -Znone "$view/next" "$root/packages/next.deb" >/dev/null

    step "deb: installed, nothing is started"
    inside "${dpkg[@]}" --install /packages/first.deb
    told daemon-reload
    told_only
    [ "$(stat -c %a "$root/etc/hepto")" = 700 ] || fail "$step: /etc/hepto is not root's alone"
    inside hepto-node --version
    local program
    program=$(sed -n 's/^ExecStart=\([^ ]*\).*/\1/p' "$root/usr/lib/systemd/system/hepto-node@.service")
    [ -x "$root$program" ] || fail "the unit starts $program, which is not in the package"

    step "deb: removed and purged, nothing is left"
    inside "${dpkg[@]}" --purge hepto-node
    [ ! -e "$root/etc/hepto" ] || fail "$step: /etc/hepto is left"

    step "deb: upgraded, running nodes are reloaded"
    inside "${dpkg[@]}" --install /packages/first.deb
    nodes
    inside "${dpkg[@]}" --install /packages/next.deb
    both_reloaded
    keeps

    step "deb: a node refuses, the package is installed and the other node reloaded all the same"
    echo "reload $node" >"$root/run/fails"
    inside "${dpkg[@]}" --install /packages/next.deb
    both_reloaded
    said "when that is mended: systemctl reload $node"
    [ "$(status)" = "installed $next" ] || fail "$step: dpkg says $(status)"
    rm "$root/run/fails"

    step "deb: the machine's policy forbids services"
    printf '#!/bin/sh\nexit 101\n' >"$root/usr/sbin/policy-rc.d"
    chmod 0755 "$root/usr/sbin/policy-rc.d"
    inside "${dpkg[@]}" --install /packages/next.deb
    told_only
    rm "$root/usr/sbin/policy-rc.d"

    step "deb: no systemd runs"
    rmdir "$root/run/systemd/system"
    inside "${dpkg[@]}" --install /packages/next.deb
    [ ! -s "$view/told" ] || fail "$step: systemctl was told: $(cat "$view/told")"
    inside "${dpkg[@]}" --remove hepto-node
    [ ! -s "$view/told" ] || fail "$step: systemctl was told: $(cat "$view/told")"
    mkdir "$root/run/systemd/system"
    inside "${dpkg[@]}" --install /packages/next.deb

    step "deb: removed, nodes run on"
    inside "${dpkg[@]}" --remove hepto-node
    told_only
    ! grep -qx daemon-reload "$view/told" || fail "$step: systemd would forget what it knows of running nodes"
    said "systemctl stop $node"
    keeps
    [ -L "$units/multi-user.target.wants/$node" ] || fail "$step: $node would not come back"
    inside "${dpkg[@]}" --install /packages/next.deb

    step "deb: purged, nodes end, and the owner keeps configs, keys and data"
    inside "${dpkg[@]}" --purge hepto-node
    told "stop hepto-node@*.service"
    told_only "stop hepto-node@*.service"
    keeps
    said "    /etc/hepto"
    said "    /srv/check/venus"
    [ -z "$(find "$units" -name 'hepto-node@*')" ] || fail "$step: links to the unit are left"
    [ "$(status)" = absent ] || fail "$step: dpkg says $(status)"

    step "deb: purged where the owner has a unit of his own"
    inside "${dpkg[@]}" --install /packages/first.deb
    nodes
    echo '[Service]' >"$units/hepto-node@.service"
    inside "${dpkg[@]}" --install /packages/next.deb
    said "comes before the package's unit"
    inside "${dpkg[@]}" --purge hepto-node
    told_only
    [ -L "$units/multi-user.target.wants/$node" ] || fail "$step: his $node would not start any more"
    rm -r "$units/hepto-node@.service" "$units"/multi-user.target.wants/hepto-node@*
    rm -r "$root/etc/hepto" "$root/srv/check" "$root/run/nodes"
}

# --- The rpm. Debian's packages are not in rpm's books, so nothing is asked of those.

rpm_life() {
    local rpm_=(rpm --nodeps --force-debian)
    cp "$rpm" "$root/packages/first.rpm"
    step "rpm: installed, nothing is started"
    inside "${rpm_[@]}" --install /packages/first.rpm
    told daemon-reload
    told_only
    [ "$(stat -c %a "$root/etc/hepto")" = 700 ] || fail "$step: /etc/hepto is not root's alone"
    inside hepto-node --version

    step "rpm: upgraded, running nodes are reloaded"
    nodes
    inside "${rpm_[@]}" --upgrade --replacepkgs --replacefiles /packages/first.rpm
    both_reloaded

    step "rpm: a node refuses, the package is installed and the other node reloaded all the same"
    echo "reload $node" >"$root/run/fails"
    inside "${rpm_[@]}" --upgrade --replacepkgs --replacefiles /packages/first.rpm
    both_reloaded
    said "when that is mended: systemctl reload $node"
    rm "$root/run/fails"

    step "rpm: removed, nodes run on"
    inside "${rpm_[@]}" --erase hepto-node
    told_only
    ! grep -qx daemon-reload "$view/told" || fail "$step: systemd would forget what it knows of running nodes"
    said "systemctl stop $node"
    keeps
    [ ! -e "$root/usr/bin/hepto-node" ] || fail "$step: the program is left"
}

rm -rf "$view"
mkdir -p "$view"
mount -t tmpfs tmpfs "$view"
contents
step "lintian, rpm, rpmlint"
checkers
machine
deb_life
rpm_life
say "deb and rpm are as they should be"
