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

step "stopped before systemd has started it again: pods end; what else is left, hepto-node stop removes"
kill_supervisor mars
within 60 "systemd has seen it" is_down
systemctl stop hepto-node@mars
[ -z "$(workload)" ] || fail "still running: $(workload)"
hepto-node stop --config /etc/hepto/mars.toml
within 30 "nothing of the node is left" nothing_remains

step "stop after a crash and a restart leaves nothing"
systemctl start hepto-node@mars
within 120 "k3s serves" is_ready mars
pid=$(property mars MainPID)
kill_supervisor mars
within 60 "systemd starts it again" is_another "$pid"
stop_all
