"""Draws a result: `picture.py RESULT.json PREFIX` writes PREFIX-UNIT.svg for each unit and prints their names.

Runs with the Python of `target/bench/venv`, which has pygal.
"""

import json
import re
import sys
from pathlib import Path

import pygal
from pygal.style import CleanStyle

STYLE = CleanStyle(font_family="sans-serif", background="white", plot_background="white")


def draw(unit: str, medians: list[dict], heading: str) -> bytes:
    """Bars by figure and peer; their whiskers are the least and the most of all rounds."""
    titles = list(dict.fromkeys(row["title"] for row in medians))
    names = list(dict.fromkeys(row["peer"] for row in medians))
    chart = pygal.Bar(
        js=[], style=STYLE, title=f"{unit}\n{heading}", x_label_rotation=20, truncate_label=-1, truncate_legend=-1,
        width=1100, height=560, legend_at_bottom=True, legend_at_bottom_columns=4, range=None, include_x_axis=True,
    )
    chart.x_labels = titles
    by_place = {(row["title"], row["peer"]): row for row in medians}
    for name in names:
        chart.add(name, [bar(by_place.get((title, name))) for title in titles])
    return chart.render()


def bar(row: dict | None):
    return row and {"value": row["median"], "ci": {"low": row["least"], "high": row["most"]}}


def main(source: str, prefix: str) -> None:
    result = json.loads(Path(source).read_text())
    machine = result["machine"]
    heading = f"{machine['date']}, Linux {machine['kernel']}, {machine['cpu']}, {machine['cores']} cores"
    for unit in dict.fromkeys(row["unit"] for row in result["medians"]):
        rows = [row for row in result["medians"] if row["unit"] == unit]
        slug = re.sub(r"[^a-z0-9]+", "-", unit.lower().replace("µ", "u")).strip("-")
        path = Path(f"{prefix}-{slug}.svg")
        path.write_bytes(draw(unit, rows, heading) + b"\n")
        print(path)


if __name__ == "__main__":
    main(*sys.argv[1:])
