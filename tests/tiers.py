# SPDX-License-Identifier: GPL-2.0-or-later
"""Runs all tests in tiers, each with its time; ``./dev test`` calls it.

usage: python tests/tiers.py ["pytest -m expression for the slow ones"]

The last line is ``N passed, N failed, N skipped`` over all tiers, with errors counted
as failed; the exit status is 1 when anything failed.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import time
import xml.etree.ElementTree as ET
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
# pytest's exit status for an expression that selects nothing.
_NOTHING = 5


@dataclass(frozen=True)
class Tier:
    """A group of tests: its name, pytest's -m expression, and options."""

    name: str
    select: str
    options: tuple[str, ...] = ()


@dataclass
class Outcome:
    """What a tier came to."""

    counts: Counter[str] = field(default_factory=Counter)
    seconds: float = 0.0
    note: str = ""


# Real sources first among the long ones: its build is what the lab boots.
TIERS = (
    Tier(
        "quick",
        "not sources and not fleet and not lab and not debian",
        ("-n", "2", "--dist", "loadscope"),
    ),
    Tier("real sources", "sources and not fleet and not lab and not debian"),
    # Hosts have networks of their own: two tests at a time do not meet.
    Tier("fleet", "fleet and not lab and not debian", ("-n", "2")),
    Tier("debian roots", "debian and not lab"),
    Tier("lab", "lab"),
)


def missing_sources() -> str:
    """Say what the source cache lacks, and how to get it; empty when it lacks nothing."""
    sys.path.insert(0, str(ROOT))
    from provision import release
    from provision.paths import sources_dir

    place = Path(os.environ.get("KRG_TEST_SOURCES") or sources_dir())
    wanted = release.load(release.DEFAULT)
    lacks = [
        archive.files[0]
        for archive in wanted.archives.values()
        if not any((place / name).is_file() for name in archive.files)
    ]
    if not lacks:
        return ""
    return f"{place} lacks {', '.join(lacks)}; get it: krg-provision fetch"


def count(report: Path) -> Counter[str]:
    """Return how many tests of a JUnit report passed, failed (errors too) and were skipped."""
    counts: Counter[str] = Counter()
    for case in ET.parse(report).getroot().iter("testcase"):
        kinds = {child.tag for child in case}
        if kinds & {"failure", "error"}:
            counts["failed"] += 1
        elif "skipped" in kinds:
            counts["skipped"] += 1
        else:
            counts["passed"] += 1
    return counts


def run(tier: Tier, slow: str) -> Outcome:
    """Run pytest for one tier, its output going where ours goes."""
    started = time.monotonic()
    print(f"\n=== {tier.name} ===", flush=True)
    with tempfile.TemporaryDirectory(prefix="krg-tiers-") as scratch:
        report = Path(scratch) / "report.xml"
        status = subprocess.run(
            [
                sys.executable,
                "-m",
                "pytest",
                "-q",
                "-m",
                f"({tier.select}) and ({slow})",
                f"--junit-xml={report}",
                *tier.options,
            ],
            cwd=ROOT,
            check=False,
        ).returncode
        counts = count(report) if report.exists() else Counter()
    note = ""
    if status in (-signal.SIGINT, 2):
        note = "interrupted"
    elif status not in (0, 1, _NOTHING):
        note = f"pytest ended with status {status}"
    if note and not counts["failed"]:
        counts["failed"] += 1
    return Outcome(counts, time.monotonic() - started, note)


def main() -> int:
    """Run every tier and print the table."""
    slow = sys.argv[1] if len(sys.argv) > 1 else "not slow"
    outcomes: dict[str, Outcome] = {}
    for tier in TIERS:
        lacks = missing_sources() if tier.name == "real sources" else ""
        if lacks:
            print(f"\n=== {tier.name} ===\nskipped: {lacks}", flush=True)
        outcome = run(tier, slow)
        outcome.note = outcome.note or (f"skipped: {lacks}" if lacks else "")
        outcomes[tier.name] = outcome
        print(f"{tier.name}: {outcome.seconds:.0f} s", flush=True)
    total: Counter[str] = sum((o.counts for o in outcomes.values()), Counter())
    print(f"\n{'tier':14}{'passed':>8}{'failed':>8}{'skipped':>9}{'time':>8}")
    for name, outcome in outcomes.items():
        numbers = outcome.counts
        print(
            f"{name:14}{numbers['passed']:8}{numbers['failed']:8}{numbers['skipped']:9}"
            f"{outcome.seconds:6.0f} s  {outcome.note}".rstrip()
        )
    print(f"{total['passed']} passed, {total['failed']} failed, {total['skipped']} skipped")
    return 1 if total["failed"] else 0


if __name__ == "__main__":
    sys.exit(main())
