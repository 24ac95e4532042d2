#!/usr/bin/env python3
"""Records what Ansible makes of cases.txt, as recorded.json. Needs: pip install ansible-core."""

import json
import os
import pathlib
import re
import subprocess
import sys
import tempfile

HERE = pathlib.Path(__file__).parent
ENVIRONMENT = os.environ | {
    "ANSIBLE_INVENTORY_ENABLED": "ini",
    "ANSIBLE_INVENTORY_ANY_UNPARSED_IS_FAILED": "true",
    "ANSIBLE_NOCOLOR": "1",
}


def exact(value):
    """Numbers as Python shows them: JSON has neither infinity nor 32 digits."""
    if isinstance(value, list):
        return [exact(item) for item in value]
    if isinstance(value, dict):
        return {key: exact(item) for key, item in value.items()}
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return {"number": repr(value)}
    return value


def hosts(path: pathlib.Path):
    """Every host's variables, or None where Ansible refuses the inventory."""
    command = [str(pathlib.Path(sys.executable).parent / "ansible-inventory"), "-i", str(path), "--list"]
    run = subprocess.run(command, env=ENVIRONMENT, capture_output=True, text=True, check=False)
    if run.returncode != 0:
        return None
    groups = json.loads(run.stdout)
    variables = groups.pop("_meta")["hostvars"]
    names = {name for group in groups.values() for name in group.get("hosts", [])}
    return {name: exact(variables.get(name, {})) for name in sorted(names)}


def main():
    text = (HERE / "cases.txt").read_text()
    recorded = {}
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder) / "inventory.ini"
        for name, case in re.findall(r"^=== (.*)\n((?:(?!=== ).*\n)*)", text, re.MULTILINE):
            path.write_text(case)
            recorded[name] = hosts(path)
    (HERE / "recorded.json").write_text(json.dumps(recorded, indent=1, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main()
