"""What the environment asks for."""

from dataclasses import dataclass

import cases
from ground import Refused


@dataclass
class Settings:
    cases: list[cases.Case]
    # All peers, or those of these names.
    peers: list[str] | None
    rounds: int
    # Seconds of one measurement.
    seconds: float
    # Name and command of peers that are not known here.
    foreign: list[tuple[str, str]]

    @property
    def whole(self) -> bool:
        """Nothing was left out: the result may be published."""
        return self.peers is None and len(self.cases) == len(cases.ALL) and self.rounds >= 3


def read(environment) -> Settings:
    return Settings(
        cases=_cases(environment.get("BENCH", "")),
        peers=_words(environment.get("PEERS", "")) or None,
        rounds=_number(environment, "ROUNDS", 5, int),
        seconds=_number(environment, "DURATION", 5, float),
        foreign=_foreign(environment.get("BENCH_PEER", "")),
    )


def _words(text: str) -> list[str]:
    return [word.strip() for word in text.split(",") if word.strip()]


def _cases(text: str) -> list[cases.Case]:
    names = _words(text)
    known = {case.name: case for case in cases.ALL}
    for name in names:
        if name not in known:
            raise Refused(f"BENCH: there is no case {name!r}; there are {', '.join(known)}")
    return [known[name] for name in names] or list(cases.ALL)


def _number(environment, name: str, default, kind):
    text = environment.get(name) or str(default)
    try:
        number = kind(text)
    except ValueError:
        number = 0
    if number <= 0:
        raise Refused(f"{name}: {text!r} is no number above zero")
    return number


def _foreign(text: str) -> list[tuple[str, str]]:
    """`name=command`, several apart by newlines or semicolons."""
    found = []
    for line in text.replace(";", "\n").splitlines():
        if not line.strip():
            continue
        name, equals, command = line.strip().partition("=")
        if not equals or not name.strip() or not command.strip():
            raise Refused(f"BENCH_PEER: {line!r} is not name=command")
        found.append((name.strip(), command.strip()))
    return found
