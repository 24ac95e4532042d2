#!/bin/sh
# In the VM: runs the tests of /share/list, one after the other, and tells the host by the second serial line.
# A test is a script of /share/tests; it ends with 0 (passed), 200 (restart the machine and call me again), 201 (cut the
# power, then the same) or anything else (failed). $PHASE counts its calls from 1.
set -u
place=/var/lib/hepto-vm
export PATH=/usr/sbin:/usr/bin:/sbin:/bin HOME=/root LC_ALL=C.UTF-8

tell() { echo "$*" >/dev/ttyS1; }

setting() { sed -n "s/^# $2: //p" "/share/tests/$1.sh" | head -n 1; }

# The tests' programs have been told at their build where they and the schemas will lie.
folder=$(cat /share/folder) repository=$(cat /share/repository)
mkdir -p "$folder" "$repository/tests" "$repository/docs/reference/schema"
mount --bind /share/programs "$folder"
mount --bind /share/schema "$repository/docs/reference/schema"

if [ ! -e "$place" ]; then
    mkdir -p "$place"
    cp /share/list "$place/queue"
    tell "up $(uname -r) $(systemctl --version | sed -n '1s/systemd \([0-9]*\).*/\1/p') $(cut -d. -f1 /proc/uptime)"
fi

restart() {
    sync
    case $1 in
        order) systemctl reboot ;;
        # Nothing is written out, nobody is told: what a power cut does.
        cut) echo b >/proc/sysrq-trigger ;;
    esac
    exit 0
}

while test=$(head -n 1 "$place/queue") && [ -n "$test" ]; do
    phase=$(cat "$place/phase" 2>/dev/null || echo 1)
    [ "$phase" != 1 ] || date +%s >"$place/start"
    log=$place/$test.log
    tell "begin $test $phase"
    limit=$(setting "$test" limit)
    PHASE=$phase timeout --kill-after=10 "${limit:-900}" sh -eu "/share/tests/$test.sh" >>"$log" 2>&1 </dev/null
    status=$?
    case $status in
        200 | 201)
            echo $((phase + 1)) >"$place/phase"
            if [ $status = 200 ]; then restart order; else restart cut; fi
            ;;
    esac
    took=$(($(date +%s) - $(cat "$place/start")))
    sed -i 1d "$place/queue"
    rm -f "$place/phase"
    if [ $status = 0 ]; then
        tell "result $test passed $took"
        continue
    fi
    tell "result $test failed $took"
    [ $status != 124 ] || echo "ended after ${limit:-900} s" >>"$log"
    { echo "status $status, phase $phase"; tail -c 60000 "$log"; echo "---- journal"; journalctl -b --no-pager -n 150; } |
        sed "s/^/log $test /" >/dev/ttyS1
    # Whatever it has left must not trouble the next one.
    restart order
done
tell "end"
systemctl poweroff
