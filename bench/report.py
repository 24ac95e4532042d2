"""What came out: a table, JSON, pictures, and the ratios that are promised."""

import datetime
import json
import os
import re
import statistics
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import cases
import peers
from ground import CACHE, DOCS, ROOT, Refused

# pygal draws the pictures: pure Python, and only here.
PYGAL = "pygal==3.1.3"
_VENV = CACHE / "venv"


@dataclass(frozen=True)
class Promise:
    """`one` of a figure is at least (or at most) `goal` times the best of `others`, in `beside` where that is another case."""

    text: str
    case: str
    key: str
    one: str
    others: tuple[str, ...]
    goal: float
    at_least: bool = True
    beside: str = ""


_KNOWN = ("wireguard-go", "boringtun-cli", "gotatun-cli")
PROMISES = (
    Promise("TCP beside the prototype", "tcp4", "gbps", peers.OURS, ("prototype",), 0.95),
    Promise("TCP beside wireguard-go", "tcp4", "gbps", peers.OURS, ("wireguard-go",), 1.7),
    Promise("TCP beside boringtun-cli", "tcp4", "gbps", peers.OURS, ("boringtun-cli",), 5),
    Promise("TCP beside gotatun-cli", "tcp4", "gbps", peers.OURS, ("gotatun-cli",), 5),
    Promise("CPU of TCP beside wireguard-go", "tcp4", "cpu_s_per_gbit", peers.OURS, ("wireguard-go",), 0.6, False),
    Promise("64-byte packets beside the best peer", "small", "kpps", peers.OURS, _KNOWN, 2.7),
    Promise("TCP on an old kernel beside wireguard-go", "tcp4", "gbps", "hepto-old-kernel", ("wireguard-go",), 0.7),
    Promise("static beside glibc, TCP", "tcp4", "gbps", peers.OURS, ("hepto-glibc",), 0.95),
    Promise("TCP beside the path without crypto", "tcp4", "gbps", peers.OURS, ("without-crypto",), 0.8),
    Promise("TCP behind macvlans beside wireguard-go", "macvlan", "gbps", peers.OURS, ("wireguard-go",), 1.7),
    Promise("network.tune_host beside a host as it is", "tuned", "gbps", peers.OURS, (peers.OURS,), 1.1, beside="macvlan"),
    Promise("CPU with network.tune_host", "tuned", "cpu_s_per_gbit", peers.OURS, (peers.OURS,), 0.9, False, beside="macvlan"),
    Promise("TCP over IPv6 beside wireguard-go", "tcp6", "gbps", peers.OURS, ("wireguard-go",), 1.7),
)


class Results:
    def __init__(self, wanted, contenders: list[peers.Peer]):
        self.wanted, self.contenders = wanted, contenders
        self.rows: list[dict] = []
        self.machine = _machine()

    def add(self, number: int, case: cases.Case, peer: peers.Peer, figures: dict) -> None:
        self.rows.append({"round": number + 1, "case": case.name, "peer": peer.name, **figures})
        shown = figures.get("error") or ", ".join(
            f"{figures[figure.key]:.3g} {figure.unit}" for figure in case.figures if figures.get(figure.key) is not None
        )
        print(f"round {number + 1}/{self.wanted.rounds}  {case.name:10} {peer.name:18} {shown}", flush=True)

    def values(self, case: str, key: str, peer: str) -> list[float]:
        rows = (row for row in self.rows if row["case"] == case and row["peer"] == peer)
        return [row[key] for row in rows if row.get(key) is not None]

    def median(self, case: str, key: str, peer: str) -> float | None:
        values = self.values(case, key, peer)
        return statistics.median(values) if values else None

    def _figures(self):
        for case in self.wanted.cases:
            for figure in case.figures:
                if any(row["case"] == case.name for row in self.rows):
                    yield case, figure

    def _cell(self, case: cases.Case, figure: cases.Figure, peer: peers.Peer) -> str:
        if peer.missing:
            return "missing"
        if not case.suits(peer):
            return "-"
        values = self.values(case.name, figure.key, peer.name)
        if not values:
            return "failed"
        low, high = min(values), max(values)
        return f"{_round(statistics.median(values))} ({_round(low)}..{_round(high)})"

    def table(self) -> str:
        head = ["", *(peer.name for peer in self.contenders)]
        body = [
            [f"{figure.title} [{figure.unit}]", *(self._cell(case, figure, peer) for peer in self.contenders)]
            for case, figure in self._figures()
        ]
        widths = [max(len(line[column]) for line in [head, *body]) for column in range(len(head))]
        lines = [self._heading(), ""]
        for line in [head, *body]:
            first, *others = line
            cells = [first.ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(others, widths[1:]))]
            lines.append("  ".join(cells).rstrip())
        lines += ["", "Median (least..most). What each peer is:"]
        for peer in self.contenders:
            lines.append(f"  {peer.name:18} " + (f"MISSING: {peer.missing}" if peer.missing else peer.version))
        return "\n".join([*lines, "", *self._promises(), ""])

    def _heading(self) -> str:
        machine = self.machine
        return (
            f"{machine['date']}, Linux {machine['kernel']}, {machine['cpu']}, {machine['cores']} cores, "
            f"{self.wanted.rounds} rounds of {self.wanted.seconds:g} s"
        )

    def ratio(self, promise: Promise) -> float | None:
        one = self.median(promise.case, promise.key, promise.one)
        beside = promise.beside or promise.case
        others = [self.median(beside, promise.key, other) for other in promise.others]
        others = [other for other in others if other]
        if one is None or not others:
            return None
        return one / (max(others) if promise.at_least else min(others))

    def _promises(self) -> list[str]:
        lines = ["Ratios of the medians, and what is aimed at:"]
        for promise in PROMISES:
            ratio = self.ratio(promise)
            if ratio is None:
                continue
            holds = ratio >= promise.goal if promise.at_least else ratio <= promise.goal
            word = "at least" if promise.at_least else "at most"
            lines.append(f"  {promise.text:44} {ratio:5.2f}  {word} {promise.goal:g}: {'yes' if holds else 'NO'}")
        return lines

    def _json(self) -> dict:
        medians = [
            {
                "case": case.name, "figure": figure.key, "title": figure.title, "unit": figure.unit, "peer": peer.name,
                "median": self.median(case.name, figure.key, peer.name),
                "least": min(values), "most": max(values),
            }
            for case, figure in self._figures()
            for peer in self.contenders
            if (values := self.values(case.name, figure.key, peer.name))
        ]
        return {
            "machine": self.machine,
            "rounds": self.wanted.rounds,
            "seconds": self.wanted.seconds,
            "peers": [{"name": p.name, "version": p.version, "missing": p.missing} for p in self.contenders],
            "ratios": [{"text": p.text, "ratio": self.ratio(p), "goal": p.goal} for p in PROMISES],
            "medians": medians,
            "measurements": self.rows,
        }

    def write(self) -> list[Path]:
        """A whole run goes into the documents, a part beside the builds."""
        folder = DOCS if self.wanted.whole else CACHE
        folder.mkdir(parents=True, exist_ok=True)
        name = f"{self.machine['date']}-{_slug(self.machine['cpu'])}" if self.wanted.whole else "result"
        text, data = folder / f"{name}.txt", folder / f"{name}.json"
        text.write_text(self.table())
        data.write_text(json.dumps(self._json(), indent=1) + "\n")
        drawn = subprocess.run(
            [_VENV / "bin" / "python", ROOT / "bench" / "picture.py", data, folder / name],
            capture_output=True, text=True, check=True,
        )
        return [text, data, *(Path(line) for line in drawn.stdout.splitlines())]


def prepare_pictures() -> None:
    """Installs what draws, before anything is measured in vain."""
    python = _VENV / "bin" / "python"
    wanted = PYGAL.partition("==")[2]
    there = subprocess.run([python, "-c", f"import pygal; assert pygal.__version__ == '{wanted}'"], capture_output=True) if python.exists() else None
    if there and there.returncode == 0:
        return
    for step in ([sys.executable, "-m", "venv", _VENV], [python, "-m", "pip", "install", "--quiet", PYGAL]):
        done = subprocess.run(step, capture_output=True, text=True)
        if done.returncode:
            why = (done.stderr or done.stdout).strip().splitlines()[-1:]
            raise Refused(f"cannot install {PYGAL} for the pictures (Debian: apt-get install python3-venv): {' '.join(why)}")


def _round(value: float) -> str:
    if value >= 100:
        return f"{value:.0f}"
    return f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def _slug(text: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", re.sub(r"\([^)]*\)", "", text.lower())).strip("-")


def _machine() -> dict:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    cpu = {line.partition(":")[0].strip(): line.partition(":")[2].strip() for line in reversed(lines) if ":" in line}
    name = cpu.get("model name") or os.uname().machine
    # Several generations of a maker may share a name.
    family = f" family {cpu['cpu family']} model {cpu['model']}" if "cpu family" in cpu else ""
    return {
        "date": datetime.date.today().isoformat(),
        "kernel": os.uname().release,
        "cpu": name + family,
        "cores": os.cpu_count(),
        "avx512": "avx512f" in cpu.get("flags", ""),
        "load_at_start": os.getloadavg()[0],
    }
