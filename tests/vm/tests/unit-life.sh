# what: the unit starts, is ready, shows its status, stops, and leaves nothing
. /share/guest/steps.sh
. /share/guest/node.sh

fresh_host
nothing_remains || { remains; fail "the host is not fresh"; }
node mars mars eth0 1

step "start returns when the node is up"
systemctl start hepto-node@mars
[ "$(property mars ActiveState)" = active ]
status mars '.network.uplink.kind == "ipvlan"'
within 120 "k3s serves" is_ready mars
within 60 "the status text says so" sh -c 'systemctl show --value -p StatusText hepto-node@mars | grep -q .'
systemctl status --no-pager hepto-node@mars
echo "status text: $(property mars StatusText)"

step "k3s and pods are in a scope of their own, with what a kubelet needs"
within 60 "a pod runs" has_pod
[ "$(property mars ControlGroup)" = /hepto.slice/hepto-node@mars.service ]
[ "$(cat "/sys/fs/cgroup$(property mars ControlGroup)/cgroup.procs")" = "$(property mars MainPID)" ]
scope=/sys/fs/cgroup/hepto.slice/hepto-acides.mars-pods.scope
pods=$scope/hepto/acides.mars/kubepods
grep -q . $pods/besteffort/pod-stand-in/cgroup.procs
for controller in cpu cpuset memory pids io; do
    grep -qw $controller $pods/cgroup.controllers || fail "kubelet gets no $controller"
done

step "the supervisor has the unit's oom_score_adj, its workload has not"
[ "$(cat /proc/"$(property mars MainPID)"/oom_score_adj)" = -900 ]
for pid in $(workload); do
    [ "$(cat "/proc/$pid/oom_score_adj")" = 0 ] || fail "$(cat /proc/"$pid"/comm) has the supervisor's oom_score_adj"
done

step "a second run of the node says 75 and does no harm"
code=0
hepto-node run --config /etc/hepto/mars.toml || code=$?
[ $code = 75 ]
is_ready mars

step "stop leaves nothing, neither does a stop by hepto-node"
stop_all
systemctl start hepto-node@mars
within 120 "k3s serves" is_ready mars
hepto-node stop --config /etc/hepto/mars.toml
is_inactive() { [ "$(property mars ActiveState)" = inactive ]; }
within 30 "the unit is inactive" is_inactive
[ "$(property mars NRestarts)" = 0 ]
within 30 "nothing of the node is left" nothing_remains

step "a kernel before 5.3, which has no pidfd_open, is refused with what to do, and not tried again"
as_before=/run/systemd/system/hepto-node@mars.service.d/before.conf
mkdir -p "${as_before%/*}"
printf '[Service]\nSystemCallFilter=~pidfd_open\nSystemCallErrorNumber=ENOSYS\n' >$as_before
systemctl daemon-reload
if systemctl start hepto-node@mars; then fail "it started"; fi
[ "$(property mars ExecMainStatus)" = 78 ]
[ "$(property mars NRestarts)" = 0 ]
journalctl -b --no-pager -u hepto-node@mars | grep E-RUN-KERNEL
systemd-run -q --pipe --wait -p SystemCallFilter=~pidfd_open -p SystemCallErrorNumber=ENOSYS \
    hepto-node preflight --config /etc/hepto/mars.toml >/tmp/preflight 2>&1 || true
grep E-PREFLIGHT-KERNEL /tmp/preflight || { cat /tmp/preflight; fail "preflight says nothing of the kernel"; }
rm $as_before
systemctl daemon-reload
systemctl reset-failed

step "a wrong configuration is not tried again"
sed -i 's/^interface = .*/interfac = "eth0"/' /etc/hepto/mars.toml
if systemctl start hepto-node@mars; then fail "it started"; fi
[ "$(property mars ExecMainStatus)" = 78 ]
sleep 10
[ "$(property mars NRestarts)" = 0 ]
[ "$(property mars ActiveState)" = failed ]
journalctl -b --no-pager -u hepto-node@mars | grep -q 'interface'
