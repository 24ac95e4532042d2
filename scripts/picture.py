#!/usr/bin/env python3
"""Runs a command and draws what it printed as a terminal, in SVG.

    scripts/picture.py OUT.svg "what is shown as typed" COMMAND [ARGUMENT...]

The picture is text: it can be searched, selected and read out, and a diff shows what changed. Colours of the terminal (SGR 31 to
36, bold) are kept, everything else that a terminal obeys is left out.
"""

import html
import re
import subprocess
import sys

CHARACTER, LINE, MARGIN, TOP = 8.4, 19, 18, 42
INK, PAPER, FAINT = "#d8dee9", "#1d2330", "#7b8699"
COLOURS = {"31": "#e06c75", "32": "#98c379", "33": "#e5c07b", "34": "#61afef", "35": "#c678dd", "36": "#56b6c2"}


def spans(line):
    """The line's parts, each with the style that it has on the terminal."""
    style = ""
    for part in re.split(r"(\x1b\[[0-9;]*[A-Za-z])", line):
        if part.startswith("\x1b"):
            codes = part[2:-1].split(";") if part.endswith("m") else []
            for code in codes:
                if code in ("", "0"):
                    style = ""
                elif code in COLOURS:
                    style += f' fill="{COLOURS[code]}"'
                elif code == "1":
                    style += ' font-weight="bold"'
        elif part:
            yield style, part


def text(line, row, style=""):
    inner = "".join(
        f"<tspan{style}>{html.escape(part)}</tspan>" if style else html.escape(part) for style, part in spans(line)
    )
    return f'<text x="{MARGIN}" y="{TOP + 20 + row * LINE}"{style} xml:space="preserve">{inner}</text>'


def picture(typed, lines):
    longest = max(len(re.sub(r"\x1b\[[0-9;]*[A-Za-z]", "", line)) for line in [typed + "  ", *lines])
    width, height = int(longest * CHARACTER + 2 * MARGIN), TOP + 20 + (len(lines) + 1) * LINE
    dots = "".join(
        f'<circle cx="{MARGIN + 6 + 20 * i}" cy="21" r="6" fill="{c}"/>'
        for i, c in enumerate(("#e06c75", "#e5c07b", "#98c379"))
    )
    rows = [text(f"# {typed}", 0, f' fill="{FAINT}"')]
    rows += [text(line, row) for row, line in enumerate(lines, 1)]
    return "\n".join([
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}" '
        f'font-family="ui-monospace, Menlo, Consolas, monospace" font-size="14" fill="{INK}" role="img">',
        f"<title>{html.escape(typed)}</title>",
        f'<rect width="{width}" height="{height}" rx="8" fill="{PAPER}"/>{dots}',
        *rows,
        "</svg>\n",
    ])


def main():
    out, typed, *command = sys.argv[1:]
    run = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    if run.returncode != 0:
        sys.exit(f"{run.stdout}\n{' '.join(command)} ended with {run.returncode}: no picture")
    lines = [line.rsplit("\r", 1)[-1].expandtabs() for line in run.stdout.rstrip().split("\n")]
    with open(out, "w", encoding="utf-8") as file:
        file.write(picture(typed, lines))


main()
