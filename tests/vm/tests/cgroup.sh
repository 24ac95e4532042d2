# what: the sandbox, and a node with the stand-in for k3s, as far as they build on this kernel's cgroups
# limit: 2700
. /share/guest/steps.sh

stat -fc 'cgroups: %T' /sys/fs/cgroup
run_tests sandbox
run_tests k3s contract:: adoption:: crash:: limits:: pause:: stop:: --test-threads=1
