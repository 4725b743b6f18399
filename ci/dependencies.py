#!/usr/bin/env python3
"""Fails for a dependency without a reason in ARCHITECTURE.md, for a reason without a dependency, and
for an arrow between crates that the map there does not have. Prints how much each crate brings along.
"""

import json
import pathlib
import re
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent

# Who may depend on whom, beyond mp-core; tests may use mp-process as well.
ARROWS = {
    "mp-core": set(),
    "mp-process": set(),
    "mp-pipe": set(),
    "mp-sync": set(),
    "mp-queue": set(),
    "mp-pool": {"mp-process", "mp-queue"},
    "mp-manager": {"mp-process", "mp-pipe", "mp-pool", "mp-sync"},
    "multiprocess": {"mp-process", "mp-pipe", "mp-sync", "mp-queue", "mp-pool", "mp-manager"},
}


def cargo(*arguments):
    done = subprocess.run(["cargo", *arguments], cwd=ROOT, capture_output=True, text=True)
    if done.returncode:
        sys.exit(done.stderr)
    return done.stdout


def reasons():
    """The packages in the first column of the table under "Dependencies, and why"."""
    text = (ROOT / "ARCHITECTURE.md").read_text()
    section = text.split("\n## Dependencies, and why\n")[1].split("\n## ")[0]
    rows = [line for line in section.splitlines() if line.startswith("| `")]
    return {name for row in rows for name in re.findall("`([^`]+)`", row.split("|")[1])}


def flaws(packages, reasons):
    members = {package["name"] for package in packages}
    used = set()
    for package in packages:
        name = package["name"]
        for dependency in package["dependencies"]:
            other = dependency["name"]
            if other not in members:
                used.add(other)
                if other not in reasons:
                    yield f"{name}: why does it need {other}? Say so in ARCHITECTURE.md, or do without"
            elif name in ARROWS and other not in ARROWS[name] | {"mp-core"}:
                if dependency["kind"] != "dev":
                    yield f"{name}: an arrow to {other}, which the map does not have"
    for name in sorted(reasons - used - members):
        yield f"ARCHITECTURE.md: nobody depends on {name}"


def main():
    packages = json.loads(cargo("metadata", "--format-version=1", "--no-deps"))["packages"]
    found = sorted(set(flaws(packages, reasons())))
    for name in ARROWS:
        tree = cargo("tree", "-p", name, "--edges=normal,build", "--prefix=none", "--locked")
        brings = {line.split()[0] for line in tree.splitlines() if line} - {name}
        ours = {other for other in brings if other in ARROWS}
        print(f"{name}: {len(ours)} crates of this workspace, {len(brings - ours)} of others")
    for flaw in found:
        print(flaw)
    print(f"dependencies: {len(found)} flaws")
    sys.exit(bool(found))


if __name__ == "__main__":
    main()
