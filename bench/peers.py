"""Who is measured, and how each is built. A peer that cannot be built is named, and the others go on."""

import json
import os
import re
import shlex
import shutil
import subprocess
from dataclasses import asdict, dataclass, field
from pathlib import Path

from ground import CACHE, ROOT, Refused

# The newest wireguard-go that the Go proxy serves (May 2026). Debian 12's own is of 2022, before its offloads.
WIREGUARD_GO = "golang.zx2c4.com/wireguard@v0.0.0-20260522210424-ecfc5a8d5446"

# Our own build, as it is released.
OURS = "hepto"


@dataclass
class Peer:
    name: str
    # How it is started: `end` reads our script, `uapi` is set up by wg(8), `foreign` is told all in its arguments.
    kind: str = "uapi"
    command: list[str] = field(default_factory=list)
    version: str = ""
    environment: dict[str, str] = field(default_factory=dict)
    # Words after the interface and the port of an `end`.
    offload: list[str] = field(default_factory=list)
    # Cases that it takes part in; all when None.
    only: list[str] | None = None
    # Why it is not there.
    missing: str = ""


def build(wanted) -> list[Peer]:
    """All peers that the `Settings` want, built or with the reason why not. Ours must be there."""
    CACHE.mkdir(parents=True, exist_ok=True)
    contenders = [*_ours(), _wireguard_go(), _boringtun(), _gotatun()]
    contenders += [_foreign(name, command) for name, command in wanted.foreign]
    names = [peer.name for peer in contenders]
    if len(set(names)) < len(names):
        raise Refused("BENCH_PEER: a peer of that name exists already")
    for name in wanted.peers or []:
        if name not in names:
            raise Refused(f"PEERS: there is no peer {name!r}; there are {', '.join(names)}")
    chosen = [peer for peer in contenders if not wanted.peers or peer.name in wanted.peers]
    for peer in chosen:
        print(f"{peer.name}: {'MISSING, ' + peer.missing if peer.missing else peer.version}")
    return chosen


def _saved() -> Path:
    return CACHE / "peers.json"


def save(contenders: list[Peer]) -> None:
    _saved().write_text(json.dumps([asdict(peer) for peer in contenders], indent=1))


def load() -> list[Peer]:
    return [Peer(**peer) for peer in json.loads(_saved().read_text())]


def _log(name: str) -> Path:
    return CACHE / f"build-{name}.log"


def _run(name: str, command: list[str], **environment: str) -> str:
    """Runs a build. Returns why it failed, empty when it did not."""
    with _log(name).open("w") as log:
        try:
            done = subprocess.run(
                command, stdout=log, stderr=log, stdin=subprocess.DEVNULL,
                cwd=ROOT, env={**os.environ, **environment},
            )
        except FileNotFoundError:
            return f"there is no {command[0]} on this machine"
    return "" if done.returncode == 0 else f"the build failed; see {_log(name)}"


def _output(command: list[str]) -> str:
    try:
        done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False)
    except OSError:
        return ""
    return done.stdout.strip()


def machine() -> str:
    return f"{os.uname().machine}-unknown-linux"


def _ours() -> list[Peer]:
    version = _output(["git", "describe", "--always", "--dirty", "--exclude", "*"]) or "unknown"

    def end(name: str, libc: str, *flags: str, **more) -> Peer:
        folder = CACHE / ("build-clear" if flags else "build")
        target = f"{machine()}-{libc}"
        print(f"building {name}")
        missing = _run(name, [
            "cargo", "build", "--release", "--locked", "--package", "hepto-bench",
            "--target", target, "--target-dir", str(folder), *flags,
        ])
        program = folder / target / "release" / "end"
        return Peer(name, "end", [str(program)], f"{version}, {libc}", missing=missing, **more)

    # Debian's own Rust has no musl target; there the release is glibc, linked statically, and so is this.
    released = end(OURS, "musl" if shutil.which("rustup") else "gnu")
    glibc = end("hepto-glibc", "gnu", only=["tcp4", "small"])
    if released.missing:
        raise Refused(f"{OURS}: {released.missing}")
    old = Peer(
        "hepto-old-kernel", "end", released.command, released.version + ", no UDP_SEGMENT and UDP_GRO",
        offload=["tso", "uso"], only=["tcp4", "tcp6", "udp", "small"],
    )
    clear = end(
        "without-crypto", "musl", "--features", "without-crypto",
        only=["tcp4", "tcp6", "pod", "small"],
    )
    return [released, glibc, old, clear]


def program(name: str) -> str:
    """One of the programs in `bench/src/bin`, with the cipher."""
    folders = (CACHE / "build" / f"{machine()}-{libc}" / "release" for libc in ("musl", "gnu"))
    return str(next(folder / name for folder in folders if (folder / name).exists()))


def _installed(program: str, why: str) -> str:
    """What to say of a failed installation: nothing if an earlier one is there."""
    return "" if not why or (_bin() / program).exists() else why


def _bin() -> Path:
    return CACHE / "peers" / "bin"


def _wireguard_go() -> Peer:
    print("building wireguard-go")
    program = _bin() / "wireguard"
    missing = ""
    if WIREGUARD_GO.rpartition("@")[2] not in _output(["go", "version", "-m", str(program)]):
        missing = _run("wireguard-go", ["go", "install", WIREGUARD_GO], GOBIN=str(_bin()))
    return Peer(
        "wireguard-go", "uapi", [str(program), "-f"], WIREGUARD_GO.rpartition("@")[2],
        environment={"LOG_LEVEL": "error"}, missing=missing,
    )


def _crate(crate: str, program: str) -> tuple[str, str]:
    """Installs the newest release. Returns its version and why it is missing."""
    print(f"building {crate}")
    root = str(CACHE / "peers")
    why = _run(crate, ["cargo", "install", "--locked", "--root", root, "--target-dir", root + "/build", crate])
    listed = _output(["cargo", "install", "--list", "--root", root])
    version = re.search(rf"^{re.escape(crate)} (v\S+):", listed, re.MULTILINE)
    return version[1] if version else "", _installed(program, why)


def _boringtun() -> Peer:
    version, missing = _crate("boringtun-cli", "boringtun-cli")
    # Found by trying its flags on two cores: more threads fight for the one queue.
    flags = ["-f", "--disable-drop-privileges", "--threads", "1", "--disable-multi-queue"]
    return Peer("boringtun-cli", "uapi", [str(_bin() / "boringtun-cli"), *flags], version, missing=missing)


def _gotatun() -> Peer:
    version, missing = _crate("gotatun-cli", "gotatun")
    flags = ["-f", "--disable-drop-privileges"]
    return Peer("gotatun-cli", "uapi", [str(_bin() / "gotatun"), *flags], version, missing=missing)


def _foreign(name: str, command: str) -> Peer:
    words = shlex.split(command)
    missing = "" if shutil.which(words[0]) else f"there is no program {words[0]}"
    # It knows one peer by its arguments, so it takes no part in the crowds.
    only = ["tcp4", "tcp6", "tcp4x4", "both", "pod", "udp", "small", "ping", "ping-load"]
    return Peer(name, "foreign", words, command, only=only, missing=missing)
