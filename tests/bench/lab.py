# SPDX-License-Identifier: GPL-2.0-or-later
"""The lab: how long a person waits for a cluster, and for the image of a node with a disk.

The nodes are emulated, with as many processors as this machine has for all of them. The image is
made twice in a cache of its own: from nothing, which loads packages from Debian, and again.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from provision import artifacts
from provision.errors import InputError

KRG = [sys.executable, "-m", "provision", "lab"]
NODES = 3
GOAL_UP, GOAL_IMAGE, GOAL_CACHED = 60.0, 360.0, 1.0
IMAGE = """
import sys
from provision.lab.disk_image import base_image
base_image(sys.argv[1], sys.argv[2])
"""


def timed(argv: list[str], **more: str) -> float:
    """Run a command; return its wall-clock seconds."""
    started = time.monotonic()
    done = subprocess.run(
        argv, env={**os.environ, **more}, stdin=subprocess.DEVNULL, capture_output=True, text=True
    )
    if done.returncode:
        sys.exit(f"{argv}: status {done.returncode}\n{done.stdout}{done.stderr}")
    return time.monotonic() - started


def running(build: Path, rounds: int) -> list[tuple[float, float]]:
    """Return the seconds of ``lab up``, and of ``lab test`` after it, of each round."""
    found = []
    with tempfile.TemporaryDirectory(prefix="krg-bench-") as state:
        for _ in range(rounds):
            up = [*KRG, "up", "--nodes", str(NODES), "--accel", "tcg", "--artifacts", str(build)]
            try:
                found.append(
                    (timed(up, XDG_STATE_HOME=state), timed([*KRG, "test"], XDG_STATE_HOME=state))
                )
            finally:
                timed([*KRG, "down"], XDG_STATE_HOME=state)
    return found


def image(loader: str) -> tuple[float, float]:
    """Return the seconds that a disk's image takes from nothing, and when it is there."""
    with tempfile.TemporaryDirectory(prefix="krg-bench-") as cache:
        argv = [sys.executable, "-c", IMAGE, "x86_64", loader]
        return timed(argv, XDG_CACHE_HOME=cache), timed(argv, XDG_CACHE_HOME=cache)


def main(rounds: int) -> None:
    """Measure, and print a line for each."""
    try:
        build = artifacts.find("kerrighed-2.4.4", "x86_64").directory
    except InputError as error:
        print(f"lab: skipped: {error}; {error.hint}")
    else:
        for up, proof in running(build, rounds):
            print(
                f"lab: {NODES} nodes emulated on {os.cpu_count()} processors: up after {up:.1f} s, "
                f"cluster running and proved after {up + proof:.1f} s (goal {GOAL_UP:g})"
            )
    for loader in ("legacy", "grub2"):
        cold, warm = image(loader)
        print(
            f"lab: image of a node with {loader}: {cold:.1f} s from nothing (goal {GOAL_IMAGE:g}), "
            f"{warm:.2f} s when cached (goal {GOAL_CACHED:g})"
        )
