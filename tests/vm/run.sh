#!/bin/bash
# `make vm`: boots Debian in virtual machines and runs there what the host's kernel or init may lack.
# VM="bookworm bullseye" and TEST="unit deb" choose; README.md beside this says how it works and how to add a test.
set -eu -o pipefail
cd "$(dirname "$0")/../.."

vms=${VM:-bookworm bullseye noipv6}
place=target/vm
target=x86_64-unknown-linux-musl

say() { echo "vm: $*" >&2; }
fail() { say "$*"; exit 1; }

install_tools() {
    local missing=() pair
    for pair in qemu-system-x86_64:qemu-system-x86 mmdebstrap:mmdebstrap mke2fs:e2fsprogs cpio:cpio depmod:kmod busybox:busybox-static \
        strip:binutils jq:jq; do
        command -v "${pair%%:*}" >/dev/null || missing+=("${pair##*:}")
    done
    # Debian has a busybox that needs libraries, too.
    ! ldd /bin/busybox >/dev/null 2>&1 || missing+=(busybox-static)
    [ ${#missing[@]} = 0 ] && return
    command -v apt-get >/dev/null || fail "install these with your package manager, then try again: ${missing[*]}"
    say "installing Debian packages: ${missing[*]}"
    apt-get -qq update >&2
    DEBIAN_FRONTEND=noninteractive apt-get -qq install -y --no-install-recommends "${missing[@]}" >/dev/null
}

# The program, the stand-in for k3s and the test programs, static: they run whatever C library a VM has. No more of the test
# programs than the tests in a VM run: each takes half a minute to link.
build_programs() {
    say "building the programs"
    cargo build --workspace --bins --locked --target $target
    cargo test --no-run --workspace --lib --test e2e --test k3s --test network --test sandbox --test tunnel --locked \
        --target $target --message-format=json-render-diagnostics >"$place/built.json"
}

gather() {
    local share=$place/share built=target/$target/debug program name
    rm -rf "$share"
    mkdir -p "$share/programs/tests" "$share/tests"
    cp -r tests/vm/guest "$share/"
    cp tests/vm/tests/*.sh "$share/tests/"
    [ ! -d dist ] || cp -r dist "$share/"
    # Where programs and schemas will lie is known to the test programs from their build.
    realpath "$built" >"$share/folder"
    cp -r docs/reference/schema "$share/"
    realpath . >"$share/repository"
    for program in hepto-node k3s-stand-in; do
        strip -o "$share/programs/$program" "$built/$program"
    done
    jq -r 'select(.profile.test and .executable) | [.target.name, .executable] | @tsv' "$place/built.json" |
        while read -r name program; do strip -o "$share/programs/tests/$name" "$program"; done
    # The package of this very program.
    if [[ -z ${TEST:-} || " $TEST " == *" deb "* ]]; then
        PROGRAM=$share/programs/hepto-node ONLY=deb OUT=$share/packages scripts/dist.sh >/dev/null
    fi
}

# noipv6 is bookworm, started without IPv6.
image_of() { if [ "$1" = noipv6 ]; then echo bookworm; else echo "$1"; fi; }

# The tests for one VM, those that may take longest last, so that they keep no other from being seen; a test without a line
# `# on:` is for all but noipv6.
tests_of() {
    local file name on limit
    for file in tests/vm/tests/*.sh; do
        name=$(basename "$file" .sh)
        on=$(sed -n 's/^# on: //p' "$file")
        limit=$(sed -n 's/^# limit: //p' "$file")
        [[ " ${on:-bookworm bullseye} " == *" $1 "* ]] || continue
        [[ -z ${TEST:-} || " $TEST " == *" $name "* ]] || continue
        echo "${limit:-900} $name"
    done | sort -n | cut -d' ' -f2
}

# Boots one VM with its tests, and writes what it tells to $place/NAME.told. Nothing of its disk is kept.
boot() {
    local vm=$1 told=$place/$1.told image append=${HEPTO_VM_APPEND:-}
    image=$place/$(image_of "$vm")
    [ "$vm" != noipv6 ] || append="ipv6.disable=1 $append"
    tests_of "$vm" >"$place/share/list"
    [ -s "$place/share/list" ] || { say "$vm: no such test"; return; }
    rm -f "$place/share.disk" "$told"
    truncate -s 1G "$place/share.disk"
    mke2fs -q -t ext4 -O ^has_journal -d "$place/share" "$place/share.disk"
    # Two network cards on one cable. The clock counts instructions (1 ns each, as on a machine of 1 GHz): what is slow
    # here is slow for the world inside too, and no deadline there is missed because this machine is busy.
    # shellcheck disable=SC2086  # words on purpose
    TMPDIR=$PWD/$place timeout --kill-after=10 "${HEPTO_VM_LIMIT:-10800}" qemu-system-x86_64 \
        ${HEPTO_VM_ACCEL:--accel tcg,thread=single -icount shift=0,sleep=on} \
        -machine q35 -cpu max -smp 1 -m 2048 -display none -nodefaults -monitor none \
        -kernel "$image/vmlinuz" -initrd "$image/initrd" \
        -append "console=ttyS0 panic=-1 quiet net.ifnames=0 systemd.show_status=0 $append" \
        -drive "file=$image/disk,if=virtio,format=raw,snapshot=on" \
        -drive "file=$place/share.disk,if=virtio,format=raw,readonly=on" \
        -netdev hubport,id=cable0,hubid=0 -device virtio-net-pci,netdev=cable0,mac=52:54:00:00:00:01 \
        -netdev hubport,id=cable1,hubid=0 -device virtio-net-pci,netdev=cable1,mac=52:54:00:00:00:02 \
        -serial "file:$place/$vm.console" -serial "file:$told" </dev/null
}

# Reads what a VM told: rows of the table, and the logs of what failed.
report() {
    local vm=$1 told=$place/$1.told kernel systemd test word
    tr -d '\r' <"$told" >"$told.clean"
    read -r _ kernel systemd _ < <(grep '^up ' "$told.clean") || { kernel=$(cat "$place/$(image_of "$vm")/kernel") systemd=-; }
    while read -r test; do
        read -r _ _ word took < <(grep "^result $test " "$told.clean") || { word="did not end" took=-; }
        row "$vm" "$kernel" "$systemd" "$test" "$word" "$took"
        [ "$word" = passed ] || failed=1
        sed -n "s/^log \($test\) /\1: /p" "$told.clean" >&2
    done < <(tests_of "$vm")
    grep -q '^end' "$told.clean" || { say "$vm ended early; its console:"; tail -n 40 "$place/$vm.console" >&2; failed=1; }
}

row() { printf '%-9s  %-22s  %-7s  %-16s  %-11s  %7s\n' "$@" >>"$place/table"; }

[ "$(id -u)" = 0 ] || fail "make vm needs root: it builds disk images of Debian; try: sudo -E make vm"
[ "$(uname -m)" = x86_64 ] || fail "the VMs are amd64, and so must this machine be for its programs to run in them"
mkdir -p $place
install_tools
build_programs
gather
failed=0
rm -f $place/table
row VM kernel systemd test result seconds
for vm in $vms; do
    tests/vm/image.sh "$(image_of "$vm")"
    say "$vm: $(tests_of "$vm" | tr '\n' ' ')"
    boot "$vm" || say "$vm: qemu ended with $?"
    report "$vm"
done
cat $place/table
exit $failed
