# What the tests in a VM share; each begins with `. /share/guest/steps.sh`.
# Times are seconds of the VM's own clock, as in the units of `sleep`.

# Where the programs of the tests lie.
folder=$(cat /share/folder)

now() { cut -d. -f1 /proc/uptime; }

# The host sees at once how far a test is, in NAME.told.
step() {
    echo "---- $(now) s: $*"
    echo "step $(now) s: $*" >/dev/ttyS1
}

fail() {
    echo "FAILED: $*"
    exit 1
}

# check WHAT COMMAND...: a command that must succeed.
check() {
    local what=$1
    shift
    "$@" || fail "$what: $*"
}

# within SECONDS WHAT COMMAND...: asks again and again until the command succeeds.
within() {
    local limit=$1 what=$2 end
    shift 2
    end=$(($(now) + limit))
    until "$@" >/tmp/within 2>&1; do
        if [ "$(now)" -gt $end ]; then
            cat /tmp/within
            fail "not within $limit s: $what"
        fi
        # Asking is most of what such a machine does meanwhile.
        sleep 1
    done
}

# run_tests PROGRAM FILTER ARGUMENT...: one of our test programs, with ten times the usual patience. A filter that meets no
# test would pass.
run_tests() {
    local program=$1
    shift
    step "$program $*"
    [ $# = 0 ] || "$folder/tests/$program" "$@" --list | grep ': test$' >/dev/null || fail "no such test"
    HEPTO_PATIENCE=10 "$folder/tests/$program" "$@"
}
