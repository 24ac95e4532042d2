"""Two namespaces, a veth between them, and a tunnel of one peer's making on top.

    a: 10.90.0.1 fd90::1 --- veth --- b: 10.90.0.2 fd90::2      outside
    a: 10.91.0.1 fd91::1 === tunnel === b: 10.91.0.2 fd91::2    inside, MTU 1420

With a parent, as a node has one, the veth lies between two hosts, and a and b have macvlans on its ends:

    a: outside --- host of a: card --- veth --- host of b: card --- b: outside
"""

import base64
import itertools
import os
import signal
import subprocess
import time
from contextlib import nullcontext
from pathlib import Path

import peers
from ground import CACHE

MTU = 1420
PORT = 51820
# A tunnel that takes longer to carry its first packet is taken for broken.
PATIENCE = 15.0

# What is set on a parent. A veth joins and carries large segments as one; a card puts each on the wire by itself, and joins
# what arrives of it again (GRO). So the veth is told to behave like one.
CARD = ("tx-udp-segmentation off", "rx-gro on")
PARENTS = {"as it is": CARD, "tuned": (*CARD, "rx-udp-gro-forwarding on")}

_numbers = itertools.count()


class LabError(Exception):
    """The network or a peer did not come up."""


def run(*command: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise LabError(f"{' '.join(command)}: {done.stderr.strip() or done.stdout.strip()}")
    return done.stdout.strip()


def wait(what: str, condition) -> None:
    end = time.monotonic() + PATIENCE
    while not condition():
        if time.monotonic() > end:
            raise LabError(f"waited {PATIENCE:.0f} s in vain for {what}")
        time.sleep(0.05)


def cpu(process: subprocess.Popen) -> float:
    """Seconds that the process's threads have run."""
    total = 0
    for task in Path(f"/proc/{process.pid}/task").iterdir():
        try:
            total += int((task / "schedstat").read_text().split()[0])
        except FileNotFoundError:
            pass  # a thread that ended meanwhile
    return total / 1e9


def memory(process: subprocess.Popen) -> float:
    """Resident MiB."""
    for line in Path(f"/proc/{process.pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) / 1024
    raise LabError(f"process {process.pid} has ended")


def new_key() -> tuple[str, str]:
    """A private key and its public one, in base64."""
    private = run("wg", "genkey")
    public = subprocess.run(["wg", "pubkey"], input=private, capture_output=True, text=True, check=True)
    return private, public.stdout.strip()


def as_hex(key: str) -> str:
    return base64.b64decode(key).hex()


class Lab:
    """A peer at both ends; or, with a crowd, at `a` alone, and so many ends of ours at `b`."""

    def __init__(self, peer: peers.Peer, family: int, crowd: int = 0, parent: str = ""):
        self.peer, self.family, self.number, self.parent = peer, family, next(_numbers), parent
        self.a, self.b = (f"bench{self.number}{side}" for side in "ab")
        self.hosts = [f"{name}host" for name in (self.a, self.b)] if parent else []
        self.processes: dict[str, subprocess.Popen] = {}
        self._log = (CACHE / f"run-{peer.name}.log").open("a")
        try:
            self._network()
            if crowd:
                self._crowd(crowd)
            else:
                self._pair()
        except BaseException:
            self.close()
            raise

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def close(self) -> None:
        for process in self.processes.values():
            process.send_signal(signal.SIGTERM)
        for process in self.processes.values():
            try:
                process.wait(2)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        self.processes.clear()
        for name in (self.a, self.b, *self.hosts):
            subprocess.run(["ip", "netns", "del", name], capture_output=True)
        self._log.close()

    def inside(self, side: str, *command: str, **more) -> subprocess.Popen:
        """Starts a command in `a` or `b`. `ip netns exec` becomes it, so its process is the command's."""
        return subprocess.Popen(["ip", "netns", "exec", {"a": self.a, "b": self.b}[side], *command], **more)

    def address(self, side: str = "b") -> str:
        return f"{'10.91.0.' if self.family == 4 else 'fd91::'}{' ab'.index(side)}"

    def underlay(self, side: str) -> str:
        return f"{'10.90.0.' if self.family == 4 else 'fd90::'}{' ab'.index(side)}"

    def endpoint(self, side: str, port: int = PORT) -> str:
        host = self.underlay(side)
        return f"{host}:{port}" if self.family == 4 else f"[{host}]:{port}"

    def _network(self) -> None:
        for name in (self.a, self.b, *self.hosts):
            run("ip", "netns", "add", name)
            run("ip", "-n", name, "link", "set", "lo", "up")
        if self.parent:
            self._veth("card", *self.hosts)
            for host, name in zip(self.hosts, (self.a, self.b)):
                for setting in PARENTS[self.parent]:
                    run("ip", "netns", "exec", host, "ethtool", "-K", "card", *setting.split())
                run("ip", "-n", host, "link", "set", "card", "up")
                run("ip", "-n", host, "link", "add", "outside", "link", "card", "netns", name, "type", "macvlan", "mode", "bridge")
        else:
            self._veth("outside", self.a, self.b)
        for name, number in ((self.a, 1), (self.b, 2)):
            run("ip", "-n", name, "addr", "add", f"10.90.0.{number}/24", "dev", "outside")
            run("ip", "-n", name, "addr", "add", f"fd90::{number}/64", "dev", "outside", "nodad")
            run("ip", "-n", name, "link", "set", "outside", "up")

    def _veth(self, link: str, one: str, other: str) -> None:
        run("ip", "link", "add", link, "netns", one, "type", "veth", "peer", "name", link, "netns", other)

    def interface(self, side: str) -> str:
        # The sockets of wg(8) lie in one folder, so names are used once.
        return f"wg{self.number}{side}"

    def _pair(self) -> None:
        keys = {side: new_key() for side in "ab"}
        for side, other in (("b", "a"), ("a", "b")):
            self._start(side, keys[side][0])
            if self.peer.kind == "foreign":
                arguments = [self.interface(side), self.endpoint(side), self.endpoint(other), side]
                self._spawn(side, [*self.peer.command, *arguments])
            else:
                caller = self.endpoint(other) if side == "a" else None
                self._configure(side, keys[side][0], [(keys[other][1], caller, ["0.0.0.0/0", "::/0"])])
            self._address(side)
        self._reach()

    def _start(self, side: str, private: str) -> None:
        """Starts a peer that wg(8) configures once it runs."""
        if self.peer.kind == "uapi":
            interface = self.interface(side)
            self._spawn(side, [*self.peer.command, interface])
            wait(f"{self.peer.name} to open its socket", lambda: Path(f"/run/wireguard/{interface}.sock").exists())
            run("ip", "netns", "exec", self._name(side), "wg", "set", interface, "listen-port", str(PORT),
                "private-key", self._key_file(private))

    def _name(self, side: str) -> str:
        return {"a": self.a, "b": self.b}[side]

    def _key_file(self, private: str) -> str:
        path = Path(f"/run/bench-{self.number}-key")
        path.touch(mode=0o600)
        path.write_text(private + "\n")
        return str(path)

    def _configure(self, side: str, private: str, others: list[tuple[str, str | None, list[str]]]) -> None:
        interface = self.interface(side)
        if self.peer.kind == "end":
            self._end(side, interface, PORT, private, others, self.peer.command[0], self.peer.offload)
            return
        for public, endpoint, networks in others:
            command = ["wg", "set", interface, "peer", public, "allowed-ips", ",".join(networks)]
            command += ["endpoint", endpoint] if endpoint else []
            run("ip", "netns", "exec", self._name(side), *command)

    def _end(self, side, interface, port, private, others, program, offload) -> None:
        process = self._spawn(side, [program, interface, str(port), *offload], key=interface)
        lines = [f"key {as_hex(private)}"]
        lines += [f"peer {as_hex(public)} {endpoint or '-'} {' '.join(nets)}" for public, endpoint, nets in others]
        process.stdin.write("\n".join([*lines, "start", ""]).encode())
        process.stdin.flush()

    def _spawn(self, side: str, command: list[str], key: str = "") -> subprocess.Popen:
        far = key and key != self.interface(side)
        with self._said(key).open("w") if far else nullcontext(self._log) as said:
            process = self.inside(
                side, *command, stdin=subprocess.PIPE, stdout=said, stderr=self._log,
                env={**os.environ, **self.peer.environment},
            )
        self.processes[key if far else side] = process
        return process

    def _said(self, interface: str) -> Path:
        return Path(f"/run/bench-{self.number}-{interface}")

    def _link(self, side: str, interface: str) -> None:
        show = ["ip", "-n", self._name(side), "link", "show", interface]
        wait(f"{self.peer.name} to make {interface}", lambda: subprocess.run(show, capture_output=True).returncode == 0)
        run("ip", "-n", self._name(side), "link", "set", interface, "mtu", str(MTU), "up")

    def _address(self, side: str) -> None:
        interface, number = self.interface(side), " ab".index(side)
        self._link(side, interface)
        run("ip", "-n", self._name(side), "addr", "add", f"10.91.0.{number}/16", "dev", interface)
        run("ip", "-n", self._name(side), "addr", "add", f"fd91::{number}/64", "dev", interface, "nodad")

    def _reach(self) -> None:
        def answers() -> bool:
            for side, process in self.processes.items():
                if process.poll() is not None:
                    raise LabError(f"{self.peer.name} ended with {process.returncode}; see {self._log.name}")
            ping = self.inside("a", "ping", "-q", "-c", "1", "-W", "1", self.address(), stdout=subprocess.DEVNULL)
            return ping.wait() == 0

        wait(f"{self.peer.name} to carry a packet", answers)

    def _crowd(self, count: int) -> None:
        """So many ends of ours call the peer, each with a key of its own."""
        program = peers.program("end")
        private, public = new_key()
        keys = [new_key() for _ in range(count)]
        self._start("a", private)
        others = [(key[1], None, [f"10.91.1.{number + 1}/32"]) for number, key in enumerate(keys)]
        self._configure("a", private, others)
        self._address("a")
        for number, key in enumerate(keys):
            hub = [(public, self.endpoint("a"), ["10.91.0.0/24"])]
            self._end("b", f"far{number}", PORT + number, key[0], hub, program, [])

        def connected() -> bool:
            return all(self._said(f"far{number}").read_text().endswith("connected\n") for number in range(count))

        wait(f"{count} peers to have a session with {self.peer.name}", connected)
