# what: the guide's inventory and play, with Debian's ansible-core, against systemd: two nodes on one machine
# on: bookworm
# limit: 3600
. /share/guest/steps.sh
. /share/guest/node.sh

export ANSIBLE_PIPELINING=1 ANSIBLE_NOCOLOR=1 ANSIBLE_FORKS=1
play=/root/play
program=/usr/local/bin/hepto-node

# A machine on which nothing of ours has ever been, and what an administrator has: the play and the program.
fresh_host
rm -rf /etc/hepto /srv /usr/bin/hepto-node $program /etc/systemd/system/hepto-node@* $play
# The play puts it elsewhere, where this shell is to look anew.
export PATH=/usr/local/bin:$PATH
systemctl daemon-reload
mkdir -p $play /srv
cp -r /share/dist/. $play/
cp "$folder/hepto-node" $play/
ansible-playbook --version | head -n 1

# The guide's inventory, its comments included, with the addresses of this machine. The last line is no variable of the guide:
# there is no release of k3s here to be fetched.
cat >/root/inventory.ini <<'INVENTORY'
[cluster]
mars ansible_host=127.0.0.1 ansible_connection=local iface=eth0 ip=2001:db8:77::1:1/64,192.168.77.101/24 gw=2001:db8:77::fe,192.168.77.254
venus ansible_host=127.0.0.1 ansible_connection=local iface=eth1 ip=2001:db8:77::1:2/64,192.168.77.102/24 gw=2001:db8:77::fe,192.168.77.254

[cluster:vars]
ansible_user=root # utilisateur pour la connexion SSH aux machines
storage_base=/srv # emplacement de stockage pour les données de base du noeud (sera suivi du nom du noeud)
anchors=["2001:db8:77::1:1","192.168.77.101"] # liste des ancres du cluster
master=mars # nom du noeud master du cluster
mtu=1400 # MTU convenu pour le cluster
overlay_key=abcdefghijklmnopqrstuvwxyz012345 # clé d'overlay de 32 caractères aléatoires
cluster_key=ABCDEFGHIJKLMNOPQRSTUVWXYZ012345 # clé du cluster de 32 caractères aléatoires
k3s_binary=/usr/local/bin/k3s-stand-in
INVENTORY

# played PLAYBOOK ARGUMENT...: its words go to /tmp/played too.
played() {
    step "ansible-playbook $*"
    (cd $play/ansible && ansible-playbook -i /root/inventory.ini "$@") >/tmp/played 2>&1 || { cat /tmp/played; fail "the play"; }
    grep -E '^(changed|skipping|failed|fatal|PLAY RECAP|mars  *:|venus  *:)|WARNING' /tmp/played | grep -v '^skipping' || true
}

# changed NODE COUNT: what the play's last lines say of a node.
changed() { grep -Eq "^$1 .*changed=$2 .*failed=0" /tmp/played || fail "$1 has not changed=$2"; }

# Nothing of a play on this machine, but an empty storage.
untouched() {
    for path in /etc/hepto $program /etc/systemd/system/hepto-node@.service /etc/systemd/system/hepto-node@mars.service.d; do
        [ ! -e $path ] || fail "$path is there"
    done
    [ -z "$(ls -A /srv)" ] || fail "/srv has $(ls -A /srv)"
    [ ! -e /etc/systemd/system/multi-user.target.wants/hepto-node@mars.service ] || fail "mars starts at boot"
    nothing_remains || { remains; fail "something runs"; }
}

step "check mode on a fresh machine says what would come, and makes nothing"
played site.yaml --check
grep -q '^mars .*changed=[1-9]' /tmp/played || fail "it announces nothing"
untouched

step "the guide's command: nodes are ready when it returns"
played site.yaml
is_ready mars
is_ready venus
# The overlay's key, the master's and the agents'; two configs.
[ "$(stat -c %a /etc/hepto/*.key /etc/hepto/*.toml | tr '\n' ' ')" = "600 600 600 600 600 " ]
[ "$(stat -c %a /etc/hepto)" = 700 ]
grep -q RequiresMountsFor=/srv /etc/systemd/system/hepto-node@venus.service.d/storage.conf
[ "$(systemctl is-enabled hepto-node@mars hepto-node@venus | sort -u)" = enabled ]
if grep -rE 'abcdefghijklmnopqrstuvwxyz012345|ABCDEFGHIJKLMNOPQRSTUVWXYZ012345' /tmp/played /tmp/hepto.*; then fail "a key was shown"; fi

step "a second run changes nothing"
before="$(property mars MainPID) $(property venus MainPID) $(workload)"
played site.yaml
changed mars 0
changed venus 0
[ "$(property mars MainPID) $(property venus MainPID) $(workload)" = "$before" ] || fail "something was started again"

step "a changed setting of one node: a reload, k3s runs on"
sed -i '/^venus /s/$/ mesh_port=51999/' /root/inventory.ini
played site.yaml -l venus
[ "$(property venus NRestarts)" = 0 ]
[ "$(property mars MainPID) $(property venus MainPID) $(workload)" = "$before" ] || fail "something was started again"
within 30 "venus has the new port" status venus '.mesh.port == 51999'

step "uninstall in check mode says what would go, and removes nothing"
played uninstall.yaml --check -e hepto_purge=true
grep -q /srv/mars /tmp/played || fail "it does not name the data"
is_ready mars
is_ready venus
[ -e /srv/mars ] && [ -e /etc/hepto/mars.toml ] && [ -e $program ]

step "uninstall leaves nothing"
played uninstall.yaml -e hepto_purge=true
untouched
[ -z "$(systemctl list-unit-files --no-legend 'hepto-node@*')" ] || fail "systemd knows the unit still"
