# Nodes as units of systemd, for the tests in a VM: . /share/guest/steps.sh; . /share/guest/node.sh
# The host is 192.168.77.1 on eth0; eth1 is another card on the same cable.

# What runs on the host and lies on it because of nodes: empty when there is none. Storage and config stay out.
remains() {
    ip netns list
    # Active, failed, or on the way to it; an enabled instance that is down counts for nothing.
    systemctl --no-legend --plain list-units 'hepto-node@*' 'hepto-*.scope'
    find /run/hepto /sys/fs/cgroup -path '*hepto-*' -name '*.*' 2>/dev/null | grep -v '/hepto-vm.service' || true
    grep -E 'hepto|/srv/' /proc/self/mountinfo || true
    pgrep -a hepto-node || true
    pgrep -a k3s-stand-in || true
    pgrep -a containerd-shim || true
    ip -o link show type ipvlan
    nft list tables 2>/dev/null || true
}

nothing_remains() { [ -z "$(remains)" ]; }

# A host without nodes, with the program, its unit and the keys of a cluster.
fresh_host() {
    systemctl stop 'hepto-node@*.service'
    systemctl reset-failed
    rm -rf /srv /etc/hepto /etc/systemd/system/*.wants/hepto-node@*
    mkdir -m 0700 /etc/hepto /srv
    # k3s itself loads it; the stand-in does not, and the node warns, rightly.
    modprobe br_netfilter
    ip link set eth0 up
    ip link set eth1 up
    ip addr replace 192.168.77.1/24 dev eth0
    cp "$folder/hepto-node" /usr/bin/
    cp "$folder/k3s-stand-in" /usr/local/bin/
    cp /share/dist/hepto-node@.service /etc/systemd/system/
    systemctl daemon-reload
    hepto-node keys generate overlay --out /etc/hepto/overlay.key
    hepto-node keys generate cluster --out /etc/hepto/cluster.key
}

# node NAME MASTER CARD NUMBER: its configuration. The node in place of k3s's binary has the stand-in.
node() {
    cat >"/etc/hepto/$1.toml" <<CONFIG
[node]
name = "$1"
storage = "/srv"
[network]
interface = "$3"
mode = "ipvlan"
addresses = ["192.168.77.10$4/24", "2001:db8:77::1:$4/64"]
gateways = ["192.168.77.254", "2001:db8:77::fe"]
dns = ["192.168.77.254"]
[cluster]
name = "acides"
master = "$2"
anchors = ["192.168.77.101", "2001:db8:77::1:1"]
overlay_key_file = "/etc/hepto/overlay.key"
cluster_key_file = "/etc/hepto/cluster.key"
[k3s]
binary = "/usr/local/bin/k3s-stand-in"
CONFIG
    # With a pod: processes that belong to k3s's shim, not to k3s.
    mkdir -p "/srv/$1/rancher"
    echo leave-children >"/srv/$1/rancher/stand-in.control"
}

# status NAME FILTER: what the node says of itself, through jq.
status() {
    local report
    # jq 1.6 calls an empty input a success.
    report=$(hepto-node status --config "/etc/hepto/$1.toml" --json) || return
    echo "$report" | jq -e "$2"
}

# kill_supervisor NAME: as a crash would end it, and nothing else.
kill_supervisor() {
    local pid
    pid=$(property "$1" MainPID)
    [ "$pid" -gt 1 ] || fail "the supervisor of $1 does not run"
    kill -9 "$pid"
}

property() { systemctl show --value --property="$2" "hepto-node@$1.service"; }

is_ready() { status "$1" '.k3s, (.ready and .k3s.ready)'; }

# The processes of a node that must survive its supervisor: k3s and its pod, as the host numbers them.
workload() { pgrep -f 'k3s-stand-in (server|agent)|stand-in-(shim|pod)' | sort -n | tr '\n' ' '; }

has_pod() { pgrep -f stand-in-pod; }

stop_all() {
    systemctl stop 'hepto-node@*.service'
    within 30 "nothing of the nodes is left" nothing_remains
}
