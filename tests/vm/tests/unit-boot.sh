# what: a restart of the host, a power cut, and all agents up before their master
. /share/guest/steps.sh
. /share/guest/node.sh

is_active() { [ "$(property "$1" ActiveState)" = active ]; }

case $PHASE in
1)
    fresh_host
    # The host's own network comes with the host.
    cat >/etc/systemd/system/cards.service <<'UNIT'
[Unit]
Before=network-online.target
[Service]
Type=oneshot
RemainAfterExit=yes
ExecStartPre=/bin/sh -c 'until [ -e /sys/class/net/eth0 ] && [ -e /sys/class/net/eth1 ]; do sleep 0.2; done'
ExecStart=/sbin/ip link set eth0 up
ExecStart=/sbin/ip addr replace 192.168.77.1/24 dev eth0
ExecStart=/sbin/ip link set eth1 up
[Install]
WantedBy=multi-user.target
UNIT
    systemctl -q enable cards
    node mars mars eth0 1
    node venus mars eth1 2
    systemctl -q enable --now hepto-node@mars hepto-node@venus
    within 300 "mars is ready" is_ready mars
    within 300 "venus is ready" is_ready venus
    status mars .mesh.addresses >/srv/addresses
    exit 200
    ;;
2)
    step "after a restart in order"
    within 300 "mars is ready" is_ready mars
    within 300 "venus is ready" is_ready venus
    [ "$(status mars .mesh.addresses)" = "$(cat /srv/addresses)" ]
    journalctl -b -1 --no-pager -u hepto-node@mars | tail -n 20
    # The stop that comes with it kept the order of any stop: k3s was told, not killed.
    grep -q 'SIGTERM: ends' /srv/mars/log/k3s.log
    [ "$(property mars NRestarts)" = 0 ]
    exit 201
    ;;
3)
    step "after a power cut"
    within 300 "mars is ready" is_ready mars
    within 300 "venus is ready" is_ready venus
    [ "$(status mars .mesh.addresses)" = "$(cat /srv/addresses)" ]
    systemctl -q disable hepto-node@mars
    exit 201
    ;;
4)
    step "after a power cut from which the master does not come back yet"
    within 120 "venus's unit is active" is_active venus
    # Longer than systemd's usual patience with a unit that starts.
    sleep 100
    is_active venus
    [ "$(property venus NRestarts)" = 0 ]
    echo "status text: $(property venus StatusText)"
    status venus '.ready | not'
    systemctl start hepto-node@mars
    within 300 "mars is ready" is_ready mars
    within 300 "venus is ready" is_ready venus
    systemctl -q disable hepto-node@venus
    stop_all
    ;;
esac
