# what: a kernel without IPv6: preflight and the node say so and what to do; a node with IPv4 alone works
# on: noipv6
. /share/guest/steps.sh
. /share/guest/node.sh

[ ! -e /proc/net/if_inet6 ] || fail "this kernel has IPv6"
fresh_host
node mars mars eth0 1
node venus mars eth1 2

# finding CODE: what preflight of mars says by this code.
finding() {
    hepto-node preflight --config /etc/hepto/mars.toml --json >/tmp/preflight || true
    jq -e ".findings[] | select(.code == \"$1\")" /tmp/preflight || { cat /tmp/preflight; fail "preflight does not say $1"; }
}

step "a node with an IPv6 address: preflight names the fix, and the node says what it lacks"
finding E-PREFLIGHT-IPV6 | grep 'remove ipv6.disable=1'
if systemctl start hepto-node@mars; then status mars .; fi
journalctl -b --no-pager -u hepto-node@mars
# It runs all the same, without the address.
journalctl -b --no-pager -u hepto-node@mars | grep 'the node has no IPv6'
systemctl stop hepto-node@mars
systemctl reset-failed
within 30 "nothing of the node is left" nothing_remains

step "with IPv4 alone preflight warns, and the nodes meet"
sed -i 's/, "2001:[^"]*"//' /etc/hepto/mars.toml /etc/hepto/venus.toml
finding W-PREFLIGHT-IPV6
systemctl start hepto-node@mars hepto-node@venus
within 300 "mars is ready" is_ready mars
within 300 "venus is ready" is_ready venus
hepto-node exec --net --config /etc/hepto/mars.toml -- ping -q -c 3 venus
hepto-node status --config /etc/hepto/mars.toml
stop_all
