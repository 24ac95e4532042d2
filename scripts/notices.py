#!/usr/bin/env python3
"""Prints the licences of what is linked into hepto-node for a target: one entry a library, each text once.

scripts/notices.py x86_64-unknown-linux-musl
"""

import json
import pathlib
import subprocess
import sys

# What cargo does not know of.
BESIDE = """\
Rust's standard library   MIT OR Apache-2.0   https://www.rust-lang.org
musl                      MIT                 https://musl.libc.org (static builds on musl)
SQLite                    public domain       https://www.sqlite.org
"""
NAMES = ("licen", "copying", "notice", "unlicense")


def cargo(*arguments):
    return subprocess.run(["cargo", *arguments, "--locked"], check=True, stdout=subprocess.PIPE, text=True).stdout


def linked(target):
    """Name and version of every library that is linked."""
    tree = cargo("tree", "--package", "hepto-node", "--edges", "normal,no-proc-macro", "--target", target,
                 "--prefix", "none")
    # Lines as `name v1.2.3` or `name v1.2.3 (*)`. Macros run at build time alone, and are not among them.
    words = [line.split() for line in tree.splitlines() if line]
    return sorted({(name, version.removeprefix("v")) for name, version, *_ in words})


def main():
    target = sys.argv[1]
    packages = json.loads(cargo("metadata", "--format-version", "1", "--filter-platform", target))["packages"]
    packages = {(package["name"], package["version"]): package for package in packages}
    texts, entries = {}, []
    for key in linked(target):
        package = packages[key]
        if package["source"] is None:
            continue
        folder = pathlib.Path(package["manifest_path"]).parent
        numbers = []
        for file in sorted(folder.iterdir()):
            if file.is_file() and file.name.lower().startswith(NAMES):
                text = file.read_text(encoding="utf-8", errors="replace").strip()
                numbers.append(texts.setdefault(text, len(texts) + 1))
        licence = package["license"] or "see its text"
        authors = ", ".join(package["authors"]) or "its authors"
        note = ", ".join(map(str, numbers)) or f"none of its own in the package; by {authors}"
        entries.append(f"{key[0]} {key[1]}\n    {licence}\n    {package['repository'] or ''}\n    texts: {note}")
    print("hepto-node contains these libraries, under the licences named.\n")
    print(BESIDE)
    print("\n".join(entries))
    for text, number in texts.items():
        print(f"\n{'=' * 30} text {number} {'=' * 30}\n\n{text}")


if __name__ == "__main__":
    main()
