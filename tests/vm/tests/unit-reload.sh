# what: systemctl reload takes up a new config and a new program; k3s and pods run on
. /share/guest/steps.sh
. /share/guest/node.sh

fresh_host
node mars mars eth0 1
systemctl start hepto-node@mars
within 120 "k3s serves" is_ready mars
within 60 "a pod runs" has_pod
before=$(workload)
pid=$(property mars MainPID)

same_but_reloaded() {
    [ "$(property mars ActiveState)" = active ] || fail "the unit is $(property mars ActiveState)"
    [ "$(property mars MainPID)" = "$pid" ] || fail "another process"
    [ "$(workload)" = "$before" ] || fail "k3s or its pod was started again"
    within 60 "k3s serves" is_ready mars
}

step "a changed config"
sed -i 's/^\[mesh\]//; $a[mesh]\nport = 51999' /etc/hepto/mars.toml
systemctl reload hepto-node@mars
same_but_reloaded
status mars '.mesh.port == 51999'

step "a new program"
cp /usr/bin/hepto-node /usr/bin/hepto-node.new
mv /usr/bin/hepto-node.new /usr/bin/hepto-node
readlink "/proc/$pid/exe" | grep -q deleted
systemctl reload hepto-node@mars
same_but_reloaded
[ "$(readlink "/proc/$pid/exe")" = /usr/bin/hepto-node ]

step "a program that passes its check and crashes is put back"
cp /usr/bin/hepto-node /root/hepto-node.good
install_program() { cp "$1" /usr/bin/hepto-node.new && chmod 755 /usr/bin/hepto-node.new && mv /usr/bin/hepto-node.new /usr/bin/hepto-node; }
printf '#!/bin/sh\n[ "$2" = check ] && exec echo hepto-node 9.9.9\nexit 1\n' >/root/hepto-node.bad
# systemd asks the installed program to reload: the good one asks here.
install_program /root/hepto-node.bad
if /root/hepto-node.good reload --wait --config /etc/hepto/mars.toml; then fail "it was taken"; fi
install_program /root/hepto-node.good
[ "$(property mars ActiveState)" = active ] || fail "the unit is $(property mars ActiveState)"
[ "$(property mars NRestarts)" = 0 ] || fail "systemd has started it again"
[ "$(property mars MainPID)" != "$pid" ] || fail "the same process"
pid=$(property mars MainPID)
status mars 'any(.problems[]; .code == "W-RELOAD-BACK")'
within 60 "k3s serves" is_ready mars
[ "$(workload)" = "$before" ] || fail "k3s or its pod was started again"
# The watchdog is served by the process that took the node back.
sleep 70
[ "$(property mars MainPID)" = "$pid" ] || fail "the watchdog ended it"
systemctl reload hepto-node@mars
same_but_reloaded
status mars 'all(.problems[]; .code != "W-RELOAD-BACK")'

step "a config that is wrong is refused, and the node goes on"
sed -i 's/^port = 51999/prot = 51999/' /etc/hepto/mars.toml
if systemctl reload hepto-node@mars; then fail "it was taken"; fi
same_but_reloaded
journalctl -b --no-pager -u hepto-node@mars | grep -q prot

step "after a reload, stop leaves nothing"
stop_all
