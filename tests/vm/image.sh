#!/bin/sh
# Builds the disk image, kernel and initial RAM disk of one VM from Debian's packages: tests/vm/image.sh bookworm
# They lie in target/vm/NAME and are built again when this file or the suite changes. Needs root and the network.
set -eu
name=$1
place=target/vm/$name

# What the tests use, beside a minimal Debian that boots.
packages="systemd systemd-sysv dbus udev kmod procps util-linux iproute2 iputils-ping nftables iptables ethtool
    wireguard-tools libfaketime iperf3 jq python3-minimal libpython3-stdlib"
case $name in
    # wireguard-go: Debian 11 has none. ansible-core: 2.14, what an administrator of Debian 12 has.
    bookworm) packages="$packages wireguard-go ansible-core" ;;
    bullseye) ;;
    *) echo "vm: there is no VM named $name: bookworm or bullseye" >&2; exit 2 ;;
esac

stamp=$(cat "$0" tests/vm/guest/hepto-vm.service | sha256sum | cut -d' ' -f1)
[ "$(cat "$place/stamp" 2>/dev/null)" != "$stamp" ] || exit 0

# repository NAME: where this machine's own apt finds Debian's repository of that name.
repository() { apt-get indextargets --format '$(REPO_URI)' 'Created-By: Packages' | grep "/$1/\$" | head -n 1; }
if [ -n "${HEPTO_DEBIAN:-}" ]; then
    archive=$HEPTO_DEBIAN/debian security=$HEPTO_DEBIAN/debian-security
else
    archive=$(repository debian) security=$(repository debian-security)
fi
if [ -z "$archive" ] || [ -z "$security" ]; then
    echo "vm: apt's sources of this machine name no mirror of Debian and its security updates; say which:" \
        "HEPTO_DEBIAN=http://HOST make vm, where HOST has the folders debian and debian-security" >&2
    exit 2
fi
echo "vm: building the image of $name (once, some minutes)" >&2
rm -rf "$place"
mkdir -p "$place"
root=$place/root
trap 'rm -rf "$root" "$place/initrd.d" "$place/kernel.d"' EXIT

# Packages that are years old have signed lists that are past their date: the signatures still count.
# shellcheck disable=SC2086  # a list of words on purpose
mmdebstrap --quiet --mode=root --variant=minbase --architectures=amd64 \
    --aptopt='Acquire::Check-Valid-Until "false"' --aptopt='APT::Install-Recommends "false"' --aptopt='APT::Sandbox::User "root"' \
    --include="$(echo $packages | tr ' ' ,)" \
    --customize-hook='cd "$1/boot" && APT_CONFIG=$MMDEBSTRAP_APT_CONFIG apt-get -qq download "$(
        APT_CONFIG=$MMDEBSTRAP_APT_CONFIG apt-cache depends linux-image-cloud-amd64 | sed -n "s/^ *Depends: //p" | head -n 1)"' \
    "$name" "$root" \
    "deb $archive $name main" "deb $security $name-security main" "deb $archive $name-updates main"

# The kernel's files alone: its package would make an initial RAM disk that takes longer to boot than all the rest.
kernel=$place/kernel.d
dpkg-deb -x "$root"/boot/linux-image-*.deb "$kernel"
rm "$root"/boot/linux-image-*.deb
version=$(ls "$kernel/lib/modules")
mkdir -p "$root/lib/modules"
cp -r "$kernel/lib/modules/$version" "$root/lib/modules/"
depmod -b "$root" "$version"
cp "$kernel/boot/vmlinuz-$version" "$place/vmlinuz"

# What a VM has no use for, and would wait for.
for unit in getty@tty1.service serial-getty@ttyS0.service systemd-timesyncd.service apt-daily.timer apt-daily-upgrade.timer \
    dpkg-db-backup.timer e2scrub_all.timer e2scrub_reap.service fstrim.timer logrotate.timer; do
    ln -sf /dev/null "$root/etc/systemd/system/$unit"
done
echo "$name" >"$root/etc/hostname"
echo "127.0.0.1 localhost $name" >"$root/etc/hosts"
echo "nameserver 192.168.77.254" >"$root/etc/resolv.conf"
: >"$root/etc/machine-id"
mkdir -p "$root/share" "$root/var/log/journal"
cp tests/vm/guest/hepto-vm.service "$root/etc/systemd/system/"
mkdir -p "$root/etc/systemd/system/multi-user.target.wants"
ln -s ../hepto-vm.service "$root/etc/systemd/system/multi-user.target.wants/"
ln -sf /lib/systemd/system/multi-user.target "$root/etc/systemd/system/default.target"

# The initial RAM disk: a shell, the disk's modules, and the way to the real root.
initrd=$place/initrd.d
mkdir -p "$initrd/bin" "$initrd/proc" "$initrd/sys" "$initrd/dev" "$initrd/root" "$initrd/modules"
cp /bin/busybox "$initrd/bin/"
ln -s busybox "$initrd/bin/sh"
for module in virtio_pci virtio_blk ext4; do
    modprobe -d "$root" -S "$version" --show-depends "$module"
done | sed -n 's/^insmod \([^ ]*\).*/\1/p' | awk '!seen[$0]++' | while read -r file; do
    cp "$file" "$initrd/modules/"
    echo "insmod /modules/${file##*/}"
done >"$initrd/load"
cat >"$initrd/init" <<'INIT'
#!/bin/sh
busybox mount -t proc proc /proc
busybox mount -t sysfs sys /sys
busybox mount -t devtmpfs dev /dev
while read -r line; do busybox $line; done </load
until [ -b /dev/vda ]; do busybox sleep 1; done
busybox mount -t ext4 -o noatime /dev/vda /root
busybox mount --move /dev /root/dev
busybox umount /sys /proc
exec busybox switch_root /root /sbin/init
INIT
chmod +x "$initrd/init"
(cd "$initrd" && find . | cpio --quiet -o -H newc) >"$place/initrd"

truncate -s 3G "$place/disk"
mke2fs -q -t ext4 -d "$root" "$place/disk"
echo "$version" >"$place/kernel"
echo "$stamp" >"$place/stamp"
