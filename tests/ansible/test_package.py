"""The Ansible role with `hepto_package`, with real dpkg and apt: it installs, takes the place of a program without a package, and removes.

All of it happens in a view of this machine whose writes go to memory and end with it: run.sh makes the namespaces. systemctl is a
stand-in there that writes down what it is told, the program one that tells its version. What a node does under systemd is a
test of the virtual machine (tests/vm).
"""

import atexit
import os
import pathlib
import shutil
import subprocess
import tempfile
import unittest

ROOT = pathlib.Path(__file__).resolve().parents[2]
DIST = ROOT / "dist" / "ansible"
UNIT = "etc/systemd/system/hepto-node@.service"
AT_BOOT = "etc/systemd/system/multi-user.target.wants/hepto-node@mars.service"
BY_HAND = "usr/local/bin/hepto-node"

INVENTORY = """\
[cluster]
mars ansible_host=192.0.2.1 ansible_connection=local iface=ens1 ip=192.0.2.11/24 gw=192.0.2.254
[cluster:vars]
ansible_user=root
ansible_python_interpreter=/usr/bin/python3
master=mars
"""
INSTALL = """\
- hosts: cluster
  gather_facts: false
  tasks:
    - ansible.builtin.import_role:
        name: acides.hepto.node
        tasks_from: install.yml
"""
CONTROL = """\
Package: hepto-node
Version: 0.0.1-1
Architecture: all
Maintainer: nobody <nobody@example.org>
Description: stands in for hepto-node
"""


def program(path, text):
    """A script that can be run."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.unlink(missing_ok=True)
    path.write_text("#!/bin/sh\n" + text, encoding="utf-8")
    path.chmod(0o755)


def mount(*arguments):
    """mount(8), for the view alone."""
    subprocess.run(["mount", *map(str, arguments)], check=True)


@unittest.skipUnless(os.environ.get("HEPTO_VIEW"), "needs root, apt and dpkg, and namespaces by run.sh")
class Package(unittest.TestCase):
    """A machine on which nothing of ours is installed, with a package at hand."""

    def setUp(self):
        place = pathlib.Path(tempfile.mkdtemp(prefix="hepto-view."))
        atexit.register(shutil.rmtree, place)
        mount("-t", "tmpfs", "tmpfs", place)
        self.addCleanup(subprocess.run, ["umount", "--recursive", "--lazy", str(place)], check=True)
        self.view = place / "root"
        for name in ("root", "upper", "work"):
            (place / name).mkdir()
        mount("-t", "overlay", "overlay", "-o", f"lowerdir=/,upperdir={place}/upper,workdir={place}/work", self.view)
        mount("-t", "proc", "proc", self.view / "proc")
        mount("--rbind", "/dev", self.view / "dev")
        mount("-t", "tmpfs", "tmpfs", self.view / "run")
        (self.view / "run/systemd/system").mkdir(parents=True)
        shutil.rmtree(self.view / "etc/hepto", ignore_errors=True)
        for path in (UNIT, AT_BOOT, BY_HAND, "usr/bin/hepto-node", "usr/sbin/policy-rc.d", "var/lib/man-db/auto-update"):
            (self.view / path).unlink(missing_ok=True)
        (self.view / AT_BOOT).parent.mkdir(parents=True, exist_ok=True)
        program(self.view / "usr/bin/systemctl", 'echo "$*" >>/run/told\n')
        play = self.view / "root/play"
        play.mkdir(parents=True)
        (play / "install.yaml").write_text(INSTALL, encoding="utf-8")
        (play / "inventory.ini").write_text(INVENTORY, encoding="utf-8")
        program(play / "hepto-node", "echo hepto-node by hand\n")
        self.build(play / "package")

    def build(self, tree):
        """/root/play/hepto-node.deb in the view, with the scripts of the real one."""
        program(tree / "usr/bin/hepto-node", "echo hepto-node of the package\n")
        units = tree / "usr/lib/systemd/system"
        units.mkdir(parents=True)
        shutil.copy(ROOT / "dist/hepto-node@.service", units)
        shared = (ROOT / "dist/package.sh").read_text(encoding="utf-8")
        for name in ("postinst", "postrm"):
            script = (ROOT / "dist/deb" / name).read_text(encoding="utf-8")
            program(tree / "DEBIAN" / name, script.replace("#NODES#", shared))
        (tree / "DEBIAN/control").write_text(CONTROL, encoding="utf-8")
        subprocess.run(
            ["dpkg-deb", "--root-owner-group", "--build", "-Znone", str(tree), str(tree.parent / "hepto-node.deb")],
            check=True, stdout=subprocess.DEVNULL,
        )

    def inside(self, *command):
        """The command's exit code and all that it said, in the view."""
        environment = dict(os.environ, ANSIBLE_NOCOLOR="1", NO_COLOR="1", DEBIAN_FRONTEND="noninteractive", ANSIBLE_INVENTORY="/root/play/inventory.ini")
        done = subprocess.run(
            ["chroot", str(self.view), "env", "-C", str(DIST), *command], env=environment, stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=600, check=False,
        )
        return done.returncode, done.stdout

    def play(self, name, *arguments, package=True):
        """Plays it in the view; gives how much changed."""
        settings = [f"-ehepto_unit={ROOT}/dist/hepto-node@.service", "-ehepto_binary=/root/play/hepto-node"]
        if package:
            settings.append("-ehepto_package=/root/play/hepto-node.deb")
        code, said = self.inside("ansible-playbook", name, *settings, *arguments)
        self.assertEqual(code, 0, said)
        self.said = said
        return int(said.rsplit("changed=", 1)[1].split()[0])

    def installed(self):
        """dpkg's word for the package's state; nothing when it knows of none."""
        return self.inside("dpkg-query", "--show", "--showformat", "${db:Status-Status}", "hepto-node")[1].split(":")[0]

    def has(self, path):
        """Whether there is such a file or link in the view."""
        return os.path.lexists(self.view / path)

    def install_by_hand(self):
        """As the play does without a package, with a node that starts at boot."""
        self.play("/root/play/install.yaml", package=False)
        self.assertTrue(self.has(UNIT) and self.has(BY_HAND))
        (self.view / AT_BOOT).symlink_to("/" + UNIT)

    def test_a_package_takes_the_place_of_a_program_without_one(self):
        self.install_by_hand()
        self.assertGreater(self.play("/root/play/install.yaml", "--check"), 0)
        self.assertTrue(self.has(UNIT), "check mode removed it")
        self.assertNotEqual(self.installed(), "installed")

        self.play("/root/play/install.yaml")
        self.assertEqual(self.installed(), "installed")
        self.assertFalse(self.has(UNIT), "a unit in /etc comes before the package's")
        # A running node asks for a newer program where it was started.
        self.assertEqual(os.readlink(self.view / BY_HAND), "/usr/bin/hepto-node")
        self.assertEqual(self.inside("/usr/local/bin/hepto-node")[1], "hepto-node of the package\n")
        self.assertEqual(os.readlink(self.view / AT_BOOT), "/usr/lib/systemd/system/hepto-node@.service")
        told = (self.view / "run/told").read_text(encoding="utf-8").splitlines()
        self.assertEqual(told[-1], "daemon-reload")

        self.assertEqual(self.play("/root/play/install.yaml"), 0, self.said)
        self.assertEqual(self.play("/root/play/install.yaml", "--check"), 0, self.said)

    def test_a_machine_without_anything_gets_the_package_alone(self):
        self.assertGreater(self.play("/root/play/install.yaml", "--check"), 0)
        self.assertNotEqual(self.installed(), "installed")
        self.play("/root/play/install.yaml")
        self.assertEqual(self.installed(), "installed")
        self.assertFalse(self.has(UNIT) or self.has(BY_HAND))
        self.assertEqual(self.play("/root/play/install.yaml"), 0, self.said)

    def test_uninstall_removes_the_package_with_the_last_config(self):
        self.install_by_hand()
        self.play("/root/play/install.yaml")
        other = self.view / "etc/hepto/venus.toml"
        other.touch()
        self.play("uninstall.yaml")
        self.assertEqual(self.installed(), "installed", "venus needs it")
        other.unlink()

        self.assertGreater(self.play("uninstall.yaml", "--check"), 0)
        self.assertEqual(self.installed(), "installed", "check mode removed it")
        self.play("uninstall.yaml")
        self.assertNotIn(self.installed(), ("installed", "config-files"))
        for path in ("usr/bin/hepto-node", BY_HAND, "var/cache/hepto-node.deb", "etc/hepto", AT_BOOT):
            self.assertFalse(self.has(path), path + " is left")
        self.assertEqual(self.play("uninstall.yaml"), 0, self.said)


if __name__ == "__main__":
    unittest.main()
