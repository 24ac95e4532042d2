# what: mesh, tunnel and k3s under loss, delay, reordering and duplication of the packets on the cable
# limit: 1800
. /share/guest/steps.sh
. /share/guest/node.sh

fresh_host
node mars mars eth0 1
node venus mars eth1 2

bad_line() {
    for card in eth0 eth1; do
        # shellcheck disable=SC2086  # words on purpose
        tc qdisc replace dev $card root netem $1
    done
}

reaches() { hepto-node exec --net --config "/etc/hepto/$1.toml" -- ping -q -c 1 -W 2 "$2"; }

# pinged WHERE COUNT: what ping says of many requests from mars.
pinged() { hepto-node exec --net --config /etc/hepto/mars.toml -- ping -q -c "$2" -i 0.1 -W 5 "$1"; }

step "one packet in four is lost: the nodes meet all the same"
bad_line "loss 25%"
systemctl start hepto-node@mars hepto-node@venus
within 120 "mars hears venus" reaches mars venus
within 300 "mars is ready" is_ready mars
within 300 "venus is ready" is_ready venus

step "each packet twice: what is encrypted arrives once"
bad_line "duplicate 100%"
within 60 "mars hears venus" reaches mars venus
pinged 192.168.77.102 20 | tee /tmp/outside
grep -q duplicates /tmp/outside || fail "the line duplicates nothing"
pinged venus 50 | tee /tmp/inside
if grep -q duplicates /tmp/inside; then fail "a duplicate passed the tunnel"; fi

step "late, out of order, some lost: a stream arrives whole"
bad_line "delay 20ms 10ms reorder 25% 50% loss 2% duplicate 5%"
within 60 "mars hears venus" reaches mars venus
mkdir -p /srv/www
head -c 4000000 /dev/urandom >/srv/www/file
hepto-node exec --net --config /etc/hepto/venus.toml -- python3 -m http.server --directory /srv/www 8000 >/dev/null 2>&1 &
server=$!
fetch() {
    hepto-node exec --net --config /etc/hepto/mars.toml -- \
        python3 -c 'import sys, urllib.request; sys.stdout.buffer.write(urllib.request.urlopen("http://venus:8000/file").read())' >/tmp/file
}
within 300 "a download" fetch
kill $server
cmp /tmp/file /srv/www/file

step "two minutes of that: nobody is given up"
sessions() {
    local report
    report=$(hepto-node peers --config "/etc/hepto/$1.toml" --json)
    echo "$report" | jq -e 'length == 1 and all(.session and .gossip != "absent")'
}
end=$(($(now) + 120))
while [ "$(now)" -lt $end ]; do
    sessions mars && sessions venus || fail "a peer was given up: $(hepto-node peers --config /etc/hepto/mars.toml)"
    sleep 5
done >/dev/null
is_ready mars
is_ready venus
[ "$(status mars .k3s.restarts)" = 0 ]
[ "$(status venus .k3s.restarts)" = 0 ]

step "a line that was dead for a minute works again"
bad_line "loss 100%"
sleep 60
if reaches mars venus; then fail "a dead line carries packets"; fi
bad_line "delay 5ms"
within 60 "mars hears venus" reaches mars venus

tc qdisc del dev eth0 root
tc qdisc del dev eth1 root
stop_all
