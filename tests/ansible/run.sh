#!/bin/sh
# Tests the Ansible collection with ansible-core from PyPI, in an environment of its own below target/. As root on Debian also with
# packages, in a view of this machine that is gone at the end. `-k PATTERN` chooses.
set -eu
venv=target/ansible
# ansible-core supports each version of Python for a few years: the newest that this Python takes.
[ -x "$venv/bin/ansible-lint" ] || { python3 -m venv "$venv" && "$venv/bin/pip" -q install ansible-core ansible-lint; }
"$venv/bin/ansible" --version | sed -n 1p
export PATH="$PWD/$venv/bin:$PATH"
set -- python3 -m unittest discover --start-directory tests/ansible "$@"
if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null && /usr/bin/python3 -c 'import apt' 2>/dev/null; then
    # A first process named as a shell: Ansible takes any other for the machine's init.
    export HEPTO_VIEW=1
    exec unshare --mount --propagation private --pid --fork sh -c '"$@"; exit $?' sh "$@"
fi
exec "$@"
