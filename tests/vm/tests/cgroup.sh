# what: the sandbox and k3s's contract (with the stand-in) on this kernel's cgroups
# limit: 3600
. /share/guest/steps.sh

stat -fc 'cgroups: %T' /sys/fs/cgroup
run_tests sandbox
run_tests k3s '' --test-threads=1
