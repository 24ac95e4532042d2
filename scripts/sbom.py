#!/usr/bin/env python3
"""Prints a CycloneDX file of hepto-node, reduced to what is linked for a target, and without this machine's paths.

scripts/sbom.py x86_64-unknown-linux-musl FILE SOURCE    (as cargo-cyclonedx wrote it, of the source that lies there)

cargo-cyclonedx reads `cargo metadata`, which also names optional libraries that no feature of ours turns on, and macros.
"""

import json
import pathlib
import sys

from notices import linked


def main():
    target, file, source = sys.argv[1:]
    text = pathlib.Path(file).read_text(encoding="utf-8").replace(f"file://{source}", "file:///hepto-node")
    bom = json.loads(text)
    wanted = set(linked(target))
    kept = [component for component in bom["components"] if (component["name"], component["version"]) in wanted]
    own = bom["metadata"]["component"]
    missing = wanted - {(component["name"], component["version"]) for component in [own, *kept]}
    if missing:
        sys.exit(f"sbom: cargo-cyclonedx has not named {sorted(missing)}")
    references = {component["bom-ref"] for component in [own, *kept]}
    bom["components"] = kept
    bom["dependencies"] = [entry for entry in bom["dependencies"] if entry["ref"] in references]
    for entry in bom["dependencies"]:
        entry["dependsOn"] = [other for other in entry.get("dependsOn", []) if other in references]
    json.dump(bom, sys.stdout, indent=1, ensure_ascii=False)
    print()


if __name__ == "__main__":
    main()
