# what: the kernel's WireGuard at the other end of our tunnel
# limit: 1800
. /share/guest/steps.sh

modprobe wireguard
cat /sys/module/wireguard/version
HEPTO_INTEROP_PEER=kernel run_tests tunnel interop:: --test-threads=1
