# what: [limits] under systemd and cgroup v2: what meets one stays inside of the node, and the node tells of it
# limit: 1800
. /share/guest/steps.sh
. /share/guest/node.sh

scope=hepto-acides.mars-pods.scope
of_scope() { systemctl show --value --property="$1" $scope; }
in_mars() { hepto-node exec --config /etc/hepto/mars.toml -- sh -c "$1"; }
told() { hepto-node status --config /etc/hepto/mars.toml | grep -E "$1"; }

fresh_host
devices() { ip -o link show type ifb; }
had=$(devices)
node mars mars eth0 1
cat >>/etc/hepto/mars.toml <<'LIMITS'
[limits]
memory = "1G"
cpu = 0.5
pids = 512
bandwidth = { up = "20M", down = "50M" }
LIMITS
systemctl start hepto-node@mars
within 120 "k3s serves" is_ready mars
within 60 "a pod runs" has_pod
before=$(workload)
pid=$(property mars MainPID)

unharmed() {
    [ "$(property mars MainPID)" = "$pid" ] || fail "the supervisor is another one"
    [ "$(workload)" = "$before" ] || fail "k3s or its pod was started again: $before, then $(workload)"
    [ "$(systemctl is-active $scope)" = active ] || fail "the scope is $(systemctl is-active $scope)"
    [ "$(property mars Result)" = success ] || fail "the unit's result is $(property mars Result)"
    within 60 "k3s serves" is_ready mars
    [ "$(status mars .k3s.restarts)" = 0 ]
}

step "the limits are the scope's, and the supervisor is not in it"
[ "$(of_scope MemoryMax)" = 1073741824 ]
[ "$(of_scope MemorySwapMax)" = 0 ]
[ "$(of_scope CPUQuotaPerSecUSec)" = 500ms ]
[ "$(of_scope TasksMax)" = 512 ]
[ "$(cat "/sys/fs/cgroup$(property mars ControlGroup)/memory.max")" = max ]
status mars '.limits | .memory_bytes.limit == 1073741824 and .cpu_thousandths.limit == 500 and .pids.limit == 512'
hepto-node exec --net --config /etc/hepto/mars.toml -- tc class show dev uplink | grep 'ceil 20Mbit'

step "memory: a hog in the node is killed, a neighbour of it outside of the node is not"
tail -f /dev/null &
outside=$!
code=0
# It keeps all that it reads, looking for the last line.
in_mars 'tail /dev/zero' || code=$?
[ $code = 137 ] || fail "the hog ended with $code"
kill -0 $outside
kill $outside
status mars '.limits.memory_bytes.hit >= 1'
told 'limit +memory .* of 1.0 GiB, 1 processes? killed'
dmesg | grep 'Memory cgroup out of memory' | tail -n 1
unharmed

step "processes: one that forks without end is refused, the host goes on"
in_mars 'i=0; while [ $i -lt 700 ]; do sleep 30 & i=$((i + 1)); done' 2>/tmp/refused || true
tail -n 1 /tmp/refused
status mars '.limits.pids | .hit >= 1 and .used <= .limit'
told 'limit +pids .* of 512, [0-9]+ refused'
sh -c 'sleep 0 & wait'
# They end by themselves: k3s must have room again before it is looked at.
few() { status mars '.limits.pids.used < 200'; }
within 60 "the processes have ended" few
unharmed

step "processors: what is busy waits for its share"
counted=$(status mars .limits.cpu_thousandths.hit)
used=$(status mars .limits.cpu_used_us)
start=$(date +%s%6N)
in_mars 'timeout 10 sh -c "while :; do :; done"' || true
wall=$(($(date +%s%6N) - start))
used=$(($(status mars .limits.cpu_used_us) - used))
echo "$used of $wall us"
[ $((used * 10)) -lt $((wall * 6)) ] || fail "it had more than half of the processor"
status mars ".limits.cpu_thousandths.hit > $counted"
told 'limit +cpu 0.5, [0-9]+ times throttled'
unharmed

step "bandwidth: neither direction has more than it was granted, and most of it"
ip netns add line
ip link set eth1 netns line
ip -n line addr add 192.168.77.9/24 dev eth1
ip -n line link set eth1 up
ip netns exec line iperf3 -s >/dev/null &
server=$!
within 10 "the other end listens" sh -c 'ip netns exec line ss -lnt | grep -q :5201'
# rate ARGUMENT...: bits a second that arrive.
rate() {
    hepto-node exec --net --config /etc/hepto/mars.toml -- iperf3 -c 192.168.77.9 -t 5 -J "$@" >/tmp/rate || fail "$(cat /tmp/rate)" >&2
    jq '.end.sum_received.bits_per_second | floor' /tmp/rate
}
up=$(rate)
down=$(rate -R)
echo "up $up, down $down bits a second"
[ "$up" -gt 10000000 ] && [ "$up" -lt 21000000 ] || fail "20 Mbit/s up were granted"
[ "$down" -gt 25000000 ] && [ "$down" -lt 52500000 ] || fail "50 Mbit/s down were granted"
told 'limit +up 20 Mbit/s'
told 'limit +down 50 Mbit/s'
kill $server
wait $server || true
ip netns del line
within 10 "the card is back" ip link show eth1
unharmed

step "a reload changes them, and ends no pod"
pods() { pgrep -f 'stand-in-(shim|pod)' | sort -n; }
lasting=$(pods)
sed -i 's/^memory = "1G"/memory = "1536M"/; /^cpu = /d; s/^pids = .*/pids = 1000/' /etc/hepto/mars.toml
systemctl reload hepto-node@mars
changed() {
    [ "$(of_scope MemoryMax)" = 1610612736 ] && [ "$(of_scope CPUQuotaPerSecUSec)" = infinity ] &&
        [ "$(of_scope TasksMax)" = 1000 ]
}
within 60 "the scope has the new limits" changed
within 60 "status has them" status mars '.limits | .memory_bytes.limit == 1610612736 and .cpu_thousandths.limit == null'
# k3s alone starts anew, to be told what lies beyond the limits.
[ "$(pods)" = "$lasting" ] || fail "a pod was ended: $lasting, then $(pods)"
within 60 "k3s serves" is_ready mars
before=$(workload)
unharmed

step "a new supervisor after a crash keeps them"
kill_supervisor mars
is_another() { [ "$(property mars MainPID)" != "$pid" ] && [ "$(property mars ActiveState)" = active ]; }
within 60 "systemd starts it again" is_another
changed
pid=$(property mars MainPID)
within 120 "k3s serves" is_ready mars
[ "$(workload)" = "$before" ]
stop_all

step "the host has no device more than before"
[ "$(devices)" = "$had" ] || fail "left: $(devices)"
