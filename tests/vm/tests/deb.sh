# what: the deb: installed, upgraded with pods untouched, removed with the node running on, purged
# limit: 1800
. /share/guest/steps.sh
. /share/guest/node.sh

fresh_host
# The package brings them.
rm /usr/bin/hepto-node /etc/systemd/system/hepto-node@.service
systemctl daemon-reload

deb=$(echo /share/packages/hepto-node_*.deb)
rm -rf /tmp/next /tmp/next.deb
dpkg-deb --raw-extract "$deb" /tmp/next
sed -i 's/^Version: .*/&.1/' /tmp/next/DEBIAN/control
dpkg-deb --build -Znone /tmp/next /tmp/next.deb

install_deb() { check "dpkg" dpkg --install "$1"; }

same_node() {
    [ "$(property mars ActiveState)" = active ] || fail "the unit is $(property mars ActiveState)"
    [ "$(property mars MainPID)" = "$pid" ] || fail "another process"
    [ "$(workload)" = "$before" ] || fail "k3s or its pod was started again: $before, then $(workload)"
}

owner_has_his_own() {
    for file in /etc/hepto/mars.toml /etc/hepto/cluster.key /srv/mars/cluster /srv/mars/identity; do
        [ -e $file ] || fail "$file is gone"
    done
}

step "installed: nothing is started, the unit is there"
install_deb "$deb"
nothing_remains || { remains; fail "the installation started something"; }
[ "$(property mars FragmentPath)" = /usr/lib/systemd/system/hepto-node@.service ] ||
    [ "$(property mars FragmentPath)" = /lib/systemd/system/hepto-node@.service ]
node mars mars eth0 1
systemctl -q enable --now hepto-node@mars
within 120 "k3s serves" is_ready mars
within 60 "a pod runs" has_pod
pid=$(property mars MainPID) before=$(workload)

step "upgraded: the new program, the same process, the same pods"
install_deb /tmp/next.deb
same_node
[ "$(readlink "/proc/$pid/exe")" = /usr/bin/hepto-node ]
within 60 "k3s serves" is_ready mars

step "a config that the new program refuses: the package is installed, and the node goes on"
cp /etc/hepto/mars.toml /tmp/mars.toml
sed -i 's/^interface/interfac/' /etc/hepto/mars.toml
dpkg --install "$deb" >/tmp/said 2>&1 || { cat /tmp/said; fail "dpkg"; }
grep -q "when that is mended: systemctl reload hepto-node@mars.service" /tmp/said
[ "$(dpkg-query --show --showformat '${db:Status-Status}' hepto-node)" = installed ]
same_node
readlink "/proc/$pid/exe" | grep -q deleted
cp /tmp/mars.toml /etc/hepto/mars.toml
systemctl reload hepto-node@mars
same_node
[ "$(readlink "/proc/$pid/exe")" = /usr/bin/hepto-node ]

step "removed: the node runs on, and an installation takes it up again"
dpkg --remove hepto-node
same_node
[ ! -e /usr/bin/hepto-node ]
install_deb "$deb"
same_node
[ "$(readlink "/proc/$pid/exe")" = /usr/bin/hepto-node ]
within 60 "k3s serves" is_ready mars

step "removed: a stop is one in order"
dpkg --remove hepto-node
systemctl stop hepto-node@mars
# It starts at boot: systemd knows of it until it reads the units anew.
systemctl daemon-reload
within 30 "nothing of the node is left" nothing_remains
grep -q 'SIGTERM: ends' /srv/mars/log/k3s.log
owner_has_his_own

step "removed, and systemd's memory of its unit lost: a purge ends the node all the same"
install_deb "$deb"
systemctl start hepto-node@mars
within 120 "k3s serves" is_ready mars
dpkg --remove hepto-node
systemctl daemon-reload
dpkg --purge hepto-node | tee /tmp/said
within 30 "nothing of the node is left" nothing_remains
owner_has_his_own
grep -q ' /etc/hepto$' /tmp/said
grep -q ' /srv/mars$' /tmp/said
[ ! -L /etc/systemd/system/multi-user.target.wants/hepto-node@mars.service ]
