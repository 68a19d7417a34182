# SPDX-License-Identifier: GPL-2.0-or-later
"""Speed of the apt repository: add and publish many small packages."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from debs import deb, manifest

KRG = [sys.executable, "-m", "provision", "repo"]
GOAL = 5.0  # seconds for 200 packages


def timed(*words: object) -> float:
    """Run a repo command as a process of its own; return seconds."""
    started = time.monotonic()
    subprocess.run([*KRG, *map(str, words)], check=True, stdout=subprocess.DEVNULL)
    return time.monotonic() - started


def measure(count: int, size: int) -> dict[str, float]:
    """Return seconds by what was done, with ``count`` packages of ``size`` random bytes."""
    with tempfile.TemporaryDirectory(prefix="krg-bench-") as name:
        top = Path(name)
        files = [
            deb(top / "debs", f"krg-{n:04}", arch="amd64" if n % 2 else "i386",
                content=os.urandom(size // 2).hex())
            for n in range(count)
        ]  # fmt: skip
        one = manifest(top / "debs", files)
        store = top / "repo"
        found = {"add": timed("add", store, one)}
        # The first publish makes the key and reads every package.
        found["publish, first"] = timed("publish", store)
        timed("add", store, deb(top, "krg-new"))
        found["publish, one new"] = timed("publish", store)
    return found


def main() -> None:
    """Measure with 200 packages of 100 kB, and print a line for each command."""
    found = measure(200, 100_000)
    print("repo, 200 packages of 100 kB:")
    for what, seconds in found.items():
        goal = f" (goal {GOAL:g})" if what.startswith("publish") else ""
        print(f"  {what}: {seconds:.2f} s{goal}")
