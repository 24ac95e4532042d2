"""What all the rest stands on: the folders, and the error that is told in a sentence."""

from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
# Peers, their builds, and results of a part.
CACHE = ROOT / "target" / "bench"
DOCS = ROOT / "docs" / "benchmarks"


class Refused(Exception):
    """Something that cannot be done as asked, and what to do about it."""
