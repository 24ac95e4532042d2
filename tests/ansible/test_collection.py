"""The Ansible collection, with a real ansible-core: the guide's inventory as it is pasted, and what is refused.

Nothing here touches this machine: every play is stopped by a refusal, or runs in check mode up to the first machine. The
whole play, against systemd, is a test of the virtual machine (tests/vm).
"""

import json
import os
import pathlib
import subprocess
import tempfile
import unittest

ROOT = pathlib.Path(__file__).resolve().parents[2]
DIST = ROOT / "dist" / "ansible"
BINARY = ROOT / "target" / "debug" / "hepto-node"

# The guide's own example, with two nodes and comments in French as it has them.
GUIDE = """\
[cluster]
grumpy ansible_host=192.0.2.1 iface=ens1 ip=2001:db8:1::1/64,192.0.2.123/24 gw=2001:db8:1::ffff,192.0.2.254
sleepy ansible_host=192.0.2.2 iface=ens1 ip=2001:db8:1::2/64,192.0.2.124/24 gw=2001:db8:1::ffff,192.0.2.254

[cluster:vars]
ansible_user=root # utilisateur pour la connexion SSH aux machines
storage_base=/srv # emplacement de stockage pour les données de base du noeud (sera suivi du nom du noeud)
anchors=["2001:db8:1::1","sleepy.example.org"] # liste des ancres du cluster
master=grumpy # nom du noeud master du cluster
mtu=1400 # MTU convenu pour le cluster
overlay_key=abcdefghijklmnopqrstuvwxyz012345 # clé d'overlay de 32 caractères aléatoires
cluster_key=ABCDEFGHIJKLMNOPQRSTUVWXYZ012345 # clé du cluster de 32 caractères aléatoires
"""


def run(*command):
    """The command's exit code and all that it said."""
    environment = dict(os.environ, ANSIBLE_NOCOLOR="1", NO_COLOR="1")
    done = subprocess.run(
        command, cwd=DIST, env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        text=True, timeout=600, check=False,
    )
    return done.returncode, done.stdout


class Collection(unittest.TestCase):
    """What can be seen without a machine to deploy to."""

    def setUp(self):
        self.folder = tempfile.TemporaryDirectory()
        self.addCleanup(self.folder.cleanup)

    def inventory(self, text):
        """A file with this inventory."""
        path = pathlib.Path(self.folder.name) / "inventory.ini"
        path.write_text(text, encoding="utf-8")
        return str(path)

    def listed(self, text):
        """Every node's variables, as Ansible has them with our plugin."""
        code, said = run("ansible-inventory", "-i", self.inventory(text), "--list")
        self.assertEqual(code, 0, said)
        return json.loads(said[said.index("{"):])["_meta"]["hostvars"]

    def play(self, text, *arguments):
        """The play in check mode, on this machine in place of the nodes'."""
        return run(
            "ansible-playbook", "-i", self.inventory(text), "site.yaml", "--check", "--connection", "local",
            "-e", f"hepto_binary={BINARY}", "-e", "ansible_python_interpreter=/usr/bin/python3", *arguments,
        )

    def refused(self, text, *words, arguments=()):
        """The play ends before the first machine, and says these words."""
        code, said = self.play(text, *arguments)
        self.assertNotEqual(code, 0, said)
        # Ansible folds its warnings.
        unfolded = " ".join(said.split())
        for word in words:
            self.assertIn(word, unfolded)
        self.assertNotIn("Learn the machine's kind", said, "it went on to the machines")
        self.assertFalse(list(pathlib.Path(tempfile.gettempdir()).glob("hepto.*/made")), "keys were left behind")

    def test_comments_after_values_are_left_out(self):
        for node in self.listed(GUIDE).values():
            self.assertEqual(node["ansible_user"], "root")
            self.assertEqual(node["storage_base"], "/srv")
            self.assertEqual(node["master"], "grumpy")
            self.assertEqual(node["mtu"], 1400)
            self.assertEqual(node["anchors"], ["2001:db8:1::1", "sleepy.example.org"])
            self.assertEqual(node["overlay_key"], "abcdefghijklmnopqrstuvwxyz012345")
            self.assertEqual(node["cluster_key"], "ABCDEFGHIJKLMNOPQRSTUVWXYZ012345")

    def test_a_sign_without_a_blank_or_in_quotes_is_no_comment(self):
        text = GUIDE + 'one=a#b\ntwo="a # b" \nthree=\'a # b\'\nfour=a b # c # d\n'
        node = self.listed(text)["grumpy"]
        self.assertEqual([node[name] for name in ("one", "two", "three", "four")], ["a#b", "a # b", "a # b", "a b"])

    def test_a_template_behind_which_a_comment_stands_is_still_one(self):
        text = GUIDE.replace("storage_base=/srv #", "storage_base={{ place }} #") + "place=/mnt # the disk\n"
        code, said = run(
            "ansible", "-i", self.inventory(text), "grumpy", "-c", "local", "-m", "debug", "-a", "msg=at-{{ storage_base }}"
        )
        self.assertEqual(code, 0, said)
        self.assertIn("at-/mnt", said)

    def test_other_inventories_are_read_as_ansible_reads_them(self):
        nodes = self.listed("[web]\na\nb x=1\n[more:children]\nweb\n[more:vars]\ny=[1, 2]\n")
        self.assertEqual(nodes, {"a": {"y": [1, 2]}, "b": {"x": 1, "y": [1, 2]}})

    def test_the_whole_inventory_is_checked_and_a_good_one_goes_on(self):
        for arguments in ((), ("-l", "sleepy")):
            _code, said = self.play(GUIDE, *arguments)
            self.assertIn("Learn the machine's kind", said)
            self.assertNotIn("abcdefghijklmnopqrstuvwxyz012345", said, "a key was shown")

    def test_an_unknown_master_is_refused(self):
        self.refused(GUIDE.replace("master=grumpy", "master=doc"), "E-INV-MASTER", "the nodes are grumpy, sleepy")

    def test_two_masters_are_refused(self):
        self.refused(GUIDE.replace("sleepy ansible", "sleepy master=sleepy ansible"), "E-INV-DIFFERS")

    def test_two_nodes_of_one_name_are_refused(self):
        self.refused(GUIDE.replace("sleepy ansible", "grumpy ansible"), "the node grumpy has two lines in [cluster], 2 and 3")

    def test_two_nodes_with_one_address_are_refused_also_with_a_limit(self):
        text = GUIDE.replace("192.0.2.124", "192.0.2.123")
        self.refused(text, "E-INV-ADDR-DUP", arguments=("-l", "sleepy"))
        self.refused(text, "E-INV-ADDR-DUP")

    def test_a_bad_value_names_node_and_fix(self):
        self.refused(GUIDE.replace("mtu=1400", "mtu=900"), "E-NET-MTU", "fix: ")

    def test_without_the_program_on_this_machine_it_says_where_it_looked(self):
        self.refused(GUIDE, "make static", arguments=("-e", '{"hepto_binary": ""}'))

    def test_lint(self):
        # The linter asks for no inventory, which our settings call an error.
        code, said = run("env", "ANSIBLE_INVENTORY_UNPARSED_FAILED=false", "ansible-lint", "--nocolor", "--offline", ".")
        self.assertEqual(code, 0, said)


if __name__ == "__main__":
    unittest.main()
