# Copyright: the hepto-node authors
# License: MIT OR Apache-2.0
"""The deployment guide's inventory, read as people paste it."""

from __future__ import annotations

DOCUMENTATION = r"""
name: guide
short_description: The deployment guide's INI inventory, comments after values left out
description:
  - Reads an INI inventory as Ansible's own plugin does, with two differences.
  - Ansible keeps a comment that follows a value of a C([group:vars]) section as a part of the value. The guide's own
    example has such comments, so a blank with C(#) and all that follows it is left out there, unless the value begins with a quote.
  - A node that has two lines in C([cluster]) is refused. Ansible would silently make one of the two.
options: {}
"""

EXAMPLES = r"""
# ansible.cfg
# [inventory]
# enable_plugins = host_list, script, auto, yaml, toml, acides.hepto.guide
"""

import re

from ansible.errors import AnsibleParserError
from ansible.plugins.inventory.ini import InventoryModule as Ini

try:
    # From ansible-core 2.19 on a value may hold a template only when it says where it comes from.
    from ansible.template import trust_as_template
except ImportError:
    def trust_as_template(value):
        """A value as it is."""
        return value

SECTION = re.compile(r"^\[([^:\]\s]+)(?::(\w+))?\]\s*(?:#.*)?$")
# The guide's group of nodes.
NODES = "cluster"


class InventoryModule(Ini):
    """Ansible's INI plugin, and what the guide's readers expect of it."""

    NAME = "acides.hepto.guide"

    def parse(self, inventory, loader, path, cache=True):
        """Reads the file as Ansible does, then mends what it read of commented values."""
        refuse_twins(path)
        super().parse(inventory, loader, path, cache)
        left_out = []
        for _number, group, kind, line in lines(path):
            if kind != "vars" or "=" not in line:
                continue
            name, written = (part.strip() for part in line.split("=", 1))
            # Numbers and lists Ansible reads rightly: only text keeps its comment.
            if not is_commented(written) or not isinstance(inventory.groups[group].vars.get(name), str):
                continue
            value = re.split(r"\s#", written, maxsplit=1)[0].strip()
            inventory.set_variable(group, name, trust_as_template(value))
            left_out.append(name)
        if left_out:
            self.display.v("%s: comments after values were left out: %s" % (path, ", ".join(left_out)))


def lines(path):
    """The number, group, kind (None, "vars" or "children") and text of each line below a section."""
    group, kind = None, None
    with open(path, encoding="utf-8") as file:
        for number, line in enumerate(file, start=1):
            line = line.strip()
            if not line or line[0] in "#;":
                continue
            header = SECTION.match(line)
            if header:
                group, kind = header.groups()
            elif group is not None:
                yield number, group, kind, line


def is_commented(written):
    """Whether a comment follows this value, which is not in quotes."""
    return written[:1] not in ("'", '"') and re.search(r"\s#", written) is not None


def refuse_twins(path):
    """Each node has one line: two with one name would be one node with a mixture of both."""
    first = {}
    for number, group, kind, line in lines(path):
        if group != NODES or kind is not None:
            continue
        name = line.split()[0]
        if name in first:
            raise AnsibleParserError(
                "%s: the node %s has two lines in [%s], %d and %d: give one of them another name"
                % (path, name, NODES, first[name], number)
            )
        first[name] = number
