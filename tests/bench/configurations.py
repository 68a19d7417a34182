# SPDX-License-Identifier: GPL-2.0-or-later
"""Speed and size of what handles configurations: whole processes, in turns.

Each figure is the median of whole processes of one interpreter. What is compared runs in
turns, so that a busy machine slows both. The bare load is bare_load.py.
"""

from __future__ import annotations

import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import kernel_trees
import pytest

from kconfig import tree
from provision.paths import sources_dir

HERE = Path(__file__).resolve().parent
ARCH = "x86_64"
MORE_FILES = 20
LINT = [sys.executable, "-m", "provision", "config", "lint", "--fail-on", "required"]


class Process(NamedTuple):
    """A command to measure; a linter's exit code 1 means findings, not failure."""

    argv: Sequence[str]
    env: Mapping[str, str]


class Run(NamedTuple):
    """Medians: seconds from start to end, the largest size in MB, and seconds of each round."""

    seconds: float
    megabytes: float
    each: tuple[float, ...]

    def over(self, base: Run) -> float:
        """Return the median of the rounds' ratios: a busy minute weighs on both sides alike."""
        return statistics.median(a / b for a, b in zip(self.each, base.each, strict=True))


def measure(rounds: int, processes: Sequence[Process]) -> list[Run]:
    """Run each process once a round, in turns; a first round warms the disk cache."""
    seen: list[list[tuple[float, float]]] = [[] for _ in processes]
    for number in range(rounds + 1):
        for process, found in zip(processes, seen, strict=True):
            once = _once(process)
            if number:
                found.append(once)
    columns = [tuple(zip(*found, strict=True)) for found in seen]
    return [Run(statistics.median(s), statistics.median(mb), s) for s, mb in columns]


def _once(process: Process) -> tuple[float, float]:
    with tempfile.TemporaryFile() as said:
        started = time.perf_counter()
        child = subprocess.Popen(process.argv, env=process.env, stdout=said, stderr=said)
        # Not wait(): only this gives the size of this one child.
        _, status, usage = os.wait4(child.pid, 0)
        seconds = time.perf_counter() - started
        child.returncode = os.waitstatus_to_exitcode(status)
        if child.returncode not in (0, 1):
            said.seek(0)
            sys.exit(f"{' '.join(process.argv)}:\n{said.read().decode('utf-8', 'replace')}")
    return seconds, usage.ru_maxrss / 1024


def environment(work: Path) -> dict[str, str]:
    """Return the environment of all processes: modules are compiled once, as when installed."""
    env = {**os.environ, "PYTHONPYCACHEPREFIX": str(work / "compiled")}
    env.pop("PYTHONDONTWRITEBYTECODE", None)
    return env


def bare(where: Path, env: Mapping[str, str]) -> Process:
    """Return the process that loads a tree with Kconfiglib and does nothing else."""
    argv = [sys.executable, str(HERE / "bare_load.py"), tree.start(where, ARCH)]
    return Process(argv, {**env, **tree.settings(where, ARCH)})


def trees(work: Path, modern: Path | None) -> tuple[Path, Path | None]:
    """Return 2.6.20, and 6.12: the one given, or Debian's; None when it is not to be had."""
    archive = sources_dir() / kernel_trees.ARCHIVES["2.6.20"]
    if not archive.is_file():
        sys.exit(f"no {archive}; krg-provision fetch gets it")
    old = kernel_trees.unpack(archive, work / "linux-2.6.20")
    if modern is None:
        try:
            modern = kernel_trees.from_debian("6.12", work)
        except pytest.skip.Exception as error:
            print(f"no 6.12: {error} (--modern-tree DIR takes one that is there)")
    return old, modern


def show(what: str, value: str, goal: str, *, met: bool) -> None:
    """Print one line of the table."""
    print(f"  {what:<58} {value:>22}   goal {goal:<8} {'' if met else 'MISSED'}")


def starting(rounds: int, config: Path, work: Path) -> None:
    """Measure what needs no tree, over a Python that does nothing."""
    copies = [str(shutil.copy(config, work / f"{n}.config")) for n in range(MORE_FILES)]
    env = environment(work)
    nothing, page, lint, many = measure(
        rounds,
        [
            Process([sys.executable, "-c", "pass"], env),
            Process([sys.executable, "-m", "provision", "--help"], env),
            Process([*LINT, str(config)], env),
            Process([*LINT, str(config), *copies], env),
        ],
    )
    print(f"python -c pass: {1000 * nothing.seconds:.0f} ms; over that:")
    for what, seconds, goal in (
        ("krg-provision --help", page.seconds - nothing.seconds, 120),
        ("lint of one file, policy only", lint.seconds - nothing.seconds, 150),
        ("each further file", (many.seconds - lint.seconds) / MORE_FILES, 15),
    ):
        ms = 1000 * seconds
        show(what, f"{ms:.1f} ms", f"{goal} ms", met=ms <= goal)


def in_tree(rounds: int, where: Path, config: Path, goal: float, work: Path) -> None:
    """Measure a lint against a tree, over a bare load of it."""
    name = str(tree.kernel_version(where))
    copies = [str(shutil.copy(config, work / f"{n}.config")) for n in range(MORE_FILES)]
    lint = [*LINT, "--tree", str(where), "--arch", ARCH, str(config)]
    env = environment(work)
    base, ours, many = measure(
        rounds, [bare(where, env), Process(lint, env), Process([*lint, *copies], env)]
    )
    ratio = ours.over(base)
    print(f"{name}: bare load {base.seconds:.3f} s, {base.megabytes:.0f} MB")
    show("lint of one file", f"{ours.seconds:.3f} s, {ratio:.2f}", f"{goal}", met=ratio <= goal)
    show("its size", f"{ours.megabytes:.0f} MB", "400 MB", met=ours.megabytes < 400)
    more = 1000 * (many.seconds - ours.seconds) / MORE_FILES
    print(f"  {'each further file':<58} {more:>19.1f} ms")


def main(rounds: int, modern: Path | None) -> None:
    """Print the table."""
    with tempfile.TemporaryDirectory(prefix="krg-bench-") as name:
        work = Path(name)
        old, new = trees(work, modern)
        config = old / f"arch/{ARCH}/defconfig"
        starting(rounds, config, work)
        in_tree(rounds, old, config, 1.5, work)
        if new is not None:
            config = new / f"arch/x86/configs/{ARCH}_defconfig"
            in_tree(max(3, rounds // 3), new, config, 1.3, work)
