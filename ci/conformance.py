#!/usr/bin/env python3
"""Writes CONFORMANCE.md: which test holds each behaviour that Python's own suite demands.

A test names its row in its documentation, one line a row:

    /// Conformance: _TestQueue.test_put

The rows are in ci/conformance.csv. `portable` is yes, partly (what carries over is tested) or no
(`why_not` says why). ci/deviations.csv lists rows where mp behaves differently on purpose.

    ci/conformance.py               writes CONFORMANCE.md
    ci/conformance.py --check       fails if that would change it, or a test names a row that does
                                    not exist
    ci/conformance.py --complete    fails as well if a row marked yes has neither test nor deviation
"""

import argparse
import collections
import csv
import pathlib
import re
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent
OUTPUT = ROOT / "CONFORMANCE.md"
LINE = re.compile(r"^\s*//[/!] Conformance: (\S+)\s*$")
FUNCTION = re.compile(r"^\s*(?:pub )?(?:async )?fn (\w+)")

INTRODUCTION = """\
# Conformance

Python's own test suite is the most complete description of what people expect of `multiprocessing`.
Here is each behaviour that it demands, with the test that holds it, or the reason why there is none.
Written by `ci/conformance.py`; not to be edited.

"""


def rows():
    with open(ROOT / "ci" / "conformance.csv", newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def deviations():
    """{row: reason}."""
    with open(ROOT / "ci" / "deviations.csv", newline="", encoding="utf-8") as file:
        return {f"{one['class']}.{one['test']}": one["reason"] for one in csv.DictReader(file)}


def sources():
    for folder in ["src", "tests", "examples", *sorted(ROOT.glob("mp-*"))]:
        for path in sorted((ROOT / folder).rglob("*.rs")):
            if "target" not in path.relative_to(ROOT).parts:
                yield path


def tests():
    """{row: [file::function]}, and the lines that stand before no function."""
    found, stray = collections.defaultdict(list), []
    for path in sources():
        name, waiting = path.relative_to(ROOT), []
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
            if match := LINE.match(line):
                waiting.append((match[1], number))
            elif waiting and (match := FUNCTION.match(line)):
                for row, _ in waiting:
                    found[row].append(f"{name}::{match[1]}")
                waiting = []
        stray += [f"{name}:{number}: {row} stands before no test" for row, number in waiting]
    return found, stray


def cell(text):
    return text.replace("|", "\\|").replace("\n", " ")


def judge(row, found, deviating):
    """The cell of a row, and the word it is counted by."""
    name = f"{row['class']}.{row['test']}"
    holders = "<br>".join(f"`{test}`" for test in found.get(name, []))
    reason = cell(row["why_not"])
    if name in deviating:
        text = f"differs: {cell(deviating[name])}"
        return (f"{holders}<br>{text}" if holders else text), "differing"
    if holders:
        return (f"{holders}<br>in part: {reason}" if row["portable"] == "partly" else holders), "tested"
    if row["portable"] == "no":
        return f"not here: {reason}", "not portable"
    return (f"**no test** ({reason})" if reason else "**no test**"), "untested"


def page(all_rows, found, deviating):
    counts = collections.Counter()
    areas = collections.defaultdict(list)
    untested = []
    for row in all_rows:
        name = f"{row['class']}.{row['test']}"
        text, verdict = judge(row, found, deviating)
        counts[row["portable"], verdict] += 1
        areas[row["crate"], row["area"]].append(f"| `{name}` | {row['portable']} | {text} |")
        if verdict == "untested":
            untested.append((name, row["portable"]))

    def share(portable):
        total = sum(count for (kind, _), count in counts.items() if kind == portable)
        text = f"{counts[portable, 'tested']} of {total} tested"
        differing = counts[portable, "differing"]
        return text + (f" and {differing} different on purpose" if differing else "")

    summary = (
        f"{len(all_rows)} rows. Portable: {share('yes')}. Portable in part: {share('partly')}. "
        f"Not portable: {counts['no', 'not portable']}."
    )
    text = INTRODUCTION + summary + "\n"
    for (crate, area), lines in sorted(areas.items()):
        text += f"\n## {crate}: {area}\n\n| row | portable | held by |\n|---|---|---|\n"
        text += "\n".join(lines) + "\n"
    return text, summary, untested


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="write nothing, fail if the page is wrong")
    parser.add_argument("--complete", action="store_true", help="as --check, and fail on any gap")
    parser.add_argument("--crate", help="list this crate's rows without a test")
    options = parser.parse_args()

    all_rows = rows()
    known = {f"{row['class']}.{row['test']}": row["crate"] for row in all_rows}
    (found, problems), deviating = tests(), deviations()
    for row, holders in sorted(found.items()):
        if row not in known:
            problems.append(f"{', '.join(holders)}: no such row: {row}")
    problems += [f"ci/deviations.csv: no such row: {row}" for row in deviating if row not in known]

    text, summary, untested = page(all_rows, found, deviating)
    if options.crate:
        for row, portable in untested:
            if known[row] == options.crate:
                print(f"{portable:7}{row}")
        return 0
    if options.complete:
        problems += [f"no test for {row}" for row, portable in untested if portable == "yes"]
    if options.check or options.complete:
        if not OUTPUT.exists() or OUTPUT.read_text(encoding="utf-8") != text:
            problems.append("CONFORMANCE.md is stale: run ci/conformance.py")
    else:
        OUTPUT.write_text(text, encoding="utf-8")
    for problem in problems:
        print(f"conformance: {problem}", file=sys.stderr)
    print(f"conformance: {summary}")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
