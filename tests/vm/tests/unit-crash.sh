# what: a killed supervisor is started again and takes k3s and pods over; so is one that hangs
. /share/guest/steps.sh
. /share/guest/node.sh

fresh_host
node mars mars eth0 1
systemctl start hepto-node@mars
within 120 "k3s serves" is_ready mars
within 60 "a pod runs" has_pod

is_another() { [ "$(property mars MainPID)" != "$1" ] && [ "$(property mars ActiveState)" = active ]; }

is_down() { [ "$(property mars ActiveState)" != active ]; }

step "killed"
before=$(workload)
pid=$(property mars MainPID)
kill_supervisor mars
within 60 "systemd starts it again" is_another "$pid"
within 120 "k3s serves" is_ready mars
[ "$(workload)" = "$before" ] || fail "k3s or its pod was started again: $before, then $(workload)"
[ "$(property mars NRestarts)" = 1 ]
[ "$(status mars .k3s.restarts)" = 0 ]

step "killed while it is being restarted"
pid=$(property mars MainPID)
kill_supervisor mars
within 60 "systemd starts it again" is_another "$pid"
kill_supervisor mars
within 120 "k3s serves" is_ready mars
[ "$(workload)" = "$before" ]

step "hanging: the watchdog ends it, and it is started again"
pid=$(property mars MainPID)
kill -STOP "$pid"
within 300 "systemd starts it again" is_another "$pid"
within 120 "k3s serves" is_ready mars
[ "$(workload)" = "$before" ]
journalctl -b --no-pager -u hepto-node@mars | grep -i 'watchdog timeout'

step "crashing again and again: it is started each time"
for _ in 1 2 3 4 5 6 7; do
    pid=$(property mars MainPID)
    kill_supervisor mars
    within 60 "systemd starts it again" is_another "$pid"
done
within 120 "k3s serves" is_ready mars
[ "$(workload)" = "$before" ]

step "stopped before systemd has started it again: pods end; what else is left, hepto-node stop removes"
# A second is too short for this machine to be faster.
mkdir -p /run/systemd/system/hepto-node@mars.service.d
printf '[Service]\nRestartSec=120\n' >/run/systemd/system/hepto-node@mars.service.d/slow.conf
systemctl daemon-reload
kill_supervisor mars
within 60 "systemd has seen it" is_down
systemctl stop hepto-node@mars
[ -z "$(workload)" ] || fail "still running: $(workload)"
hepto-node stop --config /etc/hepto/mars.toml
within 30 "nothing of the node is left" nothing_remains
rm -r /run/systemd/system/hepto-node@mars.service.d
systemctl daemon-reload

step "stop after a crash and a restart leaves nothing"
systemctl start hepto-node@mars
within 120 "k3s serves" is_ready mars
pid=$(property mars MainPID)
kill_supervisor mars
within 60 "systemd starts it again" is_another "$pid"
stop_all
