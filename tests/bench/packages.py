# SPDX-License-Identifier: GPL-2.0-or-later
"""Packaging a build against dpkg-deb alone on the same trees.

By hand means: the trees are there already, owners and times right, and one dpkg-deb
per processor writes them with the same compression. Rounds alternate; medians are compared.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from provision import artifacts

ROUNDS = 5
GOAL = 1.2


def timed(argv: list[str]) -> float:
    """Run a command; return its wall-clock seconds."""
    started = time.monotonic()
    subprocess.run(argv, check=True, stdout=subprocess.DEVNULL)
    return time.monotonic() - started


def by_hand(trees: list[Path], out: Path) -> float:
    """Build all trees with dpkg-deb, as many at once as there are processors."""

    def one(tree: Path) -> None:
        argv = ["dpkg-deb", "--root-owner-group", "--uniform-compression", "-Zgzip",
                "--build", str(tree), str(out / f"{tree.name}.deb")]  # fmt: skip
        subprocess.run(argv, check=True, stdout=subprocess.DEVNULL)

    started = time.monotonic()
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        list(pool.map(one, trees))
    return time.monotonic() - started


def main() -> None:
    """Measure with the newest build there is, and print the ratio."""
    build = artifacts.find()
    package = [sys.executable, "-m", "provision", "package", "-q", str(build.directory), "-o"]
    with tempfile.TemporaryDirectory(prefix="krg-bench-") as name:
        top = Path(name)
        subprocess.run([*package, str(top / "first")], check=True, stdout=subprocess.DEVNULL)
        trees = []
        for deb in sorted((top / "first").glob("*.deb"), key=lambda d: -d.stat().st_size):
            trees.append(top / deb.stem)
            subprocess.run(["dpkg-deb", "-R", deb, trees[-1]], check=True)
        (top / "hand").mkdir()
        hand, ours = [], []
        for number in range(ROUNDS):
            hand.append(by_hand(trees, top / "hand"))
            ours.append(timed([*package, str(top / f"out{number}")]))
    a, b = statistics.median(ours), statistics.median(hand)
    print(f"packages of {build.directory.name}, {len(trees)} at once, {ROUNDS} rounds, medians:")
    print(f"  dpkg-deb alone {b:.2f} s, krg-provision package {a:.2f} s: {a / b:.2f} (goal {GOAL})")
