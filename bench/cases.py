"""What is measured."""

import json
import subprocess
import time
from dataclasses import dataclass
from typing import Callable

import lab as labs
import peers

# TCP's payload of a packet between pods: 1,370 bytes behind flannel's VXLAN, less IPv4, TCP and its time stamp.
POD_SEGMENT = 1370 - 52
# A datagram that fills the tunnel's MTU over IPv4.
FULL = labs.MTU - 28
SMALL = 64
# How long a process may idle to be measured at it.
IDLE = 10.0


class Failed(Exception):
    """A measurement that gave no figure."""


@dataclass(frozen=True)
class Figure:
    """A row of the table."""

    key: str
    title: str
    unit: str
    more_is_better: bool = True


@dataclass(frozen=True)
class Case:
    name: str
    figures: tuple[Figure, ...]
    run: Callable[[labs.Lab, float], dict]
    family: int = 4
    # Peers of a hub, for the cases that have one.
    crowd: int = 0
    # One of `lab.PARENTS`, where the ends are to lie behind macvlans as a node does.
    parent: str = ""

    @property
    def once(self) -> bool:
        """Measured in the first round alone: memory and idling do not depend on what else the machine does."""
        return self.crowd > 0

    def suits(self, peer: peers.Peer) -> bool:
        return peer.only is None or self.name in peer.only

    def measure(self, lab: labs.Lab, seconds: float) -> dict:
        return self.run(lab, seconds)


def _json(text: str, what: str) -> dict:
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise Failed(f"{what} said {text.strip()[:200]!r}") from error


def _finish(process: subprocess.Popen, seconds: float, what: str) -> str:
    try:
        return process.communicate(timeout=seconds)[0].decode()
    except subprocess.TimeoutExpired as error:
        process.kill()
        process.wait()
        raise Failed(f"{what} did not end in {seconds:.0f} s") from error


def _spent(lab: labs.Lab) -> float:
    return sum(labs.cpu(lab.processes[side]) for side in "ab")


def _iperf(lab: labs.Lab, seconds: float, *flags: str) -> dict:
    """Gbit/s that arrived, and what the two ends of the tunnel spent on each Gbit."""
    server = lab.inside("b", "iperf3", "-s", "-1", "-J", stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    try:
        _listening(lab, 5201)
        before = _spent(lab)
        client = lab.inside(
            "a", "iperf3", "-c", lab.address(), "-t", f"{seconds:.0f}", "-J", *flags,
            stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
        )
        sent = _json(_finish(client, seconds + 20, "iperf3"), "iperf3")
        spent = _spent(lab) - before
        if "error" in sent:
            raise Failed(f"iperf3: {sent['error']}")
        received = _json(_finish(server, 10, "iperf3 -s"), "iperf3 -s")
    finally:
        if server.poll() is None:
            server.kill()
            server.wait()
    end = sent["end"]
    if "-u" in flags:
        total = received["end"]["sum"]
        packets = total["packets"] - total["lost_packets"]
        gbits = packets * FULL * 8 / 1e9
    else:
        streams = [end["sum_received"]] + [end[key] for key in ("sum_received_bidir_reverse",) if key in end]
        gbits = sum(stream["bytes"] for stream in streams) * 8 / 1e9
    if gbits == 0:
        raise Failed("nothing arrived")
    return {"gbps": gbits / end_seconds(end), "cpu_s_per_gbit": spent / gbits, "retransmits": end.get("sum_sent", {}).get("retransmits")}


def end_seconds(end: dict) -> float:
    return (end.get("sum_received") or end["sum"])["seconds"]


def _listening(lab: labs.Lab, port: int) -> None:
    def there() -> bool:
        shown = lab.inside("b", "ss", "-Hltun", f"sport = :{port}", stdout=subprocess.PIPE)
        return bool(shown.communicate()[0].strip())

    labs.wait(f"something to listen on port {port}", there)


def tcp(*flags: str) -> Callable:
    return lambda lab, seconds: _iperf(lab, seconds, *flags)


def small(lab: labs.Lab, seconds: float) -> dict:
    """Packets that arrive while a sender sends as fast as it can."""
    target = f"{lab.address()}:7000"
    count = lab.inside("b", peers.program("traffic"), "count", target, stdout=subprocess.PIPE)
    try:
        _listening(lab, 7000)
        before = _spent(lab)
        send = lab.inside("a", peers.program("traffic"), "send", target, str(SMALL), str(seconds), stdout=subprocess.PIPE)
        sent = _json(_finish(send, seconds + 20, "the sender"), "the sender")
        received = _json(_finish(count, 20, "the receiver"), "the receiver")["received"]
        spent = _spent(lab) - before
    finally:
        if count.poll() is None:
            count.kill()
            count.wait()
    if received == 0:
        raise Failed("nothing arrived")
    return {"kpps": received / sent["seconds"] / 1e3, "us_per_packet": spent / received * 1e6, "offered_kpps": sent["sent"] / sent["seconds"] / 1e3}


def ping(lab: labs.Lab, seconds: float) -> dict:
    target = f"{lab.address()}:7001"
    echo = lab.inside("b", peers.program("traffic"), "echo", target)
    try:
        _listening(lab, 7001)
        client = lab.inside("a", peers.program("traffic"), "ping", target, str(seconds), stdout=subprocess.PIPE)
        return _json(_finish(client, seconds + 20, "the pings"), "the pings")
    finally:
        echo.kill()
        echo.wait()


def ping_under_load(lab: labs.Lab, seconds: float) -> dict:
    """The same beside one TCP stream in the same direction."""
    server = lab.inside("b", "iperf3", "-s", "-1", stdout=subprocess.DEVNULL)
    client = None
    try:
        _listening(lab, 5201)
        client = lab.inside("a", "iperf3", "-c", lab.address(), "-t", f"{seconds + 2:.0f}", stdout=subprocess.DEVNULL)
        time.sleep(0.5)  # the stream's slow start is no steady load
        return ping(lab, seconds)
    finally:
        for process in (client, server):
            if process:
                process.kill()
                process.wait()


def rss(lab: labs.Lab, _seconds: float) -> dict:
    return {"mib": labs.memory(lab.processes["a"])}


def idle(lab: labs.Lab, _seconds: float) -> dict:
    before = labs.cpu(lab.processes["a"])
    time.sleep(IDLE)
    return {"ms_per_s": (labs.cpu(lab.processes["a"]) - before) * 1e3 / IDLE}


_MICRO = "µs"
_GBPS = Figure("gbps", "", "Gbit/s")


def _throughput(name: str, title: str, *flags: str, family: int = 4, parent: str = "") -> Case:
    figures = (Figure("gbps", title, "Gbit/s"), Figure("cpu_s_per_gbit", f"{title}: both ends", "CPU-s/Gbit", False))
    return Case(name, figures, tcp(*flags), family, parent=parent)


def _latency(name: str, title: str, run: Callable) -> Case:
    figures = (Figure("median_us", f"{title}, median", _MICRO, False), Figure("p99_us", f"{title}, 99 %", _MICRO, False))
    return Case(name, figures, run)


ALL: tuple[Case, ...] = (
    _throughput("tcp4", "1 TCP stream, IPv4"),
    _throughput("tcp6", "1 TCP stream, IPv6", family=6),
    _throughput("tcp4x4", "4 TCP streams", "-P", "4"),
    _throughput("both", "1 TCP stream each way", "--bidir"),
    _throughput("pod", "1 TCP stream, pods' MTU of 1370", "-M", str(POD_SEGMENT)),
    _throughput("macvlan", "1 TCP stream behind macvlans", parent="as it is"),
    _throughput("tuned", "1 TCP stream behind macvlans, network.tune_host", parent="tuned"),
    _throughput("udp", "UDP at the MTU", "-u", "-b", "0", "-l", str(FULL)),
    Case("small", (Figure("kpps", "64-byte UDP", "1,000 packets/s"), Figure("us_per_packet", "64-byte UDP: both ends", "CPU-µs/packet", False)), small),
    _latency("ping", "Round trip, idle", ping),
    _latency("ping-load", "Round trip beside a TCP stream", ping_under_load),
    Case("rss-1", (Figure("mib", "Memory with 1 peer", "MiB", False),), rss, crowd=1),
    Case("rss-10", (Figure("mib", "Memory with 10 peers", "MiB", False),), rss, crowd=10),
    Case("rss-100", (Figure("mib", "Memory with 100 peers", "MiB", False),), rss, crowd=100),
    Case("idle-10", (Figure("ms_per_s", "Idle with 10 peers", "CPU-ms/s", False),), idle, crowd=10),
)
