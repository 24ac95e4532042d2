# What the tests in a VM share; each begins with `. /share/guest/steps.sh`.
# Times are seconds of the VM's own clock, as in the units of `sleep`.

# Where the programs of the tests lie.
folder=$(cat /share/folder)

now() { cut -d. -f1 /proc/uptime; }

step() { echo "---- $(now) s: $*"; }

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
        sleep 0.3
    done
}

# run_tests PROGRAM ARGUMENT...: one of our test programs, with ten times the usual patience.
run_tests() {
    local program=$1
    shift
    step "$program $*"
    HEPTO_PATIENCE=10 "$folder/tests/$program" "$@"
}
