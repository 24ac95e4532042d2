# what: two nodes on one host, behind ipvlans of one card, and one behind another card of the same cable
. /share/guest/steps.sh
. /share/guest/node.sh

fresh_host
node mars mars eth0 1
node venus mars eth0 2
node pluto mars eth1 3
systemctl start hepto-node@mars hepto-node@venus hepto-node@pluto
reaches() { hepto-node exec --net --config "/etc/hepto/$1.toml" -- ping -q -c 1 -W 2 "$2"; }
for from in mars venus pluto; do
    for to in mars venus pluto; do
        [ $from = $to ] || within 120 "$from hears $to" reaches $from $to
    done
done
within 300 "mars is ready" is_ready mars
within 300 "venus is ready" is_ready venus
within 300 "pluto is ready" is_ready pluto
hepto-node kubectl --config /etc/hepto/mars.toml get nodes

step "one stops, and the others are none the worse"
before=$(property mars MainPID)
systemctl stop hepto-node@venus
is_ready mars
is_ready pluto
within 60 "pluto hears mars" reaches pluto mars
[ "$(property mars MainPID)" = "$before" ]
[ ! -e /run/netns/hepto-acides.venus ]
[ -e /run/netns/hepto-acides.mars ]
stop_all
