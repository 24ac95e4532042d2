#!/usr/bin/env python3
"""The benchmark: `make bench`. Builds every peer, measures them in turn, writes a table, JSON and pictures.

Start reading here; then `cases.py` says what is measured, `peers.py` on whom, `lab.py` in which network.
"""

import os
import signal
import subprocess
import sys

import cases
import peers
import report
import settings
from ground import Refused
from lab import Lab, LabError

# Set in the second process, which measures in namespaces of its own.
INSIDE = "HEPTO_BENCH_INSIDE"


def main() -> int:
    try:
        wanted = settings.read(os.environ)
        if INSIDE in os.environ:
            return measure(wanted)
        return prepare(wanted)
    except Refused as error:
        print(f"bench: {error}", file=sys.stderr)
        return 2


def prepare(wanted: settings.Settings) -> int:
    """Builds what is to be measured, then measures in a second process."""
    if os.geteuid() != 0:
        raise Refused("needs root, since it makes network namespaces; try: sudo -E make bench")
    contenders = peers.build(wanted)
    peers.save(contenders)
    report.prepare_pictures()
    # All namespaces, mounts and processes of the measuring process end with it, however it ends.
    unshare = ["unshare", "--mount", "--net", "--pid", "--fork", "--kill-child", "--mount-proc"]
    command = [*unshare, sys.executable, __file__]
    child = subprocess.Popen(command, env={**os.environ, INSIDE: "1"})
    # Ctrl-C reaches the child too: it says what it has, and this process waits for it.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda *_: child.terminate())
    return child.wait()


def measure(wanted: settings.Settings) -> int:
    """Measures round by round. What was measured before an interruption is shown, not written."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    subprocess.run(["mount", "-t", "tmpfs", "tmpfs", "/run"], check=True)
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
    contenders = peers.load()
    results = report.Results(wanted, contenders)
    try:
        rounds(wanted, contenders, results)
    except KeyboardInterrupt:
        print("\nbench: interrupted; this is what was measured until then\n")
        print(results.table())
        return 130
    print()
    print(results.table())
    for path in results.write():
        print(f"written: {path}")
    return 0


def rounds(wanted: settings.Settings, contenders: list[peers.Peer], results: report.Results) -> None:
    """A B C A B C: what changes on the machine meanwhile meets all peers alike."""
    labs: dict[tuple[str, int, str], Lab | None] = {}
    present = [peer for peer in contenders if not peer.missing]
    try:
        for number in range(wanted.rounds):
            for case in (case for case in wanted.cases if not (number and case.once)):
                for peer in (peer for peer in present if case.suits(peer)):
                    figures = one(case, peer, labs, wanted)
                    results.add(number, case, peer, figures)
    finally:
        for lab in labs.values():
            if lab:
                lab.close()


def one(case: cases.Case, peer: peers.Peer, labs: dict, wanted: settings.Settings) -> dict:
    """One figure of one peer, in a lab that is kept for the next round unless the case wants its own."""
    try:
        if case.crowd:
            with Lab(peer, family=4, crowd=case.crowd) as lab:
                return case.measure(lab, wanted.seconds)
        key = (peer.name, case.family, case.parent)
        if key not in labs:
            labs[key] = None
            labs[key] = Lab(peer, family=case.family, parent=case.parent)
        lab = labs[key]
        if lab is None:
            return {"error": "its tunnel did not come up"}
        return case.measure(lab, wanted.seconds)
    except (LabError, cases.Failed) as error:
        return {"error": str(error)}


if __name__ == "__main__":
    sys.exit(main())
