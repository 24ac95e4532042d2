# what: the sandbox, and a node with the stand-in for k3s, as far as they build on this kernel's cgroups
# limit: 2700
. /share/guest/steps.sh

stat -fc 'cgroups: %T' /sys/fs/cgroup
run_tests sandbox
for part in contract adoption crash limits pause stop; do
    run_tests k3s $part:: --test-threads=1
done
