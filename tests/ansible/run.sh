#!/bin/sh
# Tests the Ansible collection with ansible-core from PyPI, in an environment of its own below target/.
set -eu
venv=target/ansible
# ansible-core supports each version of Python for a few years: the newest that this Python takes.
[ -x "$venv/bin/ansible-lint" ] || { python3 -m venv "$venv" && "$venv/bin/pip" -q install ansible-core ansible-lint; }
"$venv/bin/ansible" --version | head -n 1
PATH="$PWD/$venv/bin:$PATH" exec python3 tests/ansible/test_collection.py "$@"
