# What the scripts of the deb and of the rpm share; scripts/dist.sh puts it in place of their line #NODES#.

# Whether systemd runs here: in a chroot, in a container's image or under another init there is nothing to tell.
has_systemd() { [ -d /run/systemd/system ] && command -v systemctl >/dev/null; }

# The units of running nodes, one a line.
running_nodes() {
    systemctl list-units --no-legend --plain --full --state=active,reloading 'hepto-node@*.service' | cut -d ' ' -f 1
}

# Has running nodes take up the new program, one after the other; pods run on. A node that refuses goes on as it was, and the
# package is installed all the same.
reload_nodes() {
    has_systemd || return 0
    systemctl daemon-reload || true
    for unit in $(running_nodes); do
        echo "hepto-node: reloading $unit; its pods run on"
        $service reload "$unit" </dev/null || {
            echo "hepto-node: $unit did not take up the new program; it says why in: journalctl -u $unit"
            echo "hepto-node: when that is mended: systemctl reload $unit"
        } >&2
    done
    if [ -e /etc/systemd/system/hepto-node@.service ]; then
        echo "hepto-node: /etc/systemd/system/hepto-node@.service comes before the package's unit;" \
            "remove it if it is of an earlier installation by hand" >&2
    fi
}

# A removal ends no node. systemd keeps what it knows of a running one, the time for a stop in order among it, as long as
# nobody has it read all units again.
leave_nodes() {
    has_systemd || return 0
    running=$(running_nodes)
    if [ -z "$running" ]; then
        systemctl daemon-reload || true
        return 0
    fi
    echo "hepto-node: nodes run on until this machine restarts, or until:"
    for unit in $running; do echo "    systemctl stop $unit"; done
}
