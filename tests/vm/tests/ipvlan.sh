# what: whole nodes behind ipvlan uplinks meet, over both families; hepto-net's own tests
# limit: 3000
. /share/guest/steps.sh

# Without it a node warns, rightly.
modprobe br_netfilter
run_tests hepto_net lab::
run_tests network ipvlan::
run_tests network bandwidth::
run_tests e2e meet:: --test-threads=1
